import assert from 'node:assert/strict'
import { z } from 'zod'
import { encode, recordCid } from '../../protocols/codec.ts'
import { ContentWorld } from '../../simulations/content.ts'
import { acquaint, pair, PEER_A, PEER_B } from './pair.ts'

async function* chunks(...parts: Uint8Array[]): AsyncIterable<Uint8Array> {
  yield* parts
}

async function read(bytes: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  for await (const part of bytes) parts.push(part)
  return Uint8Array.from(parts.flatMap(part => [...part]))
}

async function stores() {
  const world = pair()
  await acquaint(world)
  const content = new ContentWorld(world.kernel, world.net)
  return { ...world, content, mine: content.store(PEER_A, world.lives[0]), theirs: content.store(PEER_B, world.lives[1]) }
}

describe('simulated content', () => {
  it('a small file has the CID that any IPFS tool gives it', async () => {
    const { kernel, mine } = await stores()
    const { cid } = await kernel.drive(mine.add(chunks(new TextEncoder().encode('hello '), new TextEncoder().encode('world'))))
    assert.equal(cid, 'bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e')
  })

  it('a file of several leaves is fetched whole, and any part of it can be read', async () => {
    const { kernel, mine, theirs } = await stores()
    const file = Uint8Array.from({ length: 2_500_000 }, (_, at) => at % 251)
    const { cid, size } = await kernel.drive(mine.add(chunks(file)))
    assert.equal(size, file.byteLength)
    assert.equal(await kernel.drive(theirs.has(cid)), false)
    await kernel.drive(theirs.fetch(cid))
    assert.equal(await kernel.drive(theirs.has(cid)), true)
    assert.deepEqual(await kernel.drive(read(theirs.cat(cid, { offset: 1_048_570, length: 20 }))), file.slice(1_048_570, 1_048_590))
  })

  it('a record is checked by its schema and by its CID', async () => {
    const { kernel, mine, theirs, content } = await stores()
    const cid = await kernel.drive(mine.putRecord({ n: 1 }))
    assert.equal(cid, recordCid(encode({ n: 1 })))
    assert.deepEqual(await kernel.drive(theirs.getRecord(cid, z.object({ n: z.number() }))), { n: 1 })
    await assert.rejects(kernel.drive(theirs.getRecord(cid, z.object({ n: z.string() }))), { code: 'MESSAGE_INVALID' })
    const forged = recordCid(encode({ n: 2 }))
    content.local(PEER_A).set(forged, encode({ n: 3 }))
    await assert.rejects(kernel.drive(theirs.getRecord(forged, z.unknown())), { code: 'CONTENT_CORRUPT' })
  })

  it('what only an unreachable peer holds is unavailable, until it can be reached', async () => {
    const { kernel, net, mine, theirs } = await stores()
    const cid = await kernel.drive(mine.putRecord({ n: 1 }))
    const heal = net.partition([PEER_A], [PEER_B])
    await assert.rejects(kernel.drive(theirs.fetch(cid)), { code: 'CONTENT_UNAVAILABLE' })
    heal()
    await kernel.drive(theirs.fetch(cid))
  })
})
