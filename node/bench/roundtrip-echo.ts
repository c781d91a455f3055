/** The other side of the roundtrip bench: echoes calls, and the same bytes over bare TCP. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import { invoke } from '../../protocols/invoke.ts'
import { startAdapters } from './peers.ts'

const [dir = '', lane = ''] = process.argv.slice(2)
const { open } = await startAdapters(dir, false, lane === 'tls' ? 'tls' : true)
open.network.accept(invoke, async stream => {
  for await (const { body } of stream) await stream.send({ header: { kind: 'output', last: true }, body })
})
const server = createServer({ noDelay: true }, socket => socket.on('error', () => undefined).pipe(socket))
server.listen(0, '127.0.0.1')
await once(server, 'listening')
const address = server.address()
console.log(JSON.stringify({ addresses: open.network.addresses(), port: typeof address === 'object' ? address?.port : 0 }))
