/** Runs a whole decoder by ONNX Runtime, as the oracle that other ways of running it are compared with. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Random } from '../fixtures/llm/random.ts'
import { InferenceSession, Tensor } from '../fixtures/llm/runtime.ts'

/** Logits [rows, vocabulary], as float32 whatever the model computes in. */
export interface Logits { readonly rows: number; readonly vocab: number; readonly data: Float32Array }

export class WholeModel {
  readonly #session: InferenceSession
  readonly #empty: readonly [name: string, tensor: Tensor][]
  #cache = new Map<string, Tensor>()
  #length = 0

  private constructor(session: InferenceSession) {
    this.#session = session
    this.#empty = session.inputMetadata.flatMap(input => {
      if (!input.isTensor || !input.name.startsWith('past_key_values')) return []
      const dims = input.shape.map((dim, axis) => axis === 0 ? 1 : typeof dim === 'number' && dim >= 0 ? dim : 0)
      const none = input.type === 'float16' ? new Uint16Array(0) : new Float32Array(0)
      return [[input.name, new Tensor(input.type, none, dims)]]
    })
    this.reset()
  }

  static async open(directory: string, threads = 1): Promise<WholeModel> {
    return new WholeModel(await InferenceSession.create(join(directory, 'model.onnx'), { intraOpNumThreads: threads, logSeverityLevel: 3 }))
  }

  get layers(): number {
    return this.#empty.length / 2
  }

  /** Forgets everything. */
  reset(): void {
    this.#cache = new Map(this.#empty)
    this.#length = 0
  }

  /** Adds tokens to the sequence; the logits after each of them. */
  async add(ids: readonly number[]): Promise<Logits> {
    const whole = (values: readonly number[]): Tensor => new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length])
    const total = this.#length + ids.length
    const given: Readonly<Record<string, Tensor>> = {
      input_ids: whole(ids),
      attention_mask: whole(Array.from({ length: total }, () => 1)),
      position_ids: whole(ids.map((_, at) => this.#length + at)),
      use_cache_branch: new Tensor('bool', Uint8Array.of(this.#length === 0 ? 0 : 1), [1]),
    }
    const feeds = Object.fromEntries(this.#session.inputNames.map(name => [name, given[name] ?? this.#cache.get(name)!]))
    const results = await this.#session.run(feeds)
    for (const name of this.#cache.keys()) this.#cache.set(name, results[name.replace('past_key_values', 'present')]!)
    this.#length = total
    const logits = results.logits!
    const data = logits.data instanceof Float32Array ? logits.data : Float32Array.from(new Float16Array((logits.data as Uint16Array).slice().buffer))
    return { rows: ids.length, vocab: logits.dims.at(-1)!, data }
  }

  /** Greedy continuation of a prompt: `count` tokens, or fewer if one of `stop` comes. */
  async greedy(prompt: readonly number[], count: number, stop: readonly number[] = []): Promise<readonly number[]> {
    this.reset()
    const out: number[] = []
    let next = likeliest(await this.add(prompt))
    while (out.length < count && !stop.includes(next)) {
      out.push(next)
      next = likeliest(await this.add([next]))
    }
    return out
  }

  /** What the caches hold, in the order of the model's inputs, as [tokens, heads, headDim] each. */
  cached(): readonly (Float32Array | Uint16Array)[] {
    return [...this.#cache.values()].map(({ data, dims: [, heads = 0, tokens = 0, size = 0] }) => {
      const from = data as Float32Array | Uint16Array
      const out = from.slice()
      for (let head = 0; head < heads; head++) for (let token = 0; token < tokens; token++) out.set(from.subarray((head * tokens + token) * size, (head * tokens + token + 1) * size), (token * heads + head) * size)
      return out
    })
  }

  /** A continuation drawn as generation_config.json asks for: from the likeliest `top_k`, what was said before made less likely. */
  async sampled(prompt: readonly number[], count: number, how: Sampling, random: Random, stop: readonly number[] = []): Promise<readonly number[]> {
    this.reset()
    const out: number[] = []
    let logits = await this.add(prompt)
    while (out.length < count) {
      const next = draw(logits, out, how, random)
      if (stop.includes(next)) break
      out.push(next)
      logits = await this.add([next])
    }
    return out
  }

  async close(): Promise<void> {
    await this.#session.release()
  }
}

/** The part of generation_config.json that a draw needs. */
export interface Sampling { readonly temperature: number; readonly top_k: number; readonly repetition_penalty: number }

function draw({ rows, vocab, data }: Logits, said: readonly number[], how: Sampling, random: Random): number {
  const row = data.slice((rows - 1) * vocab, rows * vocab)
  for (const id of new Set(said)) row[id] = row[id]! > 0 ? row[id]! / how.repetition_penalty : row[id]! * how.repetition_penalty
  const best = [...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, how.top_k)
  const shares = best.map(id => Math.exp((row[id]! - row[best[0]!]!) / how.temperature))
  let left = random.next() * shares.reduce((sum, share) => sum + share, 0)
  return best.find((_, at) => (left -= shares[at]!) <= 0) ?? best[0]!
}

/** The likeliest token after the last row. */
export function likeliest({ rows, vocab, data }: Logits): number {
  const last = data.subarray((rows - 1) * vocab, rows * vocab)
  return last.reduce((best, value, at) => value > last[best]! ? at : best, 0)
}

/** How far apart two runs are at most. */
export function furthest(a: Logits, b: Logits): number {
  return a.data.reduce((most, value, at) => Math.max(most, Math.abs(value - b.data[at]!)), 0)
}

/** Natural logarithm of the probability of `id` after row `row`. */
export function logProbability({ vocab, data }: Logits, row: number, id: number): number {
  const of = data.subarray(row * vocab, (row + 1) * vocab)
  const most = of.reduce((sofar, value) => Math.max(sofar, value), Number.NEGATIVE_INFINITY)
  return of[id]! - most - Math.log(of.reduce((sum, value) => sum + Math.exp(value - most), 0))
}

export function readJson<T>(directory: string, name: string): T {
  return JSON.parse(readFileSync(join(directory, name), 'utf8')) as T
}
