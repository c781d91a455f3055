import assert from 'node:assert/strict'
import { gather } from '../../src/lib/gather.ts'

async function * stream(...parts: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield * parts
}

describe('a stream that is held whole', () => {
  it('is its parts one after the other, up to a limit', async () => {
    const parts = [Uint8Array.of(1, 2), new Uint8Array(0), Uint8Array.of(3)]
    assert.deepEqual(await gather(stream(...parts), 3, () => new Error('too large')), Uint8Array.of(1, 2, 3))
    await assert.rejects(gather(stream(...parts), 2, () => new Error('too large')), /too large/)
  })
})
