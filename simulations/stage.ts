import { z } from 'zod'
import { MeshError } from '../protocols/errors.ts'
import type { Json, Millis } from '../protocols/ids.ts'
import { PREFIX_BLOCK } from '../protocols/stage.ts'
import { Lru } from '../src/lib/lru.ts'
import type { StageOutput, StageRunner, StageSpec, StageStep } from '../src/ports.ts'
import type { Kernel, Life } from './kernel.ts'

/** What a modelled stage is, from the parameters of its block. */
export const simulatedStage = z.object({
  first: z.int(), end: z.int(), layers: z.int(), vocab: z.int(), contextTokens: z.int(), kvTokens: z.int(),
  /** A run of one position takes so long a layer, and each further position in it so much more. */
  layerMs: z.number(), positionMs: z.number(),
  /** Part of the positions after which this model is sure of something else: for a draft that is often right. */
  astray: z.number().default(0),
})
export type SimulatedStage = z.infer<typeof simulatedStage>

const WORD = 8
const PREFIXES = 64
/** Steps of more positions than this are prefill: one a run. */
const DECODE_MOST = 16

type Pair = readonly [number, number]
type Waiting = { readonly step: StageStep; readonly resolve: (output: StageOutput) => void; readonly reject: (error: Error) => void }
type Held = { rows: Uint8Array; position: number; readonly tokens: number; readonly prefix: readonly string[] }

/** Mixes a word into a state of 64 bits: MurmurHash3's finaliser on two lanes that feed each other. */
function mix([a, b]: Pair, x: number, y: number): Pair {
  const c = finish((a ^ Math.imul(x, 0xcc9e2d51)) + Math.imul(b, 5))
  return [c, finish((b ^ Math.imul(y, 0x1b873593)) + Math.imul(c, 3) + 0x9e3779b9)]
}

function finish(word: number): number {
  let mixed = Math.imul(word ^ (word >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return (mixed ^ (mixed >>> 16)) >>> 0
}

/**
 * An exact model of a stage's arithmetic: each layer attends to its rows at all positions before, as they are held, and
 * writes a row that is a hash of them, the layer, the position and what comes in; what goes out is a hash of that row. A row
 * that is missing, stale or out of place changes every token after it. The logits are hashes of what leaves the last layer.
 */
export class StageArithmetic {
  readonly #of: SimulatedStage

  constructor(of: SimulatedStage) {
    this.#of = of
  }

  get rowBytes(): number {
    return WORD * (this.#of.end - this.#of.first)
  }

  /** Computes one position over the rows before it; writes its row, gives what goes out. */
  position(position: number, input: Pair, rows: DataView): Pair {
    const { first, end } = this.#of
    let x = input
    for (let layer = first; layer < end; layer += 1) {
      const at = (layer - first) * WORD
      let [a, b] = [layer + 1, position + 1]
      for (let from = at, before = 1; before <= position; before += 1, from += this.rowBytes) {
        a = Math.imul(a ^ rows.getUint32(from, true), 0x01000193) + before
        b = Math.imul(b ^ rows.getUint32(from + 4, true), 0x85ebca6b) ^ a
      }
      const state = mix([a >>> 0, b >>> 0], ...x)
      rows.setUint32(position * this.rowBytes + at, state[0], true)
      rows.setUint32(position * this.rowBytes + at + 4, state[1], true)
      x = mix(x, ...state)
    }
    return x
  }

  logits(out: Pair): Float32Array {
    const { astray, vocab } = this.#of
    if (mix(out, 3, 5)[0] / 4_294_967_296 < astray) return Float32Array.from({ length: vocab }, (_, id) => -mix(out, id + 1, id + 7)[0] / 4_294_967_296)
    return Float32Array.from({ length: this.#of.vocab }, (_, id) => mix(out, id + 1, id + 7)[0] / 4_294_967_296)
  }
}

/** The answer of the whole model on one host that never fails. */
export function unfailed(model: Omit<SimulatedStage, 'first' | 'end'>, prompt: readonly number[], count: number, draw: (logits: Float32Array, position: number) => number): readonly number[] {
  const whole = new StageArithmetic({ ...model, first: 0, end: model.layers })
  const tokens = [...prompt]
  const rows = new DataView(new ArrayBuffer((prompt.length + count) * whole.rowBytes))
  let out: Pair = [0, 0]
  for (let position = 0; position < prompt.length + count; position += 1) {
    if (position >= tokens.length) tokens.push(draw(whole.logits(out), position))
    out = whole.position(position, [tokens[position] ?? 0, 1], rows)
  }
  return tokens.slice(prompt.length)
}

/** The stage of one simulated instance: arithmetic as above, time on the virtual clock, steps that wait together run together. */
export class SimulatedStageRunner implements StageRunner {
  readonly spec: StageSpec
  readonly #of: SimulatedStage
  readonly #arithmetic: StageArithmetic
  readonly #kernel: Kernel
  readonly #life: Life
  readonly #sessions = new Map<string, Held>()
  readonly #prefixes = new Lru<string, Uint8Array>(PREFIXES)
  readonly #crash: () => boolean
  readonly #died: (because: string) => void
  #waiting: Waiting[] = []
  #running = false
  #gone: MeshError | undefined

  constructor(kernel: Kernel, life: Life, parameters: Json, crash: () => boolean, died: (because: string) => void) {
    this.#of = simulatedStage.parse(parameters)
    this.#arithmetic = new StageArithmetic(this.#of)
    this.#kernel = kernel
    this.#life = life
    this.#crash = crash
    this.#died = died
    const { first, end, layers, vocab, contextTokens, kvTokens } = this.#of
    this.spec = { first, end, layers, vocab, contextTokens, kvTokens, inputBytes: first === 0 ? 0 : WORD, outputBytes: end === layers ? 0 : WORD, kvBytes: this.#arithmetic.rowBytes }
  }

  async open(session: string, tokens: number, prefix: readonly string[]): Promise<{ readonly have: number }> {
    await this.#takes(1)
    this.#sessions.delete(session)
    if (tokens > this.load().freeTokens) throw new MeshError('NO_CAPACITY', `this stage has KV for ${this.load().freeTokens} more tokens; ${tokens} were asked for`)
    const known = prefix.findLastIndex(hash => this.#prefixes.has(hash))
    const position = (known + 1) * PREFIX_BLOCK
    const rows = new Uint8Array(tokens * this.#arithmetic.rowBytes)
    if (known >= 0) rows.set(this.#prefixes.get(prefix[known] ?? '') ?? [], 0)
    this.#sessions.set(session, { rows, position, tokens, prefix })
    return { have: position }
  }

  step(step: StageStep, signal: AbortSignal): Promise<StageOutput> {
    return new Promise((resolve, reject) => {
      const cancel = (): void => {
        this.#waiting = this.#waiting.filter(waiting => waiting.step !== step)
        reject(signal.reason)
      }
      if (this.#gone !== undefined) return reject(this.#gone)
      if (signal.aborted) return cancel()
      signal.addEventListener('abort', cancel, { once: true })
      this.#waiting.push({
        step,
        resolve: output => {
          signal.removeEventListener('abort', cancel)
          resolve(output)
        },
        reject,
      })
      if (!this.#running) void this.#run()
    })
  }

  async writeKv(session: string, position: number, count: number, rows: Uint8Array): Promise<void> {
    await this.#takes(1)
    const held = this.#held(session)
    if (position > held.position || rows.byteLength !== count * this.spec.kvBytes) throw new MeshError('BAD_INPUT', `${count} rows at ${position} do not follow ${held.position} positions`)
    held.rows.set(rows, position * this.spec.kvBytes)
    held.position = position + count
  }

  async readKv(session: string, position: number, count: number): Promise<Uint8Array> {
    await this.#takes(1)
    const held = this.#held(session)
    if (position + count > held.position) throw new MeshError('BAD_INPUT', `positions up to ${position + count} are not held: ${held.position} are`)
    return held.rows.slice(position * this.spec.kvBytes, (position + count) * this.spec.kvBytes)
  }

  position(session: string): number {
    return this.#held(session).position
  }

  close(session: string, keep: boolean): void {
    const held = this.#sessions.get(session)
    this.#sessions.delete(session)
    if (held === undefined || !keep) return
    for (const [at, hash] of held.prefix.entries()) {
      const end = (at + 1) * PREFIX_BLOCK
      if (end <= held.position) this.#prefixes.set(hash, held.rows.slice(0, end * this.spec.kvBytes))
    }
  }

  load(): { readonly sessions: number; readonly freeTokens: number; readonly waiting: number } {
    const taken = [...this.#sessions.values()].reduce((sum, { tokens }) => sum + tokens, 0)
    return { sessions: this.#sessions.size, freeTokens: this.#of.kvTokens - taken, waiting: this.#waiting.length }
  }

  /** The instance is gone: whoever waits is told. */
  end(because: MeshError): void {
    this.#gone = because
    for (const { reject } of this.#waiting.splice(0)) reject(because)
  }

  async #run(): Promise<void> {
    this.#running = true
    while (this.#waiting.length > 0 && this.#gone === undefined) {
      let prefill = false
      const batch: Waiting[] = []
      const later: Waiting[] = []
      for (const waiting of this.#waiting) {
        const long = waiting.step.count > DECODE_MOST
        if (long && prefill) later.push(waiting)
        else batch.push(waiting)
        prefill ||= long
      }
      this.#waiting = later
      const positions = batch.reduce((sum, { step }) => sum + step.count, 0)
      const layers = this.#of.end - this.#of.first
      const ms = Math.max(1, Math.round(layers * (this.#of.layerMs + this.#of.positionMs * (positions - 1))))
      await this.#kernel.clock(this.#life).sleep(ms)
      if (this.#gone === undefined && this.#crash()) this.#died('it crashed in a step')
      for (const { step, resolve, reject } of batch) {
        try {
          if (this.#gone !== undefined) throw this.#gone
          resolve(this.#compute(step, ms, batch.length))
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)))
        }
      }
    }
    this.#running = false
  }

  #compute({ session, position, count, input, want, rows, kv }: StageStep, computeMs: Millis, batch: number): StageOutput {
    const held = this.#held(session)
    if (position > held.position) throw new MeshError('BAD_INPUT', `position ${position} does not follow ${held.position} positions`)
    if (position + count > held.tokens) throw new MeshError('BAD_INPUT', `${position + count} positions are more than the ${held.tokens} reserved`)
    const hidden = new Uint8Array(count * WORD)
    const outs: Pair[] = []
    const all = new DataView(held.rows.buffer)
    for (let at = 0; at < count; at += 1) {
      const x: Pair = 'tokens' in input ? [input.tokens[at] ?? 0, 1] : readPair(input.hidden, at * WORD)
      const out = this.#arithmetic.position(position + at, x, all)
      writePair(hidden, at * WORD, out)
      outs.push(out)
    }
    held.position = position + count
    const told = { computeMs, batch, ...(kv ? { kv: held.rows.slice(position * this.spec.kvBytes, (position + count) * this.spec.kvBytes) } : {}) }
    if (want === 'none') return told
    if (want === 'hidden') return { hidden, ...told }
    const logits = (rows === 'all' ? outs : outs.slice(-1)).map(out => this.#arithmetic.logits(out))
    if (want === 'greedy') return { ids: logits.map(greatest), ...told }
    const flat = new Float32Array(logits.length * this.spec.vocab)
    for (const [at, row] of logits.entries()) flat.set(row, at * this.spec.vocab)
    return { logits: flat, ...told }
  }

  #held(session: string): Held {
    if (this.#gone !== undefined) throw this.#gone
    const held = this.#sessions.get(session)
    if (held === undefined) throw new MeshError('NOT_FOUND', `this stage has no session ${session}`)
    return held
  }

  async #takes(ms: Millis): Promise<void> {
    await this.#kernel.clock(this.#life).sleep(ms)
    if (this.#gone !== undefined) throw this.#gone
  }
}

/** Ties to the lowest id. */
export function greatest(logits: Float32Array): number {
  let best = 0
  for (let id = 1; id < logits.length; id += 1) if ((logits[id] ?? 0) > (logits[best] ?? 0)) best = id
  return best
}

function readPair(bytes: Uint8Array, at: number): Pair {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, WORD)
  return [view.getUint32(0, true), view.getUint32(4, true)]
}

function writePair(bytes: Uint8Array, at: number, [a, b]: Pair): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, WORD)
  view.setUint32(0, a, true)
  view.setUint32(4, b, true)
}
