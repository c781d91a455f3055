import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { MeshError } from '../../../protocols/errors.ts'
import { stageFile, type StageFile, type StageSpec } from '../../../protocols/stage-file.ts'
import { ComponentError } from '../../../sdk/error.ts'
import type { BlockDefinition } from '../../../sdk/definition.ts'
import type { InstanceConfig } from '../frames.ts'
import { KvArena } from './kv-arena.ts'
import { KvSession } from './kv-store.ts'
import { StageEngine } from './stage-engine.ts'
import { StageGraph } from './stage-graph.ts'
import { decodeOrder } from './stage-frames.ts'
import { StageMetrics } from './stage-metrics.ts'

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
        const { bundle, files, providers, threads, blockInitData } = this.#config
        const file = await readStageFile(bundle)
        const graph = await StageGraph.open(bundle, file, { providers, threads })
        await tryOut(graph, file)
        const spec = { ...file.spec, kvTokens: roomOf(blockInitData['kvTokens'], file.spec) }
        this.#engine = new StageEngine({ file, graph, kvTokens: spec.kvTokens, weightBytes: await bytesOf(bundle, files), metrics: new StageMetrics(context.metrics, spec.kvTokens), send: this.#send })
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

/** `initData.kvTokens` says how much of a host's memory is for keys and values; the file says what its author thought of. */
function roomOf(asked: unknown, spec: StageSpec): number {
  if (asked === undefined) return spec.kvTokens
  if (typeof asked !== 'number' || !Number.isInteger(asked) || asked < 1 || asked > 0x7fff_ffff) throw new MeshError('SPEC_INVALID', `initData.kvTokens is ${JSON.stringify(asked)}; it is a whole number of positions`)
  return asked
}

/** One position through the graph: weights that are not there or shapes that do not fit show before anybody relies on it. */
async function tryOut(graph: StageGraph, { spec }: StageFile): Promise<void> {
  const arena = new KvArena<KvSession>(graph.layout)
  arena.add(new KvSession(1), 1)
  const { rows, hidden } = await graph.run({ arena, first: 0, pasts: [0], count: 1, tokens: new Uint32Array(1), hidden: new Uint8Array(spec.inputBytes), want: { greedy: false, logits: false, all: false } })
  const given = rows.reduce((sum, plane) => sum + plane.byteLength, 0)
  if (given !== spec.kvBytes || hidden.byteLength !== spec.outputBytes) throw new MeshError('SPEC_INVALID', `one token gives ${given} bytes of keys and values and ${hidden.byteLength} of activations; stage.json says ${spec.kvBytes} and ${spec.outputBytes}`)
}

async function bytesOf(bundle: string, files: readonly string[]): Promise<number> {
  const sizes = await Promise.all(files.map(async file => (await stat(join(bundle, file))).size))
  return sizes.reduce((sum, size) => sum + size, 0)
}
