import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import { z } from 'zod'
import { DaemonClient } from '../../node/cli/daemon-client.ts'

describe('a command whose peer goes away', () => {
  let server: Server
  let client: DaemonClient
  before(async () => {
    server = createServer((request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' })
      if (request.url === '/healthz') return void response.end('{}')
      response.write('{"a":1}\n{"b"', () => (request.url === '/whole' ? response.end(':2}') : response.socket?.destroy()))
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = z.object({ port: z.int() }).parse(server.address())
    client = new DaemonClient({ http: `http://127.0.0.1:${port}`, token: 't', pid: 1, peer: 'p' }, new AbortController().signal)
  })
  after(() => void server.close())

  it('in the middle of an answer says so, and what to do', async () => {
    const said = { code: 'PEER_UNREACHABLE', message: /went away while it answered.*ask any other peer/ }
    await assert.rejects(client.get('/'), said)
    const heard: unknown[] = []
    await assert.rejects(async () => {
      for await (const line of client.lines('GET', '/')) heard.push(line)
    }, said)
    assert.deepEqual(heard, [{ a: 1 }])
  })

  it('and one whose peer stays gets all of it', async () => {
    const heard: unknown[] = []
    for await (const line of client.lines('GET', '/whole')) heard.push(line)
    assert.deepEqual(heard, [{ a: 1 }, { b: 2 }])
  })
})

describe('a command whose peer is silent', () => {
  /** A peer at `server`, in whose name nobody ends anything. */
  const at = async (server: Server, thereMs: number): Promise<DaemonClient> => {
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const { port } = z.object({ port: z.int() }).parse(server.address())
    return new DaemonClient({ http: `http://127.0.0.1:${port}`, token: 't', pid: 77, peer: 'p' }, new AbortController().signal, { silentMs: 20, thereMs })
  }

  it('is told that it was stopped or hangs, and what to do; a long request is not even sent', async () => {
    const seen: (string | undefined)[] = []
    // As the kernel takes connections for a process that is stopped.
    const server = createServer(({ url }) => void seen.push(url))
    const client = await at(server, 50)
    const said = { code: 'PEER_UNREACHABLE', message: /is there and says nothing: it was stopped, or hangs.*kill -CONT 77.*kill -9 77.*aios up/ }
    try {
      await assert.rejects(client.get('/short'), said)
      await assert.rejects(client.send('POST', '/brief'), said)
      await assert.rejects(client.sendLong('POST', '/long', {}), said)
      await assert.rejects(client.lines('GET', '/lines').next(), said)
      assert.deepEqual([...new Set(seen)].sort(), ['/brief', '/healthz', '/short'])
    } finally {
      server.closeAllConnections()
      server.close()
    }
  })

  it('and works on it gets its answer, however long that takes', async () => {
    let asked = 0
    let answer = (): void => assert.fail('nobody asked')
    const server = createServer(({ url }, response) => {
      if (url !== '/healthz') answer = () => void response.end('{"done":true}')
      else response.end('{}')
      if (url === '/healthz' && (asked += 1) === 3) answer()
    })
    const client = await at(server, 30_000)
    try {
      assert.deepEqual(await client.send('POST', '/slow'), { done: true })
    } finally {
      server.close()
    }
  })
})
