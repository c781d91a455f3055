import assert from 'node:assert/strict'
import { z } from 'zod'
import type { ContentStore, Progress } from '../../src/ports.ts'

/** Two stores of two peers that are connected. `short` ends soon, for what must not wait for ever. */
export type StoresUnderTest = { readonly mine: ContentStore; readonly theirs: ContentStore; short(): AbortSignal; close(): Promise<void> }

async function * chunks(bytes: Uint8Array, size = 300_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size)
}

async function read(bytes: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  for await (const part of bytes) parts.push(part)
  return new Uint8Array(Buffer.concat(parts))
}

/** Bytes of which no two blocks are equal. */
export function sample(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; at += 1) bytes[at] = (Math.imul(at + seed, 2_654_435_761) >>> 13) + (at >>> 20) * 31
  return bytes
}

const LEAF = 1_048_576
const UNKNOWN = 'bafkreieq5jui4j25lacwomsqgjeswwl3y5zcdrresptwgmfylxo2depppq'

/** What every `ContentStore` promises. Run on the real one and on the simulator's. */
export function contentConformance(name: string, setup: () => Promise<StoresUnderTest>): void {
  describe(`content: ${name}`, () => {
    let stores: StoresUnderTest
    before(async () => {
      stores = await setup()
    })
    after(() => stores.close())

    it('a small file has the CID that any IPFS tool gives it', async () => {
      const { cid, size } = await stores.mine.add(chunks(new TextEncoder().encode('hello world'), 5))
      assert.deepEqual({ cid, size }, { cid: 'bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e', size: 11 })
      assert.equal(await stores.mine.has(cid), true)
      assert.equal(new TextDecoder().decode(await read(stores.theirs.cat(cid))), 'hello world')
    })

    it('an empty file is a file', async () => {
      const { cid, size } = await stores.mine.add(chunks(new Uint8Array(0)))
      assert.equal(size, 0)
      assert.equal((await read(stores.mine.cat(cid))).byteLength, 0)
      await stores.theirs.fetch(cid)
      assert.equal(await stores.theirs.has(cid), true)
    })

    it('a file of several leaves is fetched whole, with its progress told', async () => {
      const file = sample(3 * LEAF + 17)
      const { cid, size } = await stores.mine.add(chunks(file))
      assert.equal(size, file.byteLength)
      assert.equal(await stores.theirs.has(cid), false)
      const told: Progress[] = []
      await stores.theirs.fetch(cid, { progress: progress => told.push(progress) })
      assert.equal(await stores.theirs.has(cid), true)
      assert.equal(told.at(-1)?.totalBytes, file.byteLength)
      assert.equal(told.at(-1)?.doneBytes, file.byteLength)
      assert.ok(told.every((progress, at) => progress.doneBytes >= (told[at - 1]?.doneBytes ?? 0)))
      assert.deepEqual(await read(stores.theirs.cat(cid)), file)
    })

    it('any part of a file can be read, here or from afar', async () => {
      const file = sample(2 * LEAF + 100, 7)
      const { cid } = await stores.mine.add(chunks(file))
      for (const [offset, length] of [[0, 1], [LEAF - 3, 6], [LEAF, LEAF], [2 * LEAF + 90, 100], [file.byteLength, 5], [0, 0]] as const) {
        const expected = file.subarray(offset, offset + length)
        assert.deepEqual(await read(stores.theirs.cat(cid, { offset, length })), new Uint8Array(expected), `${offset}+${length} from afar`)
        assert.deepEqual(await read(stores.mine.cat(cid, { offset, length })), new Uint8Array(expected), `${offset}+${length} here`)
      }
    })

    it('the same bytes are the same file, however they came in', async () => {
      const file = sample(LEAF + 1, 3)
      const one = await stores.mine.add(chunks(file, 1_000_000))
      const other = await stores.theirs.add(chunks(file, 77_777))
      assert.equal(one.cid, other.cid)
    })

    it('whoever puts or pins the same at the same time gets the same answer', async () => {
      const file = sample(LEAF + 5)
      const added = await Promise.all(Array.from({ length: 4 }, () => stores.mine.add(chunks(file))))
      const [first] = added
      assert.deepEqual(added, Array.from({ length: 4 }, () => first))
      await Promise.all(Array.from({ length: 4 }, () => stores.mine.pin(first!.cid)))
      await Promise.all(Array.from({ length: 4 }, () => stores.mine.unpin(first!.cid)))
      assert.equal(await stores.mine.has(first!.cid), true)
    })

    it('a record comes back as it was put, from either side, and is checked', async () => {
      const schema = z.object({ name: z.string(), bytes: z.custom<Uint8Array>(value => value instanceof Uint8Array) })
      const cid = await stores.mine.putRecord({ name: 'x', bytes: Uint8Array.of(1, 2, 3), absent: undefined })
      assert.equal(await stores.mine.putRecord({ bytes: Uint8Array.of(1, 2, 3), name: 'x' }), cid)
      const back = await stores.theirs.getRecord(cid, schema)
      assert.deepEqual({ name: back.name, bytes: [...back.bytes] }, { name: 'x', bytes: [1, 2, 3] })
      await assert.rejects(stores.mine.getRecord(cid, z.object({ name: z.number() })), { code: 'MESSAGE_INVALID' })
    })

    it('what nobody holds is unavailable, not waited for for ever', async () => {
      await assert.rejects(stores.mine.fetch(UNKNOWN, { signal: stores.short() }), { code: /CONTENT_UNAVAILABLE|DEADLINE/ })
      assert.equal(await stores.mine.has(UNKNOWN), false)
    })

    it('pinning and unpinning may be repeated', async () => {
      const { cid } = await stores.mine.add(chunks(sample(100, 9)))
      await stores.mine.pin(cid)
      await stores.mine.pin(cid)
      await stores.mine.unpin(cid)
      await stores.mine.unpin(cid)
      assert.equal(await stores.mine.has(cid), true)
    })
  })
}
