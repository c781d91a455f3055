import type { Json } from '../protocols/ids.ts'
import type { Packet, PacketFile } from '../protocols/invoke.ts'
import type { AiosBlockClass } from './aios-class.ts'
import { blockOf } from './block.ts'
import { ManualClock, type BlockClock } from './clock.ts'
import type { Assets, BlockHost, BlockStart, Fields } from './context.ts'
import type { BlockDefinition } from './definition.ts'
import { ComponentError } from './error.ts'
import { BlockRunner } from './runner.ts'
import type { Model } from './tensor.ts'

export type TesterOptions = {
  readonly initData?: Fields
  readonly initSettings?: Fields
  readonly parameters?: Fields
  readonly blockId?: string
  /** Files of the bundle: path → text or bytes. */
  readonly assets?: Readonly<Record<string, string | Uint8Array>>
  /** Models of the bundle: path → anything that runs like one. */
  readonly models?: Readonly<Record<string, Model>>
  /** Opens models for real, e.g. from `node/instance/models.ts`. */
  readonly model?: BlockHost['model']
  readonly clock?: BlockClock
  readonly gpus?: readonly string[]
}

/** AIOS's context of a test, as far as a test may say it. */
export type TestContext = {
  readonly block_data?: Fields
  readonly block_init_data?: Fields
  readonly block_init_settings?: Fields
  readonly block_init_parameters?: Fields
  readonly allocation_info?: { readonly gpus?: readonly string[] }
}
type RunOptions = { readonly files?: readonly PacketFile[]; readonly sessionId?: string; readonly seqNo?: number; readonly signal?: AbortSignal; readonly vdag?: Json }

/**
 * Runs a block as an instance would, in the test's own process and without a mesh. Time stands still unless the clock
 * given says otherwise (`ManualClock.advance`).
 *
 * ```ts
 * const tester = new BlockTester(block, { parameters: { limit: 3 } })
 * assert.deepEqual(await tester.run({ text: 'hello' }), [{ length: 5 }])
 * ```
 */
export class BlockTester {
  readonly #block: BlockDefinition
  readonly #options: TesterOptions
  readonly #events: { readonly name: string; readonly data: Json }[] = []
  readonly #sideCars: { readonly name: string; readonly data: Json }[] = []
  readonly #logs: string[] = []
  #runner: Promise<BlockRunner> | undefined
  #seqNo = 0

  constructor(block: BlockDefinition | AiosBlockClass, options: TesterOptions = {}) {
    this.#block = blockOf({ default: block }, 'the tested value')
    this.#options = options
  }

  /** What the block pushed with `context.events`. */
  get events(): readonly { readonly name: string; readonly data: Json }[] {
    return this.#events
  }

  get sideCars(): readonly { readonly name: string; readonly data: Json }[] {
    return this.#sideCars
  }

  get logs(): readonly string[] {
    return this.#logs
  }

  /** Loads the block now instead of at the first packet. */
  async init(): Promise<void> {
    await this.#loaded()
  }

  /**
   * AIOS's form of it: a context that is made before, of which what is there counts (`block_init_data`, `block_init_settings`,
   * `block_init_parameters`, `block_data`). Metrics, sessions and events are the tester's own.
   */
  static init_with_context(block: BlockDefinition | AiosBlockClass, context: TestContext): BlockTester {
    const id = context.block_data?.['id']
    return new BlockTester(block, {
      ...(context.block_init_data === undefined ? {} : { initData: context.block_init_data }), ...(context.block_init_settings === undefined ? {} : { initSettings: context.block_init_settings }),
      ...(context.block_init_parameters === undefined ? {} : { parameters: context.block_init_parameters }), ...(typeof id === 'string' ? { blockId: id } : {}), ...(context.allocation_info?.gpus === undefined ? {} : { gpus: context.allocation_info.gpus }),
    })
  }

  /** The data of each answer to one packet. Second comes what is unusual, or AIOS's list of files: `[metadata, bytes]` each. */
  async run(data: Json, more: RunOptions | readonly (readonly [metadata: Json, bytes: Uint8Array])[] = {}): Promise<readonly Json[]> {
    const options: RunOptions = isPairs(more) ? { files: more.map(([metadata, bytes]) => ({ metadata, bytes })) } : more
    const seqNo = options.seqNo ?? this.#seqNo++
    const packet: Packet = { sessionId: options.sessionId ?? 'test', seqNo, ts: 0, data, files: [...(options.files ?? [])] }
    return (await this.packets(packet, options)).map(answer => answer.data)
  }

  /** Each answer to one packet, whole. */
  async packets(packet: Packet, options: { readonly signal?: AbortSignal; readonly vdag?: Json } = {}): Promise<readonly Packet[]> {
    const runner = await this.#loaded()
    const answers: Packet[] = []
    for await (const answer of runner.infer(packet, { signal: options.signal ?? new AbortController().signal, vdag: options.vdag ?? null })) answers.push(answer)
    return answers
  }

  async update(parameters: Fields): Promise<Fields> {
    return (await this.#loaded()).update(parameters)
  }

  async health(): Promise<{ readonly healthy: boolean; readonly detail: Json }> {
    return (await this.#loaded()).health()
  }

  async management(action: string, data: Json = null): Promise<Json> {
    return (await this.#loaded()).management(action, data)
  }

  async metrics(): Promise<Fields> {
    return (await this.#loaded()).metrics()
  }

  async close(): Promise<void> {
    if (this.#runner !== undefined) await (await this.#runner).close()
  }

  #loaded(): Promise<BlockRunner> {
    this.#runner ??= BlockRunner.load(this.#block, startOf(this.#options), this.#host())
    return this.#runner
  }

  #host(): BlockHost {
    const { models = {}, model } = this.#options
    return {
      clock: this.#options.clock ?? new ManualClock(),
      assets: memoryAssets(this.#options.assets ?? {}),
      model: async (path, mapping) => {
        const known = models[path]
        if (known !== undefined) return known
        if (model !== undefined) return model(path, mapping)
        throw new ComponentError(`the tester was given no model "${path}"; pass it in \`models\``)
      },
      event: (name, data) => void this.#events.push({ name, data }),
      sideCar: (name, data) => void this.#sideCars.push({ name, data }),
      log: line => void this.#logs.push(line),
    }
  }
}

function isPairs(value: object): value is readonly (readonly [Json, Uint8Array])[] {
  return Array.isArray(value)
}

function startOf(options: TesterOptions): BlockStart {
  return {
    blockData: { id: options.blockId ?? 'test' },
    blockInitData: options.initData ?? {},
    blockInitSettings: options.initSettings ?? {},
    blockInitParameters: options.parameters ?? {},
    allocationInfo: { gpus: options.gpus ?? [], node_id: 'test', cluster_id: 'test', instance_id: 'in-test' },
  }
}

function memoryAssets(files: Readonly<Record<string, string | Uint8Array>>): Assets {
  const read = (path: string): Uint8Array => {
    const file = files[path]
    if (file === undefined) throw new ComponentError(`the bundle has no file "${path}"`)
    return typeof file === 'string' ? new TextEncoder().encode(file) : file
  }
  return {
    read: async path => read(path),
    text: async path => new TextDecoder().decode(read(path)),
    json: async path => JSON.parse(new TextDecoder().decode(read(path))) as Json,
    path: path => path,
  }
}
