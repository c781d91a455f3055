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
}

/** What `on_preprocess` makes of a packet and `on_data` is given. */
export class PreProcessResult {
  readonly packet: AiosPacket
  readonly extra_data: unknown
  readonly session_id: string
  constructor(packet: AiosPacket, extra_data: unknown = {}, session_id: string = packet.session_id) {
    this.packet = packet
    this.extra_data = extra_data
    this.session_id = session_id
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
  write_ws(output: unknown): Promise<void>
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
  return {
    load: context => new Author(aiosContext(context)),
    async preprocess(packet, context) {
      const view = aiosPacket(packet)
      const result = context.state.on_preprocess === undefined ? new PreProcessResult(view) : settle('on_preprocess', await context.state.on_preprocess(view))
      if (result === null || result === undefined) return undefined
      const results: readonly unknown[] = Array.isArray(result) ? result : [result]
      return results.map(one => asEntry(one, view))
    },
    async data(entry, context) {
      const given = entry.extra instanceof PreProcessResult ? entry.extra : new PreProcessResult(aiosPacket(entry.packet), entry.extra, entry.sessionId)
      const answer = await context.state.on_data(given, false)
      return isIterator(answer) ? answer : settle('on_data', answer)
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
    files: given.packet.files.map(toPacketFile),
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

function aiosPacket(packet: Packet): AiosPacket {
  return { session_id: packet.sessionId, seq_no: packet.seqNo, ts: packet.ts, data: packet.data, files: packet.files.map(file => ({ metadata: file.metadata, file_data: file.bytes })) }
}

function toPacketFile(file: AiosPacket['files'][number]): PacketFile {
  return { metadata: file.metadata, ...(file.file_data === undefined ? {} : { bytes: file.file_data }) }
}

function aiosContext(context: Context<undefined>): AiosContext {
  const names = {
    block_data: context.blockData,
    block_init_data: context.blockInitData,
    block_init_settings: context.blockInitSettings,
    block_init_parameters: context.blockInitParameters,
    allocation_info: context.allocationInfo,
    side_cars: { push_to_sidecar: context.sideCars.push, push_to_all_sidecars: context.sideCars.pushAll },
    write_ws: (output: unknown) => context.stream(output),
  }
  return Object.create(context, Object.getOwnPropertyDescriptors(names)) as AiosContext
}
