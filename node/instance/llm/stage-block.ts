import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { asMeshError, MeshError } from '../../../protocols/errors.ts'
import { stageFile, type StageFile, type StageSpec } from '../../../protocols/stage-file.ts'
import { ComponentError } from '../../../sdk/error.ts'
import type { BlockDefinition } from '../../../sdk/definition.ts'
import { compileSooner } from '../compile-sooner.ts'
import type { InstanceConfig } from '../frames.ts'
import { KvArena } from './kv-arena.ts'
import { KvSession } from './kv-store.ts'
import { keepLargePagesForWeights } from './large-pages.ts'
import { StageEngine } from './stage-engine.ts'
import { StageGraph } from './stage-graph.ts'
import { decodeOrder } from './stage-frames.ts'
import { StageMetrics } from './stage-metrics.ts'

const MOST_POSITIONS = 0x7fff_ffff
const MOST_THREADS = 1_024

/** A stage of a language model as a block: it answers health and counts like any other, and computes steps beside. */
export class StageBlock {
  readonly #config: InstanceConfig
  readonly #send: (frames: readonly Uint8Array[]) => Promise<void> | undefined
  #engine: StageEngine | undefined
  #spec: StageSpec | undefined

  constructor(config: InstanceConfig, send: (frames: readonly Uint8Array[]) => Promise<void> | undefined) {
    this.#config = config
    this.#send = send
  }

  /** Once loaded. */
  get spec(): StageSpec | undefined {
    return this.#spec
  }

  /** An order of the daemon. */
  take(body: Uint8Array): void {
    this.#engine?.take(decodeOrder(body))
  }

  get definition(): BlockDefinition<{ readonly file: StageFile; readonly provider: string }> {
    return {
      load: async context => {
        const { bundle, files, providers, blockInitData } = this.#config
        const file = await readStageFile(bundle)
        const threads = wholeOf(blockInitData, 'threads', MOST_THREADS) ?? this.#config.threads
        const graph = await StageGraph.open(bundle, file, { providers, threads })
        const leastRows = await tryOut(graph, file)
        const oneByOne = file.io.oneByOne || !await takesTwo(graph, file)
        keepLargePagesForWeights()
        compileSooner()
        const spec = { ...file.spec, kvTokens: wholeOf(blockInitData, 'kvTokens', MOST_POSITIONS) ?? file.spec.kvTokens }
        this.#engine = new StageEngine({ file, graph, oneByOne, kvTokens: spec.kvTokens, weightBytes: await bytesOf(bundle, files), leastRows, metrics: new StageMetrics(context.metrics, spec.kvTokens), send: this.#send })
        this.#spec = spec
        return { file, provider: graph.provider }
      },
      data: () => { throw new ComponentError('this block computes a part of a language model: ask for a generation with the model instead') },
      health: ({ state: { file, provider } }) => ({ status: 'healthy', model: file.model, layers: [file.spec.first, file.spec.end], provider, ...this.#engine?.state }),
    }
  }
}

/** Throws SPEC_INVALID. */
async function readStageFile(bundle: string): Promise<StageFile> {
  let text: string
  try {
    text = await readFile(join(bundle, 'stage.json'), 'utf8')
  } catch (cause) {
    throw new MeshError('SPEC_INVALID', 'the bundle of a stage holds stage.json and stage.onnx; stage.json is missing', { cause })
  }
  const parsed = stageFile.safeParse(JSON.parse(text))
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new MeshError('SPEC_INVALID', `stage.json: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'is not what it should be'}`)
}

/** What the block says of this contract where the stage's file says what its author thought of: `kvTokens` of the host's memory, `threads` of its cores. */
function wholeOf(initData: InstanceConfig['blockInitData'], name: 'kvTokens' | 'threads', most: number): number | undefined {
  const asked = initData[name]
  if (asked === undefined) return undefined
  if (typeof asked !== 'number' || !Number.isInteger(asked) || asked < 1 || asked > most) throw new MeshError('SPEC_INVALID', `initData.${name} is ${JSON.stringify(asked)}; it is a whole number from 1 to ${most}`)
  return asked
}

/**
 * One position through the graph, alone and beside another: weights that are not there or shapes that do not fit show before
 * anybody relies on it. Answers how many rows a run must have for its last bits not to depend on how many it has: where the
 * runtime has another kernel for a lone row (MatMulNBits of accuracy level 0 has), a lone session gets company.
 */
async function tryOut(graph: StageGraph, { spec, io }: StageFile): Promise<number> {
  const run = (rows: number) => {
    const arena = new KvArena<KvSession>(graph.layout, rows)
    arena.add(new KvSession(1), 1)
    const activations = probe(io.receives)
    const hidden = new Uint8Array(rows * spec.inputBytes)
    for (let row = 0; row < rows; row++) hidden.set(activations, row * spec.inputBytes)
    return graph.run({ arena, first: 0, pasts: Array.from({ length: rows }, () => 0), count: 1, tokens: new Uint32Array(rows).fill(spec.vocab >> 1), hidden, want: { greedy: false, logits: io.logits !== undefined, all: false } })
  }
  const alone = await run(1)
  const given = alone.rows.reduce((sum, plane) => sum + plane.byteLength, 0)
  if (given !== spec.kvBytes || alone.hidden.byteLength !== spec.outputBytes) throw new MeshError('SPEC_INVALID', `one token gives ${given} bytes of keys and values and ${alone.hidden.byteLength} of activations; stage.json says ${spec.kvBytes} and ${spec.outputBytes}`)
  if (io.ragged !== 'lengths') return 1
  const together = await run(2)
  const same = (one: ArrayBufferView | undefined, two: ArrayBufferView | undefined) => one === undefined || two === undefined || bytesIn(one).every((byte, at) => byte === bytesIn(two)[at])
  return [...alone.rows.keys()].every(plane => same(alone.rows[plane], together.rows[plane])) && same(alone.hidden, together.hidden) && same(alone.logits, together.logits) ? 1 : 2
}

/** Whether a run may have several positions of a session: a graph that was traced with one may hold that number where nobody sees it. */
async function takesTwo(graph: StageGraph, { spec, io }: StageFile): Promise<boolean> {
  const arena = new KvArena<KvSession>(graph.layout, 1)
  arena.add(new KvSession(2), 2)
  const activations = probe(io.receives)
  try {
    const { rows, hidden } = await graph.run({ arena, first: 0, pasts: [0], count: 2, tokens: new Uint32Array(2).fill(spec.vocab >> 1), hidden: Buffer.concat([activations, activations]), want: { greedy: false, logits: io.logits !== undefined, all: false } })
    return rows.reduce((sum, plane) => sum + plane.byteLength, 0) === 2 * spec.kvBytes && hidden.byteLength === 2 * spec.outputBytes
  } catch (failure) {
    if (asMeshError(failure).code !== 'INSTANCE_FAILED') throw failure
    console.error(`the graph takes one new position at a time: ${asMeshError(failure).message}`)
    return false
  }
}

/** Activations of one token that no kernel gets right by accident. */
function probe(receives: StageFile['io']['receives']): Uint8Array {
  return Buffer.concat(receives.map(({ dtype, width }) => {
    const wave = (_: unknown, at: number) => Math.sin(at + 1)
    if (dtype === 'float32') return bytesIn(Float32Array.from({ length: width }, wave))
    if (dtype === 'float16') return bytesIn(Float16Array.from({ length: width }, wave))
    return new Uint8Array(width * (dtype === 'int64' ? 8 : dtype === 'int32' ? 4 : 1))
  }))
}

function bytesIn(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
}

async function bytesOf(bundle: string, files: readonly string[]): Promise<number> {
  const sizes = await Promise.all(files.map(async file => (await stat(join(bundle, file))).size))
  return sizes.reduce((sum, size) => sum + size, 0)
}
