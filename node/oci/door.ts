import { createServer, type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import type { Ports } from '../../src/ports.ts'
import { isLoopback, sameToken } from '../gateway/guard.ts'
import { listen, readAddress } from '../gateway/listen.ts'
import type { Distribution } from './distribution.ts'
import { OciError } from './failure.ts'
import type { Uploads } from './uploads.ts'

export type OciDoor = { readonly address: string; close(): Promise<void> }

/** Listens for container tools on `HOST:PORT`; beyond loopback they log in with any user name and the token. Throws BAD_INPUT. */
export async function openOciDoor(parts: { readonly ports: Pick<Ports, 'clock' | 'content' | 'journal' | 'registries'>; readonly dir: string; readonly token: string }, at: string): Promise<OciDoor> {
  const address = readAddress('--oci', at)
  let loading: Promise<{ readonly distribution: Distribution; readonly uploads: Uploads }> | undefined
  const load = async (): Promise<{ readonly distribution: Distribution; readonly uploads: Uploads }> => {
    const [{ Distribution }, { Images }, { Uploads }] = await Promise.all([import('./distribution.ts'), import('./images.ts'), import('./uploads.ts')])
    const uploads = new Uploads(join(parts.dir, 'oci-uploads'), () => parts.ports.clock.monotonic())
    await uploads.start()
    return { uploads, distribution: new Distribution(new Images(parts.ports), uploads, request => admit(request, parts.token, address.loopback)) }
  }
  const server = createServer((request, response) => {
    loading ??= load()
    loading.then(({ distribution }) => distribution.serve(request, response), () => response.writeHead(500).end())
  })
  // A layer of many GiB takes as long as it takes.
  server.requestTimeout = 0
  const reached = await listen(server, address)
  return {
    address: reached,
    async close() {
      server.closeAllConnections()
      await new Promise<void>(resolve => server.close(() => resolve()))
      await (await loading)?.uploads.close()
    },
  }
}

/** As the HTTP door's guard, in the way that container tools log in. Throws UNAUTHORIZED or DENIED. */
function admit(request: IncomingMessage, token: string, loopback: boolean): void {
  const given = /^(Basic|Bearer) (.+)$/i.exec(request.headers.authorization ?? '')
  const secret = given === null ? undefined : given[1]?.toLowerCase() === 'bearer' ? given[2] : Buffer.from(given[2] ?? '', 'base64').toString().replace(/^[^:]*:/, '')
  if (secret !== undefined && sameToken(secret, token)) return
  if (!loopback) throw new OciError('UNAUTHORIZED', 'log in with any user name and the token of daemon.json', { 'www-authenticate': 'Basic realm="aios"' })
  const name = (request.headers.host ?? '').replace(/:\d+$/, '').replace(/^\[|\]$/g, '')
  if (!isLoopback(name) || request.headers.origin !== undefined) throw new OciError('DENIED', 'this door answers to programs of this host')
}
