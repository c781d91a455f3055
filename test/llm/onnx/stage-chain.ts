/** Runs a split model on ONNX Runtime, stage after stage, keeping each stage's caches as a host would. */
import assert from 'node:assert/strict'
import { mkdirSync, openSync, readSync, closeSync, statSync, writeFileSync, appendFileSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import type * as Ort from 'onnxruntime-node'
import { onnxRuntime } from '../../../node/instance/onnx-model.ts'
import { analyse, type ModelAnalysis } from '../../../src/llm/onnx/analyse.ts'
import { pieceBytes, pieceFile, pieces } from '../../../src/llm/onnx/pieces.ts'
import type { RandomAccess } from '../../../src/llm/onnx/random-access.ts'
import { readSkeleton, type Skeleton } from '../../../src/llm/onnx/skeleton.ts'
import { stageGraph } from '../../../src/llm/onnx/stage-graph.ts'
import type { StageCache, StageGraph } from '../../../src/llm/onnx/stage-io.ts'
import { furthest, likeliest, WholeModel, type Logits } from '../whole-model.ts'

export interface OpenModel { readonly skeleton: Skeleton; readonly analysis: ModelAnalysis; readonly open: (location: string) => Promise<RandomAccess>; readonly reads: { bytes: number } }

/** A file by random access, counting what is read of it. */
export function fileAccess(file: string, reads = { bytes: 0 }): RandomAccess {
  return {
    size: statSync(file).size,
    read(offset, length) {
      const bytes = new Uint8Array(length)
      const descriptor = openSync(file, 'r')
      try {
        const got = readSync(descriptor, bytes, 0, length, offset)
        reads.bytes += got
        return Promise.resolve(bytes.subarray(0, got))
      } finally {
        closeSync(descriptor)
      }
    },
  }
}

export async function openModel(directory: string): Promise<OpenModel> {
  const reads = { bytes: 0 }
  const open = (location: string): Promise<RandomAccess> => Promise.resolve(fileAccess(join(directory, location || 'model.onnx'), reads))
  const skeleton = await readSkeleton(await open(''), open)
  return { skeleton, analysis: analyse(skeleton), open, reads }
}

/** Writes every piece of a model into `directory`. */
export async function writePieces({ analysis, open }: OpenModel, directory: string): Promise<void> {
  mkdirSync(directory, { recursive: true })
  for (const piece of pieces(analysis)) {
    const file = join(directory, pieceFile(piece.name))
    if (existsSync(file)) continue
    writeFileSync(file, '')
    for await (const bytes of pieceBytes(piece, open)) appendFileSync(file, bytes)
  }
}

type Floats = Float32Array | Uint16Array

/** One stage with the caches of one batch of rows, each `room` tokens long. */
export class Stage {
  readonly graph: StageGraph
  readonly #session: Ort.InferenceSession
  readonly #room: number
  readonly #buffers: readonly Floats[]
  readonly lengths: number[]

  private constructor(graph: StageGraph, session: Ort.InferenceSession, batch: number, room: number) {
    this.graph = graph
    this.#session = session
    this.#room = room
    this.lengths = Array.from({ length: batch }, () => 0)
    this.#buffers = graph.io.caches.map(cache => floats(cache, batch * room * cache.heads * cache.headDim))
  }

  static async open(graph: StageGraph, directory: string, { batch = 1, room = 96, threads = 1 } = {}): Promise<Stage> {
    const file = join(directory, `stage-${graph.io.first}-${graph.io.end}-${graph.io.logits?.select ?? ''}${graph.io.logits?.greedy ?? ''}.onnx`)
    writeFileSync(file, graph.onnx)
    const session = await onnxRuntime().InferenceSession.create(file, { intraOpNumThreads: threads, interOpNumThreads: 1, logSeverityLevel: 3, extra: { session: { intra_op: { allow_spinning: '0' } } } })
    return new Stage(graph, session, batch, room)
  }

  /** One run over `count` new tokens of every row; `given` is the token ids or what the stage before sent. */
  async run(given: Readonly<Record<string, Ort.Tensor>>, count: number, fetch: readonly string[] = []): Promise<Record<string, Ort.Tensor>> {
    const { Tensor } = onnxRuntime()
    const { io } = this.graph
    const batch = this.lengths.length
    const longest = Math.max(...this.lengths)
    const total = longest + count
    const feeds: Record<string, Ort.Tensor> = {}
    if (io.mask !== undefined) {
      const mask = this.lengths.flatMap(length => Array.from({ length: total }, (_, at) => BigInt(io.ragged === 'lengths' ? Number(at < length + count) : Number(at < length || at >= longest))))
      feeds[io.mask.name] = new Tensor('int64', BigInt64Array.from(mask), [batch, total])
    }
    if (io.positions !== undefined) feeds[io.positions.name] = new Tensor('int64', BigInt64Array.from(this.lengths.flatMap(length => Array.from({ length: count }, (_, at) => BigInt(length + at)))), [batch, count])
    for (const name of [io.ids?.name, io.logits?.select, ...io.receives.filter(({ used }) => used).map(({ name }) => name)]) if (name !== undefined) feeds[name] = given[name]!
    for (const [at, cache] of io.caches.entries()) feeds[cache.past] = this.#past(cache, this.#buffers[at]!, batch, longest)
    const wanted = fetch.length > 0 ? fetch : [...io.sends.filter(({ from }) => from === 'graph').map(({ name }) => name), ...io.logits === undefined ? [] : [io.logits.name]]
    const results = await this.#session.run(feeds, [...wanted, ...io.caches.map(({ rows }) => rows)])
    for (const [at, cache] of io.caches.entries()) this.#keep(cache, this.#buffers[at]!, results[cache.rows]!, count)
    for (let row = 0; row < batch; row++) this.lengths[row]! += count
    return { ...Object.fromEntries(io.sends.filter(({ from }) => from === 'received').map(({ name }) => [name, given[name]!])), ...results }
  }

  /** A row's cached tokens, layer by layer, as [tokens, heads, headDim] each. */
  cached(row: number): readonly Floats[] {
    return this.graph.io.caches.map((cache, at) => {
      const out = floats(cache, this.lengths[row]! * cache.heads * cache.headDim)
      for (let token = 0; token < this.lengths[row]!; token++) {
        for (let head = 0; head < cache.heads; head++) {
          const from = this.#place(cache, row, token, head)
          out.set(this.#buffers[at]!.subarray(from, from + cache.headDim), (token * cache.heads + head) * cache.headDim)
        }
      }
      return out
    })
  }

  /** Puts a row's cached tokens in, as `cached` of another stage of the same layers gave them. */
  fill(row: number, cached: readonly Floats[]): void {
    for (const [at, cache] of this.graph.io.caches.entries()) {
      const { heads, headDim } = cache
      const tokens = cached[at]!.length / (heads * headDim)
      for (let token = 0; token < tokens; token++) {
        for (let head = 0; head < heads; head++) {
          const from = (token * heads + head) * headDim
          this.#buffers[at]!.set(cached[at]!.subarray(from, from + headDim), this.#place(cache, row, token, head))
        }
      }
      this.lengths[row] = tokens
    }
  }

  async close(): Promise<void> {
    await this.#session.release()
  }

  #past(cache: StageCache, buffer: Floats, batch: number, longest: number): Ort.Tensor {
    const { Tensor } = onnxRuntime()
    const type = cache.dtype === 'float16' ? 'float16' : 'float32'
    if (cache.layout === 'heads') return new Tensor(type, buffer, [batch, cache.heads, this.#room, cache.headDim])
    return new Tensor(type, buffer.subarray(0, longest * batch * cache.heads * cache.headDim), [longest, batch, ...cache.rank === 3 ? [cache.heads * cache.headDim] : [cache.heads, cache.headDim]])
  }

  #place(cache: StageCache, row: number, token: number, head: number): number {
    const batch = this.lengths.length
    return (cache.layout === 'heads' ? (row * cache.heads + head) * this.#room + token : (token * batch + row) * cache.heads + head) * cache.headDim
  }

  #keep(cache: StageCache, buffer: Floats, rows: Ort.Tensor, count: number): void {
    const { heads, headDim } = cache
    const batch = this.lengths.length
    const data = rows.data as Floats
    for (let row = 0; row < batch; row++) {
      for (let token = 0; token < count; token++) {
        for (let head = 0; head < heads; head++) {
          const from = (cache.layout === 'heads' ? (row * heads + head) * count + token : (token * batch + row) * heads + head) * headDim
          buffer.set(data.subarray(from, from + headDim), this.#place(cache, row, this.lengths[row]! + token, head))
        }
      }
    }
  }
}

function floats(cache: StageCache, length: number): Floats {
  return cache.dtype === 'float16' ? new Uint16Array(length) : new Float32Array(length)
}

/** All stages of a model, as one. */
export class StageChain {
  readonly stages: readonly Stage[]

  private constructor(stages: readonly Stage[]) {
    this.stages = stages
  }

  /** `count` stages of about as many layers each, pieces in `directory`. */
  static async open(model: OpenModel, directory: string, count: number, options: { readonly batch?: number; readonly room?: number; readonly select?: boolean; readonly greedy?: boolean } = {}): Promise<StageChain> {
    await writePieces(model, directory)
    const { layers } = model.analysis
    const bounds = Array.from({ length: count + 1 }, (_, at) => Math.round(at * layers / count))
    const stages: Stage[] = []
    for (let at = 0; at < count; at++) stages.push(await Stage.open(stageGraph(model.skeleton, model.analysis, { first: bounds[at]!, end: bounds[at + 1]!, ...options }), directory, options))
    return new StageChain(stages)
  }

  /** Adds as many tokens to every row; everything the last stage gives. */
  async run(rows: readonly (readonly number[])[], select?: readonly number[], fetch?: readonly string[]): Promise<Record<string, Ort.Tensor>> {
    const { Tensor } = onnxRuntime()
    const count = rows[0]!.length
    const whole = (values: readonly number[], width: number): Ort.Tensor => new Tensor('int64', BigInt64Array.from(values, BigInt), [rows.length, width])
    let given: Record<string, Ort.Tensor> = { [this.stages[0]!.graph.io.ids!.name]: whole(rows.flat(), count) }
    for (const stage of this.stages) {
      if (stage.graph.io.logits?.select !== undefined) given[stage.graph.io.logits.select] = whole(rows.flatMap(() => select ?? []), select?.length ?? 0)
      given = await stage.run(given, count, stage.graph.io.logits === undefined ? [] : fetch)
    }
    return given
  }

  /** Adds tokens to the only row; the logits after each of them. */
  async add(ids: readonly number[]): Promise<Logits> {
    return logitsOf((await this.run([ids]))[this.stages.at(-1)!.graph.io.logits!.name]!)
  }

  /** Adds tokens to the only row; the logits after the last of them, asked for as a host asks. */
  async next(ids: readonly number[]): Promise<Logits> {
    return lastOf(logitsOf((await this.run([ids], ids.length === 1 ? [0] : [ids.length - 1, ids.length - 1]))[this.stages.at(-1)!.graph.io.logits!.name]!))
  }

  async close(): Promise<void> {
    for (const stage of this.stages) await stage.close()
  }
}

function lastOf({ vocab, data }: Logits): Logits {
  return { rows: 1, vocab, data: data.slice(data.length - vocab) }
}

/** As float32, whatever the model computes in. */
export function logitsOf(tensor: Ort.Tensor): Logits {
  const vocab = tensor.dims.at(-1)!
  const data = tensor.data instanceof Float32Array ? tensor.data : Float32Array.from(new Float16Array((tensor.data as Uint16Array).slice().buffer))
  return { rows: data.length / vocab, vocab, data }
}

const PROMPT = [11, 402, 33, 7, 90, 255, 180, 64]

/** How far the logits of a model in so many parts, as they are served, lie from those of the whole, at most, over a greedy answer; the tokens must be the same. */
export async function distances(directory: string, parts: readonly number[], tokens = 64): Promise<readonly number[]> {
  const whole = await WholeModel.open(directory)
  const model = await openModel(directory)
  const found: number[] = []
  for (const part of parts) {
    const chain = await StageChain.open(model, join(directory, 'pieces'), part, { select: true, greedy: true })
    whole.reset()
    let apart = 0
    for (let step = 0, next = PROMPT; step < tokens; step++) {
      const [expected, got] = [lastOf(await whole.add(next)), await chain.next(next)]
      apart = Math.max(apart, furthest(expected, got))
      assert.equal(likeliest(got), likeliest(expected), `token ${step} in ${part} parts`)
      next = [likeliest(expected)]
    }
    found.push(apart)
    await chain.close()
  }
  await whole.close()
  return found
}
