/** Adapts a class with AIOS's own callback names to a block definition. */
import type { Json } from '../protocols/ids.ts'
import type { Packet, PacketFile } from '../protocols/invoke.ts'
import { EntryParts, isOnDataResult, type BlockDefinition } from './definition.ts'
import type { Context, Fields } from './context.ts'
import { ComponentError } from './error.ts'
import { kind } from './json.ts'
import { Muxer } from './muxer.ts'

/** A packet under AIOS's field names. `data` is already parsed. */
export type AiosPacket = {
  readonly session_id: string
  readonly seq_no: number
  readonly ts: number
  readonly data: Json
  readonly files: readonly { readonly metadata: Json; readonly file_data: Uint8Array | undefined }[]
  /** Names a large file that is somewhere else, as the caller said it. */
  readonly frame_ptr?: Json
  /** W3C trace context of the call, for whatever the block calls itself. */
  readonly traceparent?: string
}

/** What `on_preprocess` makes of a packet and `on_data` is given. */
export class PreProcessResult {
  readonly packet: AiosPacket
  readonly extra_data: unknown
  readonly session_id: string
  /** `(packet, extra_data, session_id)`, or one object with these names, as Python names arguments. */
  constructor(packet: AiosPacket | { readonly packet: AiosPacket; readonly extra_data?: unknown; readonly session_id?: string }, extra_data: unknown = {}, session_id?: string) {
    const named = 'packet' in packet ? packet : { packet, extra_data, session_id }
    this.packet = named.packet
    this.extra_data = named.extra_data ?? {}
    this.session_id = named.session_id ?? named.packet.session_id
  }
}

/** The context under AIOS's names, beside our own. */
export type AiosContext = Context & {
  readonly block_data: Fields
  readonly block_init_data: Fields
  readonly block_init_settings: Fields
  readonly block_init_parameters: Fields
  readonly allocation_info: Context['allocationInfo']
  readonly side_cars: { push_to_sidecar(name: string, data: unknown): void; push_to_all_sidecars(data: unknown): void }
  readonly events: Context['events'] & { push_event(name: string | { readonly event_name: string; readonly event_data?: unknown }, data?: unknown): void }
  readonly block_path: string
  readonly instance_path: string
  readonly common_path: string
  /** AIOS's `(session_id, data)`: to the caller whose call of that session is under way; with one argument, to the only caller there is. */
  write_ws(session: unknown, data?: unknown): Promise<void>
}

/** Every callback may answer `[ok, value]`, the plain value, or a promise of either. */
export interface AiosBlock {
  on_preprocess?(packet: AiosPacket): unknown
  on_data(entry: PreProcessResult, is_ws?: boolean): unknown
  on_update?(parameters: Fields): unknown
  health?(): unknown
  management?(action: string, data: Json): unknown
  get_muxer?(): unknown
}
export type AiosBlockClass = new (context: AiosContext) => AiosBlock

export function fromAiosClass(Author: AiosBlockClass): BlockDefinition<AiosBlock> {
  const callers = new Callers()
  return {
    load: context => new Author(aiosContext(context, callers)),
    async preprocess(packet, context) {
      const view = aiosPacket(packet, context.traceparent)
      const result = context.state.on_preprocess === undefined ? new PreProcessResult(view) : settle('on_preprocess', await context.state.on_preprocess(view))
      if (result === null || result === undefined) return undefined
      const results: readonly unknown[] = Array.isArray(result) ? result : [result]
      return results.map(one => asEntry(one, view))
    },
    async data(entry, context) {
      const given = entry.extra instanceof PreProcessResult ? entry.extra : new PreProcessResult(aiosPacket(entry.packet, context.traceparent), entry.extra, entry.sessionId)
      const leave = callers.enter(given.session_id, output => context.stream(output))
      try {
        const answer = await context.state.on_data(given, context.streams)
        return isIterator(answer) ? answer : settle('on_data', answer)
      } finally {
        leave()
      }
    },
    async update(parameters, context) {
      return context.state.on_update === undefined ? undefined : settle('on_update', await context.state.on_update(parameters))
    },
    health: context => (context.state.health === undefined ? { status: 'healthy' } : context.state.health()),
    async management(action, data, context) {
      if (context.state.management === undefined) throw new ComponentError(`this block has no management commands, so it does not know "${action}"`)
      return settle('management', await context.state.management(action, data))
    },
    muxer(context) {
      const muxer = context.state.get_muxer?.()
      if (muxer === undefined || muxer === null || typeof muxer === 'number') return muxer
      if (muxer instanceof Muxer) return muxer
      // A bundle may carry its own copy of the class.
      if (typeof muxer === 'object' && 'process' in muxer && typeof muxer.process === 'function') return muxer as Muxer
      throw new ComponentError(`get_muxer must return a Muxer or nothing, got ${kind(muxer)}`)
    },
  }
}

function asEntry(result: unknown, view: AiosPacket): EntryParts {
  const given: PreProcessParts = isPreProcessParts(result) ? result : new PreProcessResult(view, result)
  return new EntryParts({
    data: given.packet.data,
    files: [...given.packet.files.map(toPacketFile), ...(given.packet.frame_ptr === undefined ? [] : [{ metadata: { frame_ptr: given.packet.frame_ptr } }])],
    extra: given instanceof PreProcessResult ? given : new PreProcessResult(given.packet, given.extra_data, given.session_id),
    sessionId: given.session_id,
  })
}

type PreProcessParts = Pick<PreProcessResult, 'packet' | 'extra_data' | 'session_id'>

/** By shape: a bundle may carry its own copy of the class. */
function isPreProcessParts(value: unknown): value is PreProcessParts {
  return value instanceof PreProcessResult || (value !== null && typeof value === 'object' && 'packet' in value && 'extra_data' in value)
}

/** The value of `[ok, value]`, or the bare value. A false `ok` is the author's refusal. */
function settle(callback: string, answer: unknown): unknown {
  if (!Array.isArray(answer) || answer.length !== 2 || typeof answer[0] !== 'boolean') return answer
  const [ok, value] = answer as unknown as readonly [boolean, unknown]
  if (ok) return value
  throw new ComponentError(`${callback} refused: ${isOnDataResult(value) ? JSON.stringify(value.output) : value instanceof Error ? value.message : typeof value === 'string' ? value : (JSON.stringify(value) ?? 'no reason given')}`)
}

function isIterator(value: unknown): boolean {
  return value !== null && typeof value === 'object' && !Array.isArray(value) && (Symbol.asyncIterator in value || (Symbol.iterator in value && 'next' in value))
}

function aiosPacket(packet: Packet, traceparent: string | undefined): AiosPacket {
  const frame = packet.files.map(frameOf).find(found => found !== undefined)
  const files = packet.files.filter(file => frameOf(file) === undefined).map(file => ({ metadata: file.metadata, file_data: file.bytes }))
  return { ...(traceparent === undefined ? {} : { traceparent }), session_id: packet.sessionId, seq_no: packet.seqNo, ts: packet.ts, data: packet.data, files, ...(frame === undefined ? {} : { frame_ptr: frame }) }
}

/** A frame pointer travels as a file without bytes whose metadata says so. */
function frameOf({ metadata, bytes, cid }: PacketFile): Json | undefined {
  const plain = bytes === undefined && cid === undefined && metadata !== null && typeof metadata === 'object' && !Array.isArray(metadata)
  return plain ? Object.entries(metadata).find(([name]) => name === 'frame_ptr')?.[1] : undefined
}

function toPacketFile(file: AiosPacket['files'][number]): PacketFile {
  return { metadata: file.metadata, ...(file.file_data === undefined ? {} : { bytes: file.file_data }) }
}

/** Knows who waits for what a class writes: its context is one for all calls. */
class Callers {
  readonly #streams: { readonly session: string; readonly stream: (output: unknown) => Promise<void> }[] = []

  enter(session: string, stream: (output: unknown) => Promise<void>): () => void {
    const caller = { session, stream }
    this.#streams.push(caller)
    return () => void this.#streams.splice(this.#streams.indexOf(caller), 1)
  }

  write(given: readonly unknown[]): Promise<void> {
    const [session, data] = given
    const caller = given.length > 1 ? this.#streams.findLast(one => one.session === session) : this.#streams.length === 1 ? this.#streams[0] : undefined
    if (caller === undefined) throw new ComponentError(given.length > 1 ? `nobody waits for session ${String(session)}: write_ws works while on_data runs` : `${this.#streams.length} callers wait: write_ws(session_id, data) says which`)
    return caller.stream(given.length > 1 ? data : session)
  }
}

function aiosContext(context: Context<undefined>, callers: Callers): AiosContext {
  const names = {
    block_data: context.blockData,
    block_init_data: context.blockInitData,
    block_init_settings: context.blockInitSettings,
    block_init_parameters: context.blockInitParameters,
    allocation_info: context.allocationInfo,
    side_cars: { push_to_sidecar: context.sideCars.push, push_to_all_sidecars: context.sideCars.pushAll },
    events: { ...context.events, push_event: (name: string | { readonly event_name: string; readonly event_data?: unknown }, data?: unknown) => (typeof name === 'string' ? context.events.push(name, data) : context.events.push(name.event_name, name.event_data)) },
    block_path: context.blockPath,
    instance_path: context.instancePath,
    common_path: context.commonPath,
    write_ws: async (...given: readonly unknown[]) => callers.write(given),
  }
  return Object.create(context, Object.getOwnPropertyDescriptors(names)) as AiosContext
}
