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
