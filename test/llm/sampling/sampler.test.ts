import assert from 'node:assert/strict'
import fc from 'fast-check'
import { samplingParams, type SamplingParams } from '../../../protocols/generation.ts'
import { greatest, greatestOf, logSumExp } from '../../../src/llm/sampling/ranking.ts'
import { Sampler } from '../../../src/llm/sampling/sampler.ts'
import { TruncatedDraw } from '../../../src/llm/sampling/truncate.ts'

const params = (given: Partial<SamplingParams> = {}): SamplingParams => samplingParams.parse({ seed: 1, ...given })
const logits = (...values: readonly number[]): Float32Array => Float32Array.from(values)
const next = (given: Partial<SamplingParams>, values: Float32Array, position = 0): number | undefined => new Sampler(params(given), []).next(values, position, undefined, undefined)?.token

/** The kept ids by the book: sort everything, take the prefixes. */
function keptByTheBook(values: Float32Array, { temperature, topK, topP, minP }: Pick<SamplingParams, 'temperature' | 'topK' | 'topP' | 'minP'>): ReadonlySet<number> {
  const most = Math.max(...values)
  const ranked = [...values.keys()].sort((a, b) => values[b]! - values[a]! || a - b).slice(0, topK > 0 ? topK : undefined)
  const weights = ranked.map(id => Math.exp((values[id]! - most) / temperature))
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  let sum = 0
  const nucleus = ranked.filter((_, at) => {
    const inside = sum < topP * total
    sum += weights[at]!
    return topP === 1 || inside || at === 0
  })
  return new Set(nucleus.filter(id => Math.exp((values[id]! - most) / temperature) >= minP * (1 - 1e-12)))
}

describe('the sampler', () => {
  it('takes the greatest logit at temperature 0, the lowest id of a tie, and never what is not a number', () => {
    assert.equal(next({ temperature: 0 }, logits(1, 3, 3, 2)), 1)
    assert.equal(next({ temperature: 0 }, logits(Number.NaN, 0, -Infinity)), 1)
    assert.equal(next({ temperature: 0 }, logits(-Infinity, Number.NaN)), undefined)
  })

  it('draws the same again for the same seed and position, whatever was drawn before', () => {
    const values = Float32Array.from({ length: 1_000 }, (_, id) => Math.sin(id) * 3)
    const sampler = new Sampler(params({ seed: 42 }), [])
    const once = Array.from({ length: 50 }, (_, position) => sampler.next(values, position, undefined, undefined)?.token)
    const backwards = Array.from({ length: 50 }, (_, at) => new Sampler(params({ seed: 42 }), []).next(values, 49 - at, undefined, undefined)?.token)
    assert.deepEqual(backwards.reverse(), once)
    assert.ok(new Set(once).size > 20)
  })

  it('draws in proportion to the probabilities', () => {
    const values = logits(0, Math.log(2), Math.log(5), -Infinity)
    const counts = [0, 0, 0, 0]
    const draw = new TruncatedDraw()
    for (let at = 0; at < 8_000; at += 1) counts[draw.draw(values, { temperature: 1, topK: 0, topP: 1, minP: 0 }, (at + 0.5) / 8_000)]! += 1
    assert.deepEqual(counts, [1_000, 2_000, 5_000, 0])
  })

  it('keeps what top-k, top-p and min-p keep by the book, for any logits', () => {
    const shape = fc.record({
      values: fc.array(fc.integer({ min: -320, max: 320 }).map(eighths => eighths / 8), { minLength: 1, maxLength: 80 }).map(list => Float32Array.from(list)),
      temperature: fc.constantFrom(0.05, 0.5, 1, 3), topK: fc.constantFrom(0, 1, 2, 5, 40, 2_000), topP: fc.constantFrom(1, 0.9999, 0.9, 0.5, 0.1, 0), minP: fc.constantFrom(0, 0.01, 0.2, 1),
    })
    fc.assert(fc.property(shape, ({ values, ...truncation }) => {
      const kept = keptByTheBook(values, truncation)
      const draw = new TruncatedDraw()
      const drawn = new Set(Array.from({ length: 400 }, (_, at) => draw.draw(values, truncation, at / 400)))
      for (const id of drawn) assert.ok(kept.has(id), `${id} was drawn, but is not one of ${[...kept].join()}`)
      const most = Math.max(...values)
      const heavy = [...kept].filter(id => Math.exp((values[id]! - most) / truncation.temperature) > 0.02 * [...kept].reduce((sum, other) => sum + Math.exp((values[other]! - most) / truncation.temperature), 0))
      for (const id of heavy) assert.ok(drawn.has(id), `${id} is kept, but was not drawn`)
    }), { numRuns: 300 })
  })

  it('keeps as many of a large vocabulary as top-k says, with a heap or without', () => {
    const values = Float32Array.from({ length: 6_000 }, (_, id) => Math.sin(id * id) * 6)
    for (const topK of [900, 3_000]) {
      const kept = keptByTheBook(values, { temperature: 2, topK, topP: 0.95, minP: 0 })
      const draw = new TruncatedDraw()
      const drawn = Array.from({ length: 400 }, (_, at) => draw.draw(values, { temperature: 2, topK, topP: 0.95, minP: 0 }, at / 400))
      assert.deepEqual(drawn.filter(id => !kept.has(id)), [])
      assert.deepEqual(drawn.filter((id, at) => at > 0 && id < drawn[at - 1]!), [], 'ids rise with the draw')
      assert.equal(draw.draw(values, { temperature: 2, topK, topP: 0.95, minP: 0 }, 0), Math.min(...kept))
      assert.equal(draw.draw(values, { temperature: 2, topK, topP: 0.95, minP: 0 }, 1 - 2 ** -53), Math.max(...kept))
    }
  })

  it('adds a bias, and with -1000 takes a token out', () => {
    assert.equal(next({ temperature: 0, logitBias: { 0: 5 } }, logits(1, 3)), 0)
    assert.equal(next({ temperature: 0, logitBias: { 1: -1_000, 99: 10 } }, logits(1, 3)), 0)
  })

  it('counts prompt and answer for the repetition penalty, the answer alone for presence and frequency', () => {
    const values = logits(2, 1.9, -1)
    const repeats = new Sampler(params({ temperature: 0, repetitionPenalty: 1.5 }), [0])
    assert.equal(repeats.next(values, 0, undefined, undefined)?.token, 1)
    repeats.told(1)
    assert.equal(repeats.next(values, 1, undefined, undefined)?.token, 0)
    const present = new Sampler(params({ temperature: 0, presencePenalty: 0.2 }), [0])
    assert.equal(present.next(values, 0, undefined, undefined)?.token, 0)
    present.told(0)
    assert.equal(present.next(values, 1, undefined, undefined)?.token, 1)
    const frequent = new Sampler(params({ temperature: 0, frequencyPenalty: 0.06 }), [])
    frequent.told(0)
    assert.equal(frequent.next(values, 1, undefined, undefined)?.token, 0)
    frequent.told(0)
    assert.equal(frequent.next(values, 2, undefined, undefined)?.token, 1)
    assert.deepEqual([...values], [...logits(2, 1.9, -1)], 'the logits are the caller\'s')
  })

  it('reports the model\'s own distribution, before bias, penalties and truncation', () => {
    const values = logits(0, 1, 2, 3)
    const sampler = new Sampler(params({ temperature: 0, topK: 1, logitBias: { 0: 100 } }), [])
    const drawn = sampler.next(values, 0, undefined, 2)
    const sum = Math.log([0, 1, 2, 3].reduce((total, value) => total + Math.exp(value), 0))
    assert.equal(drawn?.token, 0)
    assert.ok(Math.abs(drawn.logprob! + sum) < 1e-9)
    assert.deepEqual(drawn.top?.map(({ token }) => token), [3, 2])
    assert.ok(Math.abs(drawn.top[0]!.logprob - (3 - sum)) < 1e-9)
  })

  it('keeps to the mask, and has nothing where the mask has nothing', () => {
    const sampler = new Sampler(params(), [])
    assert.equal(sampler.next(logits(9, 9, 1), 0, Uint32Array.of(0b100), undefined)?.token, 2)
    assert.equal(sampler.next(logits(9, 9, 1), 0, Uint32Array.of(0), undefined), undefined)
  })

  it('says when the greatest logit alone decides', () => {
    assert.equal(Sampler.greedy(params({ temperature: 0 })), true)
    assert.equal(Sampler.greedy(params({ temperature: 0, logitBias: { 1: 1 } })), false)
    assert.equal(Sampler.greedy(params({ temperature: 0, repetitionPenalty: 1.1 })), false)
    assert.equal(Sampler.greedy(params()), false)
  })
})

describe('ranking', () => {
  it('agrees with sorting, for any logits', () => {
    const values = fc.array(fc.oneof(fc.double({ min: -10, max: 10, noNaN: true }), fc.constantFrom(1, 2, -Infinity)), { maxLength: 60 }).map(list => Float32Array.from(list))
    fc.assert(fc.property(values, fc.integer({ min: 1, max: 20 }), (given, count) => {
      const sorted = [...given.keys()].filter(id => given[id]! > -Infinity).sort((a, b) => given[b]! - given[a]! || a - b)
      assert.deepEqual(greatestOf(given, count), sorted.slice(0, count))
      assert.equal(greatest(given), sorted[0] ?? -1)
      const sum = Math.log(sorted.reduce((total, id) => total + Math.exp(given[id]!), 0))
      assert.ok(sorted.length === 0 ? logSumExp(given) === -Infinity : Math.abs(logSumExp(given) - sum) < 1e-9)
    }))
  })
})
