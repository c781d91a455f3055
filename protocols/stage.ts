import { z } from 'zod'
import { defineProtocol, defineStream, utf8 } from './codec.ts'
import { MeshError } from './errors.ts'
import { sessionId, stagePlan, type SessionId } from './generation.ts'
import { blockId, bytes, epoch, instanceId } from './ids.ts'
import { FrameReader, FrameWriter } from './stage-bytes.ts'
import { traceparent } from './trace.ts'

/** Tokens of a prompt that one prefix hash covers beyond the one before it. */
export const PREFIX_BLOCK = 64

/** Of a prompt that goes along with an opening. */
const OPENING_BYTES = 65_536

const open = z.object({
  session: sessionId,
  epoch,
  stage: z.int().min(0).max(127),
  role: z.enum(['primary', 'standby']),
  block: blockId,
  instance: instanceId,
  /** The origin's idea of the contract's epoch. */
  contractEpoch: epoch,
  reserve: z.int().positive().max(2_097_152),
  /** Positions whose tokens the origin knows. */
  known: z.int().nonnegative(),
  /** A chained hash for each full block of prompt tokens. */
  prefix: z.array(z.string().max(64)).max(16_384),
  trace: traceparent.optional(),
  /** The prompt's tokens, u32le, of a new session: the first stage begins to compute what it lacks before it hears of the chain. */
  prompt: bytes.refine(({ byteLength }) => byteLength % 4 === 0 && byteLength <= OPENING_BYTES, 'tokens of four bytes, and not too many').optional(),
})
export type StageOpen = z.infer<typeof open>

/**
 * The origin of a session asks a host for a place: KV for `reserve` positions in one instance. Said again with a higher
 * epoch when the session goes on after a failure; the host then drops what belongs to older epochs, forgets positions
 * from `known` on, and answers what it holds.
 */
export const stageOpen = defineProtocol({
  id: '/aios/stage-open/1',
  request: open,
  /** Positions [0, have) are held; what was sent on for [logFrom, have) can be sent again. */
  response: z.object({ have: z.int().nonnegative(), logFrom: z.int().nonnegative() }),
  // 16,384 prefix hashes of 32 digits cover a million tokens. A host that dies makes its sessions open all their stages again.
  limits: { requestBytes: 786_432, responseBytes: 512, perPeerPerSecond: 5_000, deadlineMs: 5_000 },
})

/** Where the chain goes, and from which position each stage needs its input. */
export type Hop = { readonly host: string; readonly from: number }

type Head = { readonly session: SessionId; readonly epoch: number; readonly stage: number }

/** What peers that serve sessions tell each other, many sessions over one stream. `stage.md` says who sends what to whom. */
export type StageFrame = Head & (
  /** Positions [position, position + count) of a session, into `stage`. The last `loose` of them are guesses. */
  | { readonly kind: 'step'; readonly position: number; readonly count: number; readonly loose: number; readonly want: 'none' | 'greedy' | 'logits'; readonly rows: 'last' | 'all'; readonly input: { readonly tokens: readonly number[] } | { readonly hidden: Uint8Array } }
  /** Goes down the chain before the first step of an epoch. `known`: no output is wanted for steps that end before it. */
  | { readonly kind: 'resume'; readonly known: number; readonly hops: readonly Hop[] }
  | { readonly kind: 'output'; readonly position: number; readonly count: number; readonly computeMs: number; readonly result: { readonly ids: readonly number[] } | { readonly logits: Float32Array } | undefined }
  /** `blame`: the stage that cannot go on. */
  | { readonly kind: 'failed'; readonly blame: number; readonly code: string; readonly message: string }
  | { readonly kind: 'kv'; readonly position: number; readonly count: number; readonly rows: Uint8Array }
  | { readonly kind: 'held'; readonly position: number }
  /** The standby of `stage` is `host`, and holds [0, position). Empty host: there is none. */
  | { readonly kind: 'guard'; readonly position: number; readonly host: string }
  | { readonly kind: 'touch' }
  /** The session is to move to the standby: bring it up to date at every step, and tell the origin how far it is. */
  | { readonly kind: 'hurry' }
  | { readonly kind: 'close'; readonly keep: boolean }
  /** Events of the token log from number `from` on, as `generation-log.ts` writes them. */
  | { readonly kind: 'log'; readonly from: number; readonly events: Uint8Array }
  /** `have`: events that the mirror holds; absent where it does not know the session. */
  | { readonly kind: 'logged'; readonly have: number | undefined }
)

const KINDS = ['step', 'resume', 'output', 'failed', 'kv', 'held', 'guard', 'touch', 'close', 'log', 'logged', 'hurry'] as const
const WANTS = ['none', 'greedy', 'logits'] as const
const UNKNOWN = 0xffff_ffff
/** Positions of one step: more than any prefill chunk. */
const COUNT_BOUND = 65_536
const MAX_HOPS = 128

function body(frame: StageFrame, out: FrameWriter): void {
  switch (frame.kind) {
    case 'step':
      out.u32(frame.position).u32(frame.count).u32(frame.loose).u8(WANTS.indexOf(frame.want)).u8(frame.rows === 'all' ? 1 : 0)
      if ('tokens' in frame.input) out.u8(0).words(frame.input.tokens)
      else out.u8(1).bytes(frame.input.hidden)
      return
    case 'resume':
      out.u32(frame.known).u8(frame.hops.length)
      for (const { host, from } of frame.hops) out.text(host).u32(from)
      return
    case 'output':
      out.u32(frame.position).u32(frame.count).f32(frame.computeMs)
      if (frame.result === undefined) out.u8(0)
      else if ('ids' in frame.result) out.u8(1).words(frame.result.ids)
      else out.u8(2).floats(frame.result.logits)
      return
    case 'failed':
      out.u8(frame.blame).text(frame.code).bytes(utf8(frame.message.slice(0, 1_000)))
      return
    case 'kv':
      out.u32(frame.position).u32(frame.count).bytes(frame.rows)
      return
    case 'held':
      out.u32(frame.position)
      return
    case 'guard':
      out.u32(frame.position).text(frame.host)
      return
    case 'close':
      out.u8(frame.keep ? 1 : 0)
      return
    case 'log':
      out.u32(frame.from).bytes(frame.events)
      return
    case 'logged':
      out.u32(frame.have ?? UNKNOWN)
      return
    case 'touch':
    case 'hurry':
  }
}

function read(kind: (typeof KINDS)[number], head: Head, input: FrameReader): StageFrame {
  switch (kind) {
    case 'step': {
      const [position, count, loose] = [input.u32(), input.u32(), input.u32()]
      const want = WANTS[input.u8()]
      const rows = input.u8() === 1 ? 'all' : 'last'
      const form = input.u8()
      if (want === undefined || form > 1) throw input.broken('asks for what there is not')
      const given = form === 0 ? { tokens: input.words() } : { hidden: input.rest() }
      if (count === 0 || count > COUNT_BOUND || loose > count) throw input.broken(`has ${count} positions, ${loose} of them guesses`)
      if (given.tokens !== undefined && given.tokens.length !== count) throw input.broken(`has ${given.tokens.length} tokens for ${count} positions`)
      return { kind, ...head, position, count, loose, want, rows, input: given }
    }
    case 'resume': {
      const known = input.u32()
      const count = input.u8()
      if (count === 0 || count > MAX_HOPS) throw input.broken(`has ${count} stages`)
      const hops = Array.from({ length: count }, () => ({ host: input.text(), from: input.u32() }))
      return { kind, ...head, known, hops }
    }
    case 'output': {
      const [position, count, computeMs] = [input.u32(), input.u32(), input.f32()]
      const form = input.u8()
      if (form > 2) throw input.broken('has an unknown result')
      return { kind, ...head, position, count, computeMs, result: form === 0 ? undefined : form === 1 ? { ids: input.words() } : { logits: input.floats() } }
    }
    case 'failed':
      return { kind, ...head, blame: input.u8(), code: input.text(), message: input.tail() }
    case 'kv': {
      const [position, count, rows] = [input.u32(), input.u32(), input.rest()]
      if (count === 0 || count > COUNT_BOUND) throw input.broken(`has ${count} positions`)
      return { kind, ...head, position, count, rows }
    }
    case 'held':
      return { kind, ...head, position: input.u32() }
    case 'guard':
      return { kind, ...head, position: input.u32(), host: input.text() }
    case 'touch':
    case 'hurry':
      return { kind, ...head }
    case 'close':
      return { kind, ...head, keep: input.u8() === 1 }
    case 'log':
      return { kind, ...head, from: input.u32(), events: input.rest() }
    case 'logged': {
      const have = input.u32()
      return { kind, ...head, have: have === UNKNOWN ? undefined : have }
    }
  }
}

/** `u8 kind | u8 stage | u8 length, session | f64le epoch`, then what `stage.md` lists for the kind. */
export const stageStream = defineStream<StageFrame>({
  id: '/aios/stage/1',
  encode(frame) {
    const out = new FrameWriter()
    out.u8(KINDS.indexOf(frame.kind)).u8(frame.stage).text(frame.session).f64(frame.epoch)
    body(frame, out)
    return out.joined()
  },
  pieces(frame) {
    const out = new FrameWriter()
    out.u8(KINDS.indexOf(frame.kind)).u8(frame.stage).text(frame.session).f64(frame.epoch)
    body(frame, out)
    return out.pieces()
  },
  decode(bytes) {
    const input = new FrameReader(bytes, 'a stage frame')
    const kind = KINDS[input.u8()]
    const stage = input.u8()
    const session = input.text()
    const epoch = input.f64()
    if (kind === undefined) throw input.broken('is of an unknown kind')
    if (!session.startsWith('gen-') || session.length > 80) throw input.broken('names no session')
    if (!Number.isSafeInteger(epoch) || epoch < 0) throw input.broken('has no epoch')
    const frame = read(kind, { session, epoch, stage }, input)
    if (!input.done) throw new MeshError('MESSAGE_INVALID', `a ${kind} frame has bytes left over`)
    return frame
  },
  // Logits of a few guesses of a large vocabulary are some MiB. A session has one decode frame under way on a hop; 256 unread are hundreds of sessions.
  limits: { frameBytes: 16_777_216, queuedFrames: 256, idleMs: 600_000, perPeerPerSecond: 20 },
})

/** What of a plan a mirror keeps: where the KV is. */
export const keptPlan = z.array(stagePlan).max(MAX_HOPS)
