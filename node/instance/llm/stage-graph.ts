import { join } from 'node:path'
import type * as Ort from 'onnxruntime-node'
import { MeshError } from '../../../protocols/errors.ts'
import type { StageFile } from '../../../protocols/stage-file.ts'
import { onnxRuntime } from '../onnx-model.ts'
import type { KvArena } from './kv-arena.ts'
import { KvLayout } from './kv-layout.ts'
import type { KvSession } from './kv-store.ts'

/** One run: neighbours in an arena from place `first` on, `count` new positions each. */
export type GraphRun = {
  readonly arena: KvArena<KvSession>
  readonly first: number
  /** Positions that each row holds. */
  readonly pasts: readonly number[]
  readonly count: number
  /** Row after row: ids in the first stage, activations elsewhere. */
  readonly tokens: Uint32Array | undefined
  readonly hidden: Uint8Array
  /** `all`: logits of each position, not only of the last. */
  readonly want: { readonly greedy: boolean; readonly logits: boolean; readonly all: boolean }
}

/** What a run gave, row after row. */
export type GraphResult = {
  readonly computeMs: number
  /** `count × outputBytes` a row; empty in the last stage. */
  readonly hidden: Uint8Array
  /** `rows` ids, or `rows × vocab` numbers, a row of the run; `rows` is `count` or 1. */
  readonly ids: Uint32Array | undefined
  readonly logits: Float32Array | undefined
  /** New keys and values, a plane a cache tensor. */
  readonly rows: readonly Uint8Array[]
}

type Numbers = 'int64' | 'int32'
type Feed = { readonly dtype: StageFile['io']['receives'][number]['dtype'] }

const ELEMENT_BYTES = { float32: 4, float16: 2, int32: 4, int64: 8, bool: 1, uint8: 1, int8: 1 } as const

/** A stage's graph in ONNX Runtime: numbers in, numbers out. Knows nothing of sessions but where their rows lie. */
export class StageGraph {
  readonly layout: KvLayout
  readonly provider: string
  readonly #ort: typeof Ort
  readonly #session: Ort.InferenceSession
  readonly #file: StageFile
  /** Tensors over an arena's planes stay good for as long as the planes do. */
  readonly #pasts = new WeakMap<object, { readonly version: number; readonly tensors: Map<string, readonly Ort.Tensor[]> }>()

  private constructor(ort: typeof Ort, session: Ort.InferenceSession, file: StageFile, provider: string) {
    this.#ort = ort
    this.#session = session
    this.#file = file
    this.provider = provider
    this.layout = layoutOf(file)
  }

  /** Opens `stage.onnx` with the first provider that takes it; cpu comes last. Throws COMPONENT_ERROR, RUNTIME_UNAVAILABLE. */
  static async open(folder: string, file: StageFile, options: { readonly providers: readonly string[]; readonly threads: number }): Promise<StageGraph> {
    const ort = onnxRuntime()
    let because = 'onnxruntime has no execution provider'
    for (const provider of new Set([...options.providers, 'cpu'])) {
      try {
        const session = await ort.InferenceSession.create(join(folder, 'stage.onnx'), {
          executionProviders: [provider],
          intraOpNumThreads: options.threads,
          interOpNumThreads: 1,
          logSeverityLevel: 3,
          // A pattern would be kept for every length of the mask there ever was.
          enableMemPattern: false,
          extra: { session: { intra_op: { allow_spinning: '0' } } },
        })
        const graph = new StageGraph(ort, session, file, provider)
        graph.#fits()
        return graph
      } catch (cause) {
        because = `onnxruntime: ${provider} did not take stage.onnx: ${firstLine(cause)}`
        console.error(because)
      }
    }
    throw new MeshError('COMPONENT_ERROR', because)
  }

  /** Throws INSTANCE_FAILED when the runtime does. */
  async run(run: GraphRun): Promise<GraphResult> {
    const { io } = this.#file
    const { greedy, logits } = run.want
    // Of halves the runtime may compare what they were before they were rounded; the greatest is that of the logits it gives.
    const byGraph = greedy && io.logits?.dtype === 'float32' ? io.logits.greedy : undefined
    const fetched = io.logits !== undefined && (logits || (greedy && byGraph === undefined))
    const names = [...io.sends.filter(send => send.from === 'graph').map(send => send.name), ...io.caches.map(cache => cache.rows), ...(byGraph === undefined ? [] : [byGraph]), ...(fetched ? [io.logits!.name] : [])]
    const feeds = this.#feeds(run)
    const began = performance.now()
    let results: Ort.InferenceSession.OnnxValueMapType
    try {
      results = await this.#session.run(feeds, names)
    } catch (cause) {
      throw new MeshError('INSTANCE_FAILED', `the stage's graph failed: ${firstLine(cause)}`, { cause })
    }
    const computeMs = performance.now() - began
    const bytes = (name: string): Uint8Array => bytesOf(results[name]?.data)
    const values = fetched ? this.#logits(results[io.logits!.name]?.data, run) : undefined
    return {
      computeMs,
      hidden: this.#boundary(run, bytes),
      ids: byGraph !== undefined ? this.#ids(results[byGraph]?.data, run) : greedy && values !== undefined ? greatest(values, this.#file.spec.vocab) : undefined,
      logits: logits ? values : undefined,
      rows: io.caches.map(cache => bytes(cache.rows)),
    }
  }

  /** Throws SPEC_INVALID where stage.json and the graph disagree about names, or stage.json with itself. */
  #fits(): void {
    const { io, spec } = this.#file
    const inputs = new Set(this.#session.inputNames)
    const outputs = new Set(this.#session.outputNames)
    const used = [io.ids?.name, io.mask?.name, io.positions?.name, io.logits?.select, ...io.receives.filter(one => one.used).map(one => one.name), ...io.caches.map(cache => cache.past)].filter(name => name !== undefined)
    const given = [io.logits?.name, io.logits?.greedy, ...io.sends.filter(one => one.from === 'graph').map(one => one.name), ...io.caches.map(cache => cache.rows)].filter(name => name !== undefined)
    const missing = [...used.filter(name => !inputs.has(name)), ...given.filter(name => !outputs.has(name))]
    const unfed = [...inputs].filter(name => !used.includes(name))
    if (missing.length > 0 || unfed.length > 0) throw new MeshError('SPEC_INVALID', `stage.json and stage.onnx disagree: ${[...missing.map(name => `no "${name}" in the graph`), ...unfed.map(name => `nothing feeds "${name}"`)].slice(0, 5).join(', ')}`)
    const wide = (tensors: readonly { readonly dtype: Feed['dtype']; readonly width: number }[]) => tensors.reduce((sum, { dtype, width }) => sum + width * ELEMENT_BYTES[dtype], 0)
    const sizes = [['inputBytes', spec.inputBytes, wide(io.receives)], ['outputBytes', spec.outputBytes, wide(io.sends)], ['kvBytes', spec.kvBytes, this.layout.kvBytes]] as const
    for (const [what, said, is] of sizes) if (said !== is) throw new MeshError('SPEC_INVALID', `stage.json says ${what} is ${said}; its tensors make ${is}`)
  }

  #feeds(run: GraphRun): Record<string, Ort.Tensor> {
    const { io } = this.#file
    const rows = run.pasts.length
    const { count } = run
    const feeds: Record<string, Ort.Tensor> = {}
    if (io.ids !== undefined) feeds[io.ids.name] = this.#numbers(io.ids.dtype, [rows, count], index => run.tokens?.[index] ?? 0)
    if (io.positions !== undefined) feeds[io.positions.name] = this.#numbers(io.positions.dtype, [rows, count], index => run.pasts[Math.floor(index / count)]! + (index % count))
    if (io.mask !== undefined) feeds[io.mask.name] = this.#mask(io.mask.dtype, run)
    if (io.logits?.select !== undefined) {
      // The last of several is asked for twice: alone it would go through the kernel for one, which gives other last bits with some weights of 4 bits.
      const places = run.want.all ? count : rows === 1 ? Math.min(count, 2) : 1
      feeds[io.logits.select] = this.#numbers('int64', [rows, places], index => (run.want.all ? index % count : count - 1))
    }
    let offset = 0
    for (const { name, dtype, width, used } of io.receives) {
      const size = width * ELEMENT_BYTES[dtype]
      if (used) feeds[name] = this.#tensor(dtype, columns(run.hidden, this.#file.spec.inputBytes, offset, size), [rows, count, width])
      offset += size
    }
    for (const [index, tensor] of this.#past(run).entries()) feeds[io.caches[index]!.past] = tensor
    return feeds
  }

  #past({ arena, first, pasts }: GraphRun): readonly Ort.Tensor[] {
    const { caches } = this.#file.io
    const rows = pasts.length
    const byTokens = caches[0]?.layout === 'tokens'
    let known = this.#pasts.get(arena)
    if (known?.version !== arena.version) {
      known = { version: arena.version, tensors: new Map() }
      this.#pasts.set(arena, known)
    }
    const key = `${first}+${rows}`
    const ready = byTokens ? undefined : known.tensors.get(key)
    if (ready !== undefined) return ready
    const made = caches.map(({ dtype, heads, headDim, rank, layout }, index) => {
      const { data } = arena.planes[index]!
      const block = heads * headDim * arena.capacity
      if (layout === 'heads') return new this.#ort.Tensor(dtype, data.subarray(first * block, (first + rows) * block), [rows, heads, arena.capacity, headDim])
      const held = pasts[0]!
      return new this.#ort.Tensor(dtype, data.subarray(first * block, first * block + held * heads * headDim), rank === 3 ? [held, 1, heads * headDim] : [held, 1, heads, headDim])
    })
    if (!byTokens) known.tensors.set(key, made)
    return made
  }

  /** Ones for what a row holds and for what is new; row after row. */
  #mask(dtype: Numbers, { pasts, count }: GraphRun): Ort.Tensor {
    const longest = Math.max(...pasts) + count
    const dims = [pasts.length, longest]
    if (dtype === 'int32') {
      const mask = new Int32Array(pasts.length * longest)
      for (const [row, past] of pasts.entries()) mask.fill(1, row * longest, row * longest + past + count)
      return new this.#ort.Tensor('int32', mask, dims)
    }
    const mask = new BigInt64Array(pasts.length * longest)
    for (const [row, past] of pasts.entries()) mask.fill(1n, row * longest, row * longest + past + count)
    return new this.#ort.Tensor('int64', mask, dims)
  }

  #numbers(dtype: Numbers, dims: readonly [number, number], value: (index: number) => number): Ort.Tensor {
    const length = dims[0] * dims[1]
    if (dtype === 'int32') return new this.#ort.Tensor('int32', Int32Array.from({ length }, (_, index) => value(index)), dims)
    return new this.#ort.Tensor('int64', BigInt64Array.from({ length }, (_, index) => BigInt(value(index))), dims)
  }

  #tensor(dtype: Feed['dtype'], bytes: Uint8Array<ArrayBuffer>, dims: readonly number[]): Ort.Tensor {
    const { buffer } = bytes
    switch (dtype) {
      case 'float32': return new this.#ort.Tensor(dtype, new Float32Array(buffer), dims)
      case 'float16': return new this.#ort.Tensor(dtype, new Uint16Array(buffer), dims)
      case 'int32': return new this.#ort.Tensor(dtype, new Int32Array(buffer), dims)
      case 'int64': return new this.#ort.Tensor(dtype, new BigInt64Array(buffer), dims)
      case 'int8': return new this.#ort.Tensor(dtype, new Int8Array(buffer), dims)
      case 'bool':
      case 'uint8': return new this.#ort.Tensor(dtype, bytes, dims)
    }
  }

  /** What goes on to the next stage, token by token. */
  #boundary(run: GraphRun, bytes: (name: string) => Uint8Array): Uint8Array {
    const { io, spec } = this.#file
    const [only, ...more] = io.sends
    if (only === undefined) return new Uint8Array(0)
    if (more.length === 0 && only.from === 'graph') return bytes(only.name)
    const tokens = run.pasts.length * run.count
    const out = new Uint8Array(tokens * spec.outputBytes)
    let offset = 0
    for (const { name, dtype, width, from } of io.sends) {
      const size = width * ELEMENT_BYTES[dtype]
      const part = from === 'graph' ? bytes(name) : columns(run.hidden, spec.inputBytes, this.#placeOf(name), size)
      for (let token = 0; token < tokens; token++) out.set(part.subarray(token * size, (token + 1) * size), token * spec.outputBytes + offset)
      offset += size
    }
    return out
  }

  /** Where a received tensor lies in the bytes of a token. */
  #placeOf(name: string): number {
    let offset = 0
    for (const { name: other, dtype, width } of this.#file.io.receives) {
      if (other === name) return offset
      offset += width * ELEMENT_BYTES[dtype]
    }
    throw new MeshError('SPEC_INVALID', `stage.json passes on "${name}", which the stage does not receive`)
  }

  #ids(data: Ort.Tensor['data'] | undefined, run: GraphRun): Uint32Array {
    const given = data instanceof BigInt64Array ? data : new BigInt64Array(0)
    const { from, to } = wantedPart(given.length, run, 1)
    return Uint32Array.from(given.subarray(from, to), Number)
  }

  /** As fp32: what halves say, exactly. */
  #logits(data: Ort.Tensor['data'] | undefined, run: GraphRun): Float32Array {
    const { vocab } = this.#file.spec
    if (data instanceof Float32Array) {
      const { from, to } = wantedPart(data.length, run, vocab)
      return data.subarray(from, to)
    }
    const bits = bytesOf(data)
    const halves = new Float16Array(bits.buffer, bits.byteOffset, bits.byteLength / 2)
    const { from, to } = wantedPart(halves.length, run, vocab)
    return new Float32Array(halves.subarray(from, to))
  }
}

function layoutOf({ io }: StageFile): KvLayout {
  const layouts = new Set(io.caches.map(cache => cache.layout))
  if (layouts.size > 1) throw new MeshError('SPEC_INVALID', 'stage.json has caches of two layouts')
  return new KvLayout(io.caches.map(({ dtype, layout, heads, headDim }) => (layout === 'heads' ? { dtype, heads, dim: headDim } : { dtype, heads: 1, dim: heads * headDim })))
}

/** The same columns of every token, as bytes of their own. */
function columns(rows: Uint8Array, rowBytes: number, offset: number, size: number): Uint8Array<ArrayBuffer> {
  if (size === rowBytes) return new Uint8Array(rows)
  const tokens = rows.byteLength / rowBytes
  const out = new Uint8Array(tokens * size)
  for (let token = 0; token < tokens; token++) out.set(rows.subarray(token * rowBytes + offset, token * rowBytes + offset + size), token * size)
  return out
}

/** Where in what the graph gave the wanted rows of `width` numbers lie: of one session's last position the last, whatever came with it. */
function wantedPart(given: number, { pasts, count, want }: GraphRun, width: number): { readonly from: number; readonly to: number } {
  const rows = pasts.length
  if (given === rows * (want.all ? count : 1) * width) return { from: 0, to: given }
  if (rows === 1 && !want.all && given % width === 0 && given > width) return { from: given - width, to: given }
  throw new MeshError('INSTANCE_FAILED', `the graph gave ${given} numbers for ${rows} × ${count} × ${width}`)
}

/** Lowest id of the greatest logit of each row. */
export function greatest(logits: Float32Array, vocab: number): Uint32Array {
  const ids = new Uint32Array(logits.length / vocab)
  for (const row of ids.keys()) {
    let best = -Infinity
    for (let id = 0, at = row * vocab; id < vocab; id++, at++) {
      const value = logits[at]!
      if (value > best) {
        best = value
        ids[row] = id
      }
    }
  }
  return ids
}

function bytesOf(data: Ort.Tensor['data'] | undefined): Uint8Array {
  if (data === undefined || !ArrayBuffer.isView(data)) return new Uint8Array(0)
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
}

function firstLine(cause: unknown): string {
  return (cause instanceof Error ? cause.message : String(cause)).split('\n')[0]!.slice(0, 400)
}
