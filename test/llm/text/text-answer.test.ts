import assert from 'node:assert/strict'
import { generationRequest, type GenerationRequest } from '../../../protocols/generation.ts'
import { drawAt } from '../../../src/llm/sampling/philox.ts'
import { ModelText } from '../../../src/llm/text/model-text.ts'
import { TextAnswer } from '../../../src/llm/text/text-answer.ts'
import { byteTokenizer } from '../byte-tokenizer.ts'

const text = new ModelText(byteTokenizer(['{"', '": ', '"}', 'true', 'city', 'the', ' the', '日本']))
const end = text.ends[0]!

type Given = Partial<Omit<GenerationRequest, 'sampling'>> & { readonly sampling?: Partial<GenerationRequest['sampling']> }
const request = (given: Given = {}): GenerationRequest => generationRequest.parse({ model: 'm', prompt: [1, 2, 3], maxTokens: 200, ...given, sampling: { seed: 9, ...given.sampling } })

/** Logits that depend on all tokens before, as a model's do. */
function logitsAfter(tokens: readonly number[]): Float32Array {
  const mixed = tokens.reduce((sum, token) => (sum * 31 + token) % 1_000_003, 7)
  return Float32Array.from({ length: text.size }, (_, id) => 6 * drawAt(mixed, id))
}

type Told = { readonly tokens: readonly number[]; readonly pieces: readonly string[]; readonly ended: boolean }

/** Answers from `before` on, as an engine would. */
function answer(asked: GenerationRequest, before: readonly number[] = []): Told {
  const session = new TextAnswer(text, asked)
  const tokens = [...before]
  const pieces = before.map(token => session.tell(token).text)
  while (tokens.length < asked.maxTokens) {
    const drawn = session.draw(logitsAfter([...asked.prompt, ...tokens]), asked.prompt.length + tokens.length)
    if (drawn === undefined || text.ends.includes(drawn.token)) return { tokens, pieces: [...pieces, session.rest()], ended: true }
    tokens.push(drawn.token)
    const { text: piece, stopped } = session.tell(drawn.token)
    pieces.push(piece)
    if (stopped) return { tokens, pieces, ended: true }
  }
  return { tokens, pieces: [...pieces, session.rest()], ended: false }
}

describe('the tokens of an answer', () => {
  const asked = [
    request(), request({ sampling: { temperature: 0.7, topP: 0.9, topK: 40, repetitionPenalty: 1.2, frequencyPenalty: 0.3 } }), request({ stop: ['e', 'xyz'] }), request({ form: { kind: 'json' } }),
    request({ form: { kind: 'schema', schema: { type: 'object', required: ['city'], properties: { city: { type: 'string', maxLength: 20 } } } }, sampling: { temperature: 0 } }),
  ]

  it('are the same whoever takes over, at any token', () => {
    for (const one of asked) {
      const whole = answer(one)
      for (let from = 0; from <= whole.tokens.length; from += 7) assert.deepEqual(answer(one, whole.tokens.slice(0, from)), whole)
    }
  })

  it('are JSON of the schema when that was asked for, and end by themselves', () => {
    for (const seed of [1, 2, 3, 4]) {
      const { pieces, ended } = answer({ ...asked[4]!, sampling: { ...asked[4]!.sampling, temperature: 1, seed } })
      assert.ok(ended)
      assert.equal(typeof JSON.parse(pieces.join('')).city, 'string')
    }
  })

  it('may end only where the answer is whole', () => {
    const session = new TextAnswer(text, request({ sampling: { temperature: 0 }, form: { kind: 'choice', choices: ['true', 'truely'] } }))
    const eager = (): Float32Array => Float32Array.from({ length: text.size }, (_, id) => (id === end ? 100 : 0))
    let answered = ''
    for (let at = 0; at < 10; at += 1) {
      const drawn = session.draw(eager(), 3 + at)
      if (drawn === undefined || drawn.token === end) break
      answered += session.tell(drawn.token).text
    }
    assert.equal(answered, 'true')
    const goesOn = new TextAnswer(text, request({ ignoreEnd: true, sampling: { temperature: 0 }, form: { kind: 'choice', choices: ['true', 'truely'] } }))
    for (const sign of 'truely') goesOn.tell(text.encode(sign, false)[0]!)
    assert.equal(goesOn.draw(eager(), 9), undefined)
  })

  it('say when a stage may answer with an id alone', () => {
    const greedy = { temperature: 0 }
    assert.equal(new TextAnswer(text, request({ sampling: greedy })).greedy, true)
    assert.equal(new TextAnswer(text, request({ sampling: greedy, topLogprobs: 0 })).greedy, false)
    assert.equal(new TextAnswer(text, request({ sampling: greedy, form: { kind: 'json' } })).greedy, false)
    assert.equal(new TextAnswer(text, request()).greedy, false)
  })
})
