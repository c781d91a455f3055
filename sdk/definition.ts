import type { Json } from '../protocols/ids.ts'
import type { Packet, PacketFile } from '../protocols/invoke.ts'
import type { Context, Fields } from './context.ts'
import type { Muxer } from './muxer.ts'

const entryBrand = Symbol.for('aios-mesh/entry')
const resultBrand = Symbol.for('aios-mesh/result')

/** One piece of work that preprocessing made of a packet. */
export type Entry = {
  readonly data: Json
  readonly files: readonly PacketFile[]
  /** Whatever preprocessing attached; it never leaves the instance. */
  readonly extra: unknown
  /** The packet it came from. */
  readonly packet: Packet
  readonly sessionId: string
  readonly seqNo: number
}

/** What preprocessing may return for one entry when plain data is not enough. */
export class EntryParts {
  readonly [entryBrand] = true
  readonly data: unknown
  readonly files: readonly PacketFile[] | undefined
  readonly extra: unknown
  readonly sessionId: string | undefined
  constructor(parts: { readonly data: unknown; readonly files?: readonly PacketFile[]; readonly extra?: unknown; readonly sessionId?: string }) {
    this.data = parts.data
    this.files = parts.files
    this.extra = parts.extra
    this.sessionId = parts.sessionId
  }
}

/** An entry with files, a session of its own, or something attached for `data` to use. */
export function entry(data: unknown, more: { readonly files?: readonly PacketFile[]; readonly extra?: unknown; readonly sessionId?: string } = {}): EntryParts {
  return new EntryParts({ data, ...more })
}

/** A result that carries files. */
export class OnDataResult {
  readonly [resultBrand] = true
  readonly output: unknown
  readonly files: readonly PacketFile[]
  constructor(output: unknown, files: readonly PacketFile[] = []) {
    this.output = output
    this.files = files
  }
}

/**
 * A block: what an author writes. Only `data` is required.
 *
 * For each packet: muxer → pre_processing policy → `preprocess` → `data` for each entry → post_processing policy.
 */
export interface BlockDefinition<State = unknown> {
  /** Runs once before the first packet; what it returns is `context.state`. The instance is ready when it resolves. */
  load?(context: Context<undefined>): State | Promise<State>
  /** Another name for `load`. */
  init?(context: Context<undefined>): State | Promise<State>
  /** One entry or a list of entries; nothing drops the packet. Without it the packet's data is the one entry. */
  preprocess?(packet: Packet, context: Context<State>): unknown
  /** The answer: a JSON value, an `OnDataResult`, or a generator of several. Nothing means no answer for this entry. */
  data(entry: Entry, context: Context<State>): unknown
  /** Returns the parameters to keep; without it, or when it returns nothing, new fields replace old ones. */
  update?(parameters: Fields, context: Context<State>): unknown
  /** `{ status: "healthy", … }`; any other status, or a throw, is unhealthy. */
  health?(context: Context<State>): unknown
  management?(action: string, data: Json, context: Context<State>): unknown
  /** Joins packets of several upstream nodes before `preprocess`; a number is how many. */
  muxer?(context: Context<State>): Muxer | number | null | undefined
  /** Runs when the instance is asked to stop. */
  close?(context: Context<State>): void | Promise<void>
}

/** Another copy of the SDK may have made these, so brands decide and not classes. */
export function isEntryParts(value: unknown): value is EntryParts {
  return value !== null && typeof value === 'object' && entryBrand in value
}

export function isOnDataResult(value: unknown): value is OnDataResult {
  return value !== null && typeof value === 'object' && resultBrand in value
}
