import { generationRequest, type AnswerForm, type SamplingParams } from '../../protocols/generation.ts'
import type { Constraint } from '../../src/llm/grammar/constraint.ts'
import { drawAt } from '../../src/llm/sampling/philox.ts'
import { ModelText } from '../../src/llm/text/model-text.ts'
import { TextAnswer } from '../../src/llm/text/text-answer.ts'
import { quantile, rounded } from './peers.ts'

const SIZE = 151_936
const TOKENS = 200
const SAMPLES = 60

/** An order as a shop may ask for it: nested, with texts, numbers, lists and an enum. */
const ORDER: AnswerForm = { kind: 'schema', schema: {
  type: 'object', required: ['id', 'customer', 'items', 'state'], additionalProperties: false,
  properties: {
    id: { type: 'string', pattern: '^[A-Z]{3}-\\d{6}$' }, state: { enum: ['open', 'paid', 'sent'] }, note: { type: 'string', maxLength: 400 },
    customer: { type: 'object', required: ['name', 'city'], properties: { name: { type: 'string' }, city: { type: 'string' }, age: { type: 'integer', minimum: 0, maximum: 130 } } },
    items: { type: 'array', minItems: 1, maxItems: 20, items: { type: 'object', required: ['title', 'price', 'count'], properties: { title: { type: 'string' }, price: { type: 'number', minimum: 0 }, count: { type: 'integer', minimum: 1 } } } },
  },
} }

/**
 * What choosing one token costs, in milliseconds, over a vocabulary of the size of Qwen's: sampling logits of a plausible
 * shape, and the masks of a JSON schema, when they are new and when their places were met before.
 */
export async function run(): Promise<Record<string, number>> {
  const { value: text, ms: openMs } = timed(() => new ModelText(tokenizerFiles()))
  const first = timed(() => text.constraint(ORDER))
  const fresh = masks(first.value, text, 1)
  for (let seed = 2; seed < 8; seed += 1) masks(first.value, text, seed)
  const known = masks(first.value, text, 9)
  const logits = Float32Array.from({ length: SIZE }, (_, id) => 1.5 * Math.log(1 / (1e-6 + drawAt(5, id))))
  const sample = (sampling: Partial<SamplingParams>, topLogprobs?: number): number => {
    const answer = new TextAnswer(text, generationRequest.parse({ model: 'bench', prompt: [0], maxTokens: 1, sampling: { seed: 1, ...sampling }, topLogprobs }))
    return quantile(Array.from({ length: SAMPLES }, (_, position) => timed(() => answer.draw(logits, position)).ms), 0.5)
  }
  const figures = {
    vocabulary: SIZE, tokenizer_ms: openMs, first_form_ms: first.ms, mask_new_p50_ms: quantile(fresh, 0.5), mask_new_p99_ms: quantile(fresh, 0.99), mask_known_p50_ms: quantile(known, 0.5), mask_known_p99_ms: quantile(known, 0.99),
    greedy_ms: sample({ temperature: 0 }), sampled_ms: sample({}), truncated_ms: sample({ topK: 50, topP: 0.9, minP: 0.01 }), logprobs_ms: sample({}, 20),
  }
  return Object.fromEntries(Object.entries(figures).map(([figure, value]) => [figure, rounded(value)]))
}

/** Walks through an answer that the masks allow, preferring longer tokens as a model does; the time of each mask. */
function masks(constraint: Constraint, text: ModelText, seed: number): readonly number[] {
  const times: number[] = []
  let state = constraint.start
  for (let at = 0; at < TOKENS && state.threads.length > 0; at += 1) {
    const here = state
    const { value: mask, ms } = timed(() => constraint.mask(here))
    times.push(ms)
    const from = Math.floor(drawAt(seed, at) * SIZE)
    let id = -1
    for (let step = 0; step < SIZE && id < 0; step += 1) {
      const candidate = (from + step) % SIZE
      if ((mask[candidate >> 5]! & (1 << (candidate & 31))) !== 0) id = candidate
    }
    state = constraint.advance(state, text.bytes(id) ?? new Uint8Array(0)) ?? constraint.start
  }
  return times
}

/** A tokenizer of bytes: every byte, then words as code and prose have them: letters, with a space before or a sign around. */
function tokenizerFiles(): { readonly 'tokenizer.json': unknown } {
  const letters = 'etaoinshrdlucmfwypvbgkjqxz'
  const signs = ['', '', '', 'Ġ', 'Ġ', 'Ġ', '_', '"', '("', '{"', '.', 'Ġ"']
  const ends = ['', '', '', '', '', '":', '",', '"', '()', ',', 'Ġ', '"}', 'Ċ']
  const vocab: Record<string, number> = {}
  // GPT-2's stand-ins: bytes that print are themselves, the others follow from U+0100 on.
  for (let byte = 0, others = 0x100; byte < 256; byte += 1) vocab[String.fromCharCode((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae ? byte : others++)] = byte
  for (let at = 0, id = 256; id < SIZE; at += 1) {
    const length = 1 + Math.floor(drawAt(1, at) * 9)
    const word = Array.from({ length }, (_, letter) => letters[Math.floor(drawAt(2, at * 16 + letter) ** 2 * letters.length)]).join('')
    const token = `${signs[Math.floor(drawAt(3, at) * signs.length)]}${word}${ends[Math.floor(drawAt(4, at) * ends.length)]}`
    if (vocab[token] === undefined) vocab[token] = id++
  }
  return { 'tokenizer.json': { added_tokens: [], normalizer: null, pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true }, post_processor: null, decoder: { type: 'ByteLevel' }, model: { type: 'BPE', vocab, merges: [] } } }
}

function timed<T>(work: () => T): { readonly value: T; readonly ms: number } {
  const from = performance.now()
  const value = work()
  return { value, ms: performance.now() - from }
}
