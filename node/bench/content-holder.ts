/** The other side of the content bench: holds one file, and gives it over plain HTTP too. `dir megabytes`. */
import { createReadStream } from 'node:fs'
import { open as openFile } from 'node:fs/promises'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { random, startAdapters } from './peers.ts'

const BLOCK_BYTES = 1_048_576
const [dir = '', megabytes = '200'] = process.argv.slice(2)
const { open, store } = await startAdapters(dir, true)
const path = join(dir, 'asset.bin')
const file = await openFile(path, 'w')
for (let at = 0; at < Number(megabytes); at += 1) await file.write(random.bytes(1_000_000))
await file.close()
const { cid, size } = await store!.content.add(createReadStream(path, { highWaterMark: BLOCK_BYTES }))
const server = createServer((_, response) => void pipeline(createReadStream(path, { highWaterMark: BLOCK_BYTES }), response).catch(() => undefined))
server.listen(0, '127.0.0.1')
await once(server, 'listening')
const address = server.address()
console.log(JSON.stringify({ addresses: open.network.addresses(), cid, size, port: typeof address === 'object' ? address?.port : 0 }))
