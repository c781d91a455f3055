import { once } from 'node:events'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { multiaddr } from '@multiformats/multiaddr'
import { z } from 'zod'

/** A listen address as it was asked for → the port it got. */
const kept = z.record(z.string(), z.int().min(1).max(65_535))

/**
 * Gives an address that asks for any port the one it had in its last life: others come back to where a peer was, and
 * when all of them stopped at once nobody is left who knows better.
 */
export class KeptPorts {
  readonly #path: string
  readonly #asked: readonly string[]

  constructor(dir: string, asked: readonly string[]) {
    this.#path = join(dir, 'ports.json')
    this.#asked = asked
  }

  /** What to listen on. A port that somebody else has taken meanwhile is left to them. */
  async listen(): Promise<readonly string[]> {
    // A torn file costs only the memory as well.
    const before = await readFile(this.#path, 'utf8').then(text => kept.parse(JSON.parse(text))).catch((): z.infer<typeof kept> => ({}))
    return Promise.all(this.#asked.map(async address => {
      const [host, port] = [hostOf(address), before[address]]
      return host !== undefined && port !== undefined && await isFree(host, port) ? address.replace(ANY_PORT, `/tcp/${port}`) : address
    }))
  }

  /** Remembers where we listen now. A folder that cannot be written costs only the memory. */
  async keep(listening: readonly string[]): Promise<void> {
    const ports: Record<string, number> = {}
    for (const address of this.#asked) {
      const host = hostOf(address)
      const family = address.split('/')[1] ?? ''
      const any = host === '0.0.0.0' || host === '::'
      const got = listening.find(one => (any ? one.startsWith(`/${family}/`) : one.startsWith(`/${family}/${host}/`)) && one.includes('/tcp/') && !one.includes('/p2p-circuit'))
      const port = host === undefined || got === undefined ? undefined : multiaddr(got).getComponents().find(({ name }) => name === 'tcp')?.value
      if (port !== undefined) ports[address] = Number(port)
    }
    if (Object.keys(ports).length === 0) return
    await writeFile(`${this.#path}.part`, `${JSON.stringify(ports)}\n`, { mode: 0o600 }).then(() => rename(`${this.#path}.part`, this.#path)).catch(() => undefined)
  }
}

const ANY_PORT = /\/tcp\/0(?=$|\/)/

/** The host of an address that asks for any TCP port. */
function hostOf(address: string): string | undefined {
  const [, family, host] = ANY_PORT.test(address) ? address.split('/') : []
  return family === 'ip4' || family === 'ip6' ? host : undefined
}

async function isFree(host: string, port: number): Promise<boolean> {
  const server = createServer()
  try {
    server.listen({ host, port })
    await once(server, 'listening')
    return true
  } catch {
    return false
  } finally {
    if (server.listening) {
      server.close()
      await once(server, 'close')
    }
  }
}
