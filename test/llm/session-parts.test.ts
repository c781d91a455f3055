import assert from 'node:assert/strict'
import type { GenerationEvent } from '../../protocols/generation.ts'
import { prefixHashes } from '../../src/llm/prefix.ts'
import { StepTimes } from '../../src/llm/step-times.ts'
import { TokenLog } from '../../src/llm/token-log.ts'

const token = (index: number): GenerationEvent => ({ kind: 'token', index, token: index + 100, text: '' })
const END: GenerationEvent = { kind: 'end', reason: 'length', text: '', promptTokens: 1, cachedTokens: 0, tokens: 2 }

async function collect(events: AsyncIterable<GenerationEvent>): Promise<readonly GenerationEvent[]> {
  const all: GenerationEvent[] = []
  for await (const event of events) all.push(event)
  return all
}

describe('prefix hashes', () => {
  const prompt = Array.from({ length: 200 }, (_, at) => at)

  it('cover each full block of 64 with all before it, and never the last token', () => {
    assert.equal(prefixHashes('m', prompt).length, 3)
    assert.equal(prefixHashes('m', prompt.slice(0, 64)).length, 0)
    assert.equal(prefixHashes('m', prompt.slice(0, 65)).length, 1)
    assert.deepEqual(prefixHashes('m', prompt.slice(0, 130)), prefixHashes('m', prompt).slice(0, 2))
  })

  it('differ from the first token on that differs, and from model to model', () => {
    const other = prompt.with(70, 7)
    assert.equal(prefixHashes('m', other)[0], prefixHashes('m', prompt)[0])
    assert.notEqual(prefixHashes('m', other)[1], prefixHashes('m', prompt)[1])
    assert.notEqual(prefixHashes('m', other)[2], prefixHashes('m', prompt)[2])
    assert.notEqual(prefixHashes('n', prompt)[0], prefixHashes('m', prompt)[0])
  })
})

describe('a token log', () => {
  it('gives out what is safe, in order, to readers that came before and after', async () => {
    const log = new TokenLog()
    const early = collect(log.read(0, new AbortController().signal))
    log.append(token(0), token(1))
    log.release(1)
    log.append(END)
    log.release(3)
    assert.deepEqual(await early, [token(0), token(1), END])
    assert.deepEqual(await collect(log.read(1, new AbortController().signal)), [token(1), END])
    assert.deepEqual(await collect(log.read(9, new AbortController().signal)), [END])
  })

  it('keeps back what no other peer has, and lets readers go when it is closed or they leave', async () => {
    const log = new TokenLog()
    log.append(token(0))
    const leaving = new AbortController()
    const reading = [collect(log.read(0, leaving.signal)), collect(log.read(0, new AbortController().signal))]
    leaving.abort()
    log.close()
    assert.deepEqual(await Promise.all(reading), [[], []])
  })

  it('takes the word of a newer origin, and no gap', () => {
    const log = new TokenLog([token(0), token(1)])
    assert.equal(log.replace(3, [token(3)]), false)
    assert.equal(log.replace(1, [token(1), token(2)]), true)
    assert.deepEqual(log.tokens(), [100, 101, 102])
  })
})

describe('patience with a chain', () => {
  it('follows its slowest steps, and grows when nothing was wrong', () => {
    const times = new StepTimes()
    const unknown = times.patience(1)
    for (let at = 0; at < 100; at += 1) times.took(1, 300)
    assert.equal(times.patience(1), 900)
    assert.ok(unknown > 900)
    times.strike()
    assert.equal(times.patience(1), 1_800)
    times.took(1, 10)
    assert.equal(times.patience(1), 900)
  })
})
