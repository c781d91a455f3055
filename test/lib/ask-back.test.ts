import assert from 'node:assert/strict'
import { Kernel } from '../../simulations/kernel.ts'
import { SeededRandom } from '../../simulations/random.ts'
import { AskBack } from '../../src/lib/ask-back.ts'

describe('asking back', () => {
  it('asks each peer once within a tenth of a second, however often it asked meanwhile, and again when it asks later', async () => {
    const kernel = new Kernel(1)
    const asked: { readonly peer: string; readonly at: number }[] = []
    const askBack = new AskBack(kernel.clock(), new SeededRandom('ask back'), peer => void asked.push({ peer, at: kernel.now }))
    for (const peer of ['a', 'b', 'a', 'a']) askBack.soon(peer)
    assert.deepEqual(asked, [])
    await kernel.run(100)
    assert.deepEqual(asked.map(({ peer }) => peer).sort(), ['a', 'b'])
    assert.ok(asked.every(({ at }) => at < 100))
    askBack.soon('a')
    await kernel.run(200)
    assert.deepEqual(asked.map(({ peer }) => peer).sort(), ['a', 'a', 'b'])
  })
})
