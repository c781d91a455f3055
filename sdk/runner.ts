import type { Json } from '../protocols/ids.ts'
import type { Packet } from '../protocols/invoke.ts'
import { isEntryParts, isOnDataResult, type BlockDefinition, type Entry } from './definition.ts'
import { createContext, fieldsOf, forCall, type BlockHost, type BlockStart, type Call, type Context, type Fields, type Shared } from './context.ts'
import { ComponentError, isComponentError } from './error.ts'
import { kind, toJson } from './json.ts'
import { alreadyJoined, Muxer } from './muxer.ts'
import { Outlet } from './outlet.ts'

/** Holds one loaded block and puts packets through it. The instance process and `BlockTester` both run blocks with this. */
export class BlockRunner {
  readonly #block: BlockDefinition
  readonly #host: BlockHost
  readonly #context: Context
  readonly #shared: Shared<unknown>
  #muxer: Muxer | undefined

  private constructor(block: BlockDefinition, host: BlockHost, context: Context, shared: Shared<unknown>) {
    this.#block = block
    this.#host = host
    this.#context = context
    this.#shared = shared
  }

  /** Runs the block's `load`. Throws what it throws. */
  static async load(block: BlockDefinition, start: BlockStart, host: BlockHost): Promise<BlockRunner> {
    const shared: Shared<unknown> = { state: undefined, parameters: start.blockInitParameters }
    const context = createContext(start, host, shared)
    shared.state = await (block.load ?? block.init)?.call(block, context as Context<undefined>)
    const runner = new BlockRunner(block, host, context, shared)
    const muxer = block.muxer?.(context)
    if (typeof muxer === 'number') runner.#muxer = new Muxer(muxer)
    else runner.#muxer = muxer ?? undefined
    runner.#muxer?.useClock?.(host.clock)
    return runner
  }

  /** The answers to one packet, in order; none when the packet waits in the muxer or was dropped. */
  async *infer(packet: Packet, call: Call): AsyncGenerator<Packet, void, undefined> {
    const outlet = new Outlet<Packet>()
    const began = this.#host.clock.monotonic()
    const work = this.#process(packet, call, outlet).then(() => outlet.end(), (error: unknown) => outlet.fail(error))
    try {
      yield* outlet
      this.#took('end_to_end', began)
    } catch (error) {
      this.#context.metrics.counter('errors_total').increment()
      throw error
    } finally {
      outlet.close()
      void work
    }
  }

  async update(parameters: Fields): Promise<Fields> {
    const kept = await this.#block.update?.(parameters, this.#context)
    this.#shared.parameters = kept === undefined || kept === null ? { ...this.#shared.parameters, ...parameters } : fieldsOf(toJson(kept, 'parameters'))
    return this.#shared.parameters
  }

  /** Never throws: a health check that fails is an answer. */
  async health(): Promise<{ readonly healthy: boolean; readonly detail: Json }> {
    try {
      const detail = toJson((await this.#block.health?.(this.#context)) ?? { status: 'healthy' }, 'health')
      if (detail === false) return { healthy: false, detail: { status: 'unhealthy' } }
      const fields = fieldsOf(detail)
      return { healthy: fields.healthy !== false && (fields.status === undefined || fields.status === 'healthy' || fields.status === 'ok'), detail }
    } catch (error) {
      return { healthy: false, detail: { status: 'unhealthy', error: error instanceof Error ? error.message : String(error) } }
    }
  }

  async management(action: string, data: Json): Promise<Json> {
    if (this.#block.management === undefined) throw new ComponentError(`this block has no management commands, so it does not know "${action}"`)
    return toJson(await this.#block.management(action, data, this.#context), 'management answer')
  }

  metrics(): Readonly<Record<string, Json>> {
    return this.#context.metrics.snapshot()
  }

  async close(): Promise<void> {
    await this.#block.close?.(this.#context)
  }

  async #process(arrived: Packet, call: Call, outlet: Outlet<Packet>): Promise<void> {
    const joined = this.#join(arrived, call)
    if (joined === undefined) return
    const packet = (await this.#host.policy?.('pre_processing', joined, call.signal)) ?? joined
    const send = async (result: unknown): Promise<void> => {
      const out = answer(packet, result)
      if (out !== undefined) await outlet.push((await this.#host.policy?.('post_processing', out, call.signal)) ?? out)
    }
    const context = forCall(this.#context, call, send)
    for (const entry of await this.#entries(packet, context)) {
      const began = this.#host.clock.monotonic()
      for await (const result of several(await this.#block.data(entry, context))) await send(result)
      this.#took('on_data', began)
    }
  }

  /** AIOS's own metrics of an instance: how long and how often, in seconds. */
  #took(step: 'on_preprocess' | 'on_data' | 'end_to_end', began: number): void {
    const { metrics } = this.#context
    metrics.counter(`${step}_count`).increment()
    metrics.rolling(`${step}_latency`).observe((this.#host.clock.monotonic() - began) / 1_000)
  }

  #join(arrived: Packet, { vdag }: Call): Packet | undefined {
    if (this.#muxer === undefined) return arrived
    return vdag === null ? this.#muxer.process(arrived) : alreadyJoined(arrived)
  }

  async #entries(packet: Packet, context: Context): Promise<readonly Entry[]> {
    if (this.#block.preprocess === undefined) return [entryOf(packet, packet.data)]
    const began = this.#host.clock.monotonic()
    const made = await this.#block.preprocess(packet, context)
    this.#took('on_preprocess', began)
    if (made === undefined || made === null) return []
    return (Array.isArray(made) ? (made as readonly unknown[]) : [made]).map(one => entryOf(packet, one))
  }
}

/** What the caller may see of an error a block threw: a message, and whether it was meant for the caller. */
export function failureOf(error: unknown): { readonly terminal: boolean; readonly message: string } {
  const message = error instanceof Error ? error.message : `the block threw ${kind(error)}`
  return { terminal: isComponentError(error), message: isComponentError(error) || !(error instanceof Error) ? message : `${error.name}: ${message}` }
}

function entryOf(packet: Packet, made: unknown): Entry {
  const parts = isEntryParts(made) ? made : { data: made, files: undefined, extra: undefined, sessionId: undefined }
  return {
    data: toJson(parts.data, 'entry'),
    files: parts.files ?? packet.files,
    extra: parts.extra,
    packet,
    sessionId: parts.sessionId ?? packet.sessionId,
    seqNo: packet.seqNo,
  }
}

function answer(packet: Packet, result: unknown): Packet | undefined {
  if (result === undefined) return undefined
  const { output, files } = isOnDataResult(result) ? result : { output: result, files: [] }
  return { sessionId: packet.sessionId, seqNo: packet.seqNo, ts: packet.ts, data: toJson(output), files: [...files] }
}

/** Generators stream their results; everything else is one result. Lists are answers, not streams. */
async function* several(result: unknown): AsyncGenerator<unknown, void, undefined> {
  if (result !== null && typeof result === 'object' && !Array.isArray(result)) {
    if (Symbol.asyncIterator in result) return yield* result as AsyncIterable<unknown>
    if (Symbol.iterator in result && 'next' in result) return yield* result as unknown as Iterable<unknown>
  }
  yield result
}
