/**
 * What a daemon and an instance of runtime `llm` say for every step: fixed little-endian heads and raw bytes behind them.
 * They travel as frames without a header (see ../frames.ts). Sessions and requests are numbers that the daemon gives.
 *
 * Every order and report begins `u8 kind | u8 a | u16 b | u32 id`; the rest is said at each kind. The reader of an order
 * trusts it; the reader of a report checks every length against what it asked for.
 */
import { MeshError } from '../../../protocols/errors.ts'
import { FRAME_BYTES } from '../frames.ts'

export type StageWant = 'hidden' | 'greedy' | 'logits' | 'none'

const WANTS: readonly StageWant[] = ['none', 'hidden', 'greedy', 'logits']
const ORDER = { open: 1, step: 2, write: 3, close: 4, cancel: 5, read: 6 } as const
const REPORT = { output: 1, done: 2, failed: 3 } as const
const FLAG = { all: 1, kv: 2, tokens: 4 } as const
const PART = { hidden: 1, ids: 2, logits: 4, kv: 8 } as const
const STEP_HEAD = 20
const OUTPUT_HEAD = 36
/** What `frames.ts` puts before a frame without a header: its length, and a header length of 0. */
const PREFIX = 8

/** Codes by their place in a report. Append only. */
const CODES = ['INSTANCE_FAILED', 'NO_CAPACITY', 'NOT_FOUND', 'BAD_INPUT', 'CANCELLED', 'OVERLOADED', 'MESSAGE_TOO_LARGE'] as const
export type StageCode = (typeof CODES)[number]

export type StageOrder =
  /** A new session, or more room for one there is. Answered by `done` with the positions it holds. */
  | { readonly kind: 'open'; readonly id: number; readonly session: number; readonly tokens: number; readonly prefix: readonly string[] }
  | StepOrder
  | { readonly kind: 'write'; readonly id: number; readonly session: number; readonly position: number; readonly count: number; readonly rows: Uint8Array }
  /** Answered by `output` with the rows. */
  | { readonly kind: 'read'; readonly id: number; readonly session: number; readonly position: number; readonly count: number }
  /** Not answered. */
  | { readonly kind: 'close'; readonly session: number; readonly keep: boolean }
  /** Not answered itself: the step is, one way or the other. */
  | { readonly kind: 'cancel'; readonly id: number }
export type StepOrder = {
  readonly kind: 'step'
  readonly id: number
  readonly session: number
  readonly position: number
  readonly count: number
  readonly want: StageWant
  readonly all: boolean
  readonly kv: boolean
  /** `count` ids, or the activations. */
  readonly tokens: Uint32Array | undefined
  readonly hidden: Uint8Array
}

export type StageReport =
  | OutputReport
  | { readonly kind: 'done'; readonly id: number; readonly held: number }
  | { readonly kind: 'failed'; readonly id: number; readonly held: number; readonly code: StageCode; readonly message: string }
export type OutputReport = {
  readonly kind: 'output'
  readonly id: number
  readonly batch: number
  /** Positions that the session holds now. */
  readonly held: number
  readonly computeMs: number
  readonly hidden: Uint8Array | undefined
  readonly ids: Uint32Array | undefined
  readonly logits: Float32Array | undefined
  readonly kv: Uint8Array | undefined
}

const NOTHING = new Uint8Array(0)

/** A whole frame, ready for the pipe. Throws MESSAGE_TOO_LARGE. */
export function encodeOrder(order: StageOrder): Uint8Array {
  switch (order.kind) {
    case 'step': {
      const { tokens, hidden } = order
      const bytes = tokens === undefined ? hidden : bytesOf(tokens)
      const { out, view } = frame(STEP_HEAD + bytes.byteLength, ORDER.step, WANTS.indexOf(order.want), (order.all ? FLAG.all : 0) | (order.kv ? FLAG.kv : 0) | (tokens === undefined ? 0 : FLAG.tokens), order.id)
      view.setUint32(8, order.session, true)
      view.setUint32(12, order.position, true)
      view.setUint32(16, order.count, true)
      out.set(bytes, PREFIX + STEP_HEAD)
      return out
    }
    case 'read':
    case 'write': {
      const rows = order.kind === 'write' ? order.rows : NOTHING
      const { out, view } = frame(STEP_HEAD + rows.byteLength, ORDER[order.kind], 0, 0, order.id)
      view.setUint32(8, order.session, true)
      view.setUint32(12, order.position, true)
      view.setUint32(16, order.count, true)
      out.set(rows, PREFIX + STEP_HEAD)
      return out
    }
    case 'open': {
      const names = textOf(order.prefix)
      const { out, view } = frame(16 + names.byteLength, ORDER.open, 0, 0, order.id)
      view.setUint32(8, order.session, true)
      view.setUint32(12, order.tokens, true)
      out.set(names, PREFIX + 16)
      return out
    }
    case 'close': {
      const { out, view } = frame(12, ORDER.close, order.keep ? 1 : 0, 0, 0)
      view.setUint32(8, order.session, true)
      return out
    }
    case 'cancel':
      return frame(8, ORDER.cancel, 0, 0, order.id).out
  }
}

/** Reads what the daemon wrote. Its parts stay in `body`. */
export function decodeOrder(body: Uint8Array): StageOrder {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength)
  const id = view.getUint32(4, true)
  const session = body.byteLength >= 12 ? view.getUint32(8, true) : 0
  switch (view.getUint8(0)) {
    case ORDER.step: {
      const flags = view.getUint16(2, true)
      const rest = body.subarray(STEP_HEAD)
      const tokens = (flags & FLAG.tokens) === 0 ? undefined : numbersOf(rest)
      return {
        kind: 'step', id, session, position: view.getUint32(12, true), count: view.getUint32(16, true), want: WANTS[view.getUint8(1)] ?? 'none',
        all: (flags & FLAG.all) !== 0, kv: (flags & FLAG.kv) !== 0, tokens, hidden: tokens === undefined ? rest : NOTHING,
      }
    }
    case ORDER.write:
      return { kind: 'write', id, session, position: view.getUint32(12, true), count: view.getUint32(16, true), rows: body.subarray(STEP_HEAD) }
    case ORDER.read:
      return { kind: 'read', id, session, position: view.getUint32(12, true), count: view.getUint32(16, true) }
    case ORDER.open:
      return { kind: 'open', id, session, tokens: view.getUint32(12, true), prefix: namesOf(body.subarray(16)) }
    case ORDER.close:
      return { kind: 'close', session, keep: view.getUint8(1) === 1 }
    case ORDER.cancel:
      return { kind: 'cancel', id }
    default:
      throw new MeshError('MESSAGE_INVALID', `no stage order has kind ${view.getUint8(0)}`)
  }
}

/** A whole frame, ready for the pipe. Throws MESSAGE_TOO_LARGE. */
export function encodeReport(report: StageReport): Uint8Array {
  if (report.kind === 'done') {
    const { out, view } = frame(12, REPORT.done, 0, 0, report.id)
    view.setUint32(8, report.held, true)
    return out
  }
  if (report.kind === 'failed') {
    const message = new TextEncoder().encode(report.message.slice(0, 2_000))
    const { out, view } = frame(12 + message.byteLength, REPORT.failed, CODES.indexOf(report.code), 0, report.id)
    view.setUint32(8, report.held, true)
    out.set(message, PREFIX + 12)
    return out
  }
  const hidden = report.hidden ?? NOTHING
  const ids = report.ids === undefined ? NOTHING : bytesOf(report.ids)
  const logits = report.logits === undefined ? NOTHING : bytesOf(report.logits)
  const kv = report.kv ?? NOTHING
  const parts = (report.hidden === undefined ? 0 : PART.hidden) | (report.ids === undefined ? 0 : PART.ids) | (report.logits === undefined ? 0 : PART.logits) | (report.kv === undefined ? 0 : PART.kv)
  const { out, view } = frame(OUTPUT_HEAD + hidden.byteLength + ids.byteLength + logits.byteLength + kv.byteLength, REPORT.output, parts, report.batch, report.id)
  view.setUint32(8, report.held, true)
  view.setFloat64(12, report.computeMs, true)
  let at = PREFIX + OUTPUT_HEAD
  for (const [index, part] of [hidden, ids, logits, kv].entries()) {
    view.setUint32(20 + index * 4, part.byteLength, true)
    out.set(part, at)
    at += part.byteLength
  }
  return out
}

/** Reads what an instance wrote. Throws MESSAGE_INVALID for bytes that are no report; whether it fits the question is for the asker to check. */
export function decodeReport(body: Uint8Array): StageReport {
  if (body.byteLength < 12) throw new MeshError('MESSAGE_INVALID', `a stage report of ${body.byteLength} bytes`)
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength)
  const kind = view.getUint8(0)
  const id = view.getUint32(4, true)
  const held = view.getUint32(8, true)
  if (kind === REPORT.done) return { kind: 'done', id, held }
  if (kind === REPORT.failed) {
    const code = CODES[view.getUint8(1)]
    if (code === undefined || body.byteLength > 16_384) throw new MeshError('MESSAGE_INVALID', 'a stage failure without a known code')
    return { kind: 'failed', id, held, code, message: new TextDecoder().decode(body.subarray(12)) }
  }
  if (kind !== REPORT.output || body.byteLength < OUTPUT_HEAD) throw new MeshError('MESSAGE_INVALID', `no stage report has kind ${kind} and ${body.byteLength} bytes`)
  const parts = view.getUint8(1)
  let at = OUTPUT_HEAD
  const part = (index: number, flag: number): Uint8Array | undefined => {
    const length = view.getUint32(20 + index * 4, true)
    const bytes = body.subarray(at, at + length)
    if (bytes.byteLength !== length || ((parts & flag) === 0 && length > 0)) throw new MeshError('MESSAGE_INVALID', 'a stage report is shorter than it says')
    at += length
    return (parts & flag) === 0 ? undefined : bytes
  }
  const hidden = part(0, PART.hidden)
  const ids = part(1, PART.ids)
  const logits = part(2, PART.logits)
  const kv = part(3, PART.kv)
  if (at !== body.byteLength || (ids?.byteLength ?? 0) % 4 !== 0 || (logits?.byteLength ?? 0) % 4 !== 0) throw new MeshError('MESSAGE_INVALID', 'the parts of a stage report do not add up')
  return {
    kind: 'output', id, held, batch: view.getUint16(2, true), computeMs: view.getFloat64(12, true), hidden, kv,
    ids: ids === undefined ? undefined : numbersOf(ids),
    logits: logits === undefined ? undefined : new Float32Array(copyOf(logits).buffer),
  }
}

function frame(length: number, kind: number, a: number, b: number, id: number): { readonly out: Uint8Array; readonly view: DataView } {
  if (length > FRAME_BYTES - 4) throw new MeshError('MESSAGE_TOO_LARGE', `a step of ${length} bytes is more than the ${FRAME_BYTES} an instance exchanges; send fewer positions at once`)
  const out = new Uint8Array(PREFIX + length)
  new DataView(out.buffer).setUint32(0, 4 + length, true)
  const view = new DataView(out.buffer, PREFIX)
  view.setUint8(0, kind)
  view.setUint8(1, a)
  view.setUint16(2, b, true)
  view.setUint32(4, id, true)
  return { out, view }
}

function bytesOf(numbers: Uint32Array | Float32Array): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)
}

function numbersOf(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(copyOf(bytes).buffer)
}

/** Hashes as text, one after another; they hold no line feeds. */
function textOf(names: readonly string[]): Uint8Array {
  return names.length === 0 ? NOTHING : new TextEncoder().encode(names.join('\n'))
}

function namesOf(bytes: Uint8Array): readonly string[] {
  return bytes.byteLength === 0 ? [] : new TextDecoder().decode(bytes).split('\n')
}

/** Aligned memory of its own: `slice` of the Buffers that pipes give is none. */
function copyOf(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array(bytes)
}
