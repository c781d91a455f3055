import { z } from 'zod'
import { check, decode, defineProtocol, defineStream, encode } from './codec.ts'
import { MeshError } from './errors.ts'
import { endEvent, generationRequest, sessionId, type GenerationEvent } from './generation.ts'
import { bytes, epoch, peerId } from './ids.ts'
import { keptPlan } from './stage.ts'
import { FrameReader, FrameWriter } from './stage-bytes.ts'

/** Bytes of events in one message; more come in several. */
export const LOG_BYTES = 1_048_576
const END = 0xffff_ffff
const TOP_BOUND = 20

/** Events one after another: `u32 token | u32 length, text | u8 flags | f64 logprob? | (u8 n, n × (u32, f64))?`; the end as `u32 ffffffff | u32 length, DAG-CBOR`. */
export function encodeEvents(events: readonly GenerationEvent[]): Uint8Array {
  const out = new FrameWriter()
  for (const event of events) {
    if (event.kind === 'end') {
      const end = encode(event)
      out.u32(END).u32(end.byteLength).bytes(end)
      continue
    }
    const { token, text, logprob, top } = event
    out.u32(token).prose(text).u8((logprob === undefined ? 0 : 1) | (top === undefined ? 0 : 2))
    if (logprob !== undefined) out.f64(logprob)
    if (top === undefined) continue
    out.u8(top.length)
    for (const each of top) out.u32(each.token).f64(each.logprob)
  }
  return out.joined()
}

/** Reads them back; the first is number `from`. Throws MESSAGE_INVALID. */
export function decodeEvents(bytes: Uint8Array, from: number): readonly GenerationEvent[] {
  const input = new FrameReader(bytes, 'a token log')
  const events: GenerationEvent[] = []
  while (!input.done) {
    const token = input.u32()
    if (token === END) {
      events.push(decode(endEvent, input.take(input.u32()), 16_384, 'the end of a generation'))
      if (!input.done) throw input.broken('goes on after its end')
      break
    }
    const text = input.prose()
    const flags = input.u8()
    const logprob = (flags & 1) === 0 ? {} : { logprob: input.f64() }
    events.push({ kind: 'token', index: from + events.length, token, text, ...logprob, ...((flags & 2) === 0 ? {} : { top: readTop(input) }) })
  }
  return events
}

function readTop(input: FrameReader): { readonly token: number; readonly logprob: number }[] {
  const count = input.u8()
  if (count > TOP_BOUND) throw input.broken(`names ${count} alternatives`)
  return Array.from({ length: count }, () => ({ token: input.u32(), logprob: input.f64() }))
}

const keep = z.object({
  session: sessionId,
  epoch,
  fresh: z.boolean(),
  request: generationRequest.optional(),
  /** Milliseconds that the session may still take. */
  leftMs: z.int().nonnegative(),
  plan: keptPlan,
  /** Events from 0 on, as far as they fit. */
  events: bytes,
})
export type GenerationKeep = z.infer<typeof keep>

/**
 * The origin of a session gives a mirror all that is needed to go on without it. Said again with every new plan; without
 * `request` to a mirror that has it. `fresh`: the session begins; a mirror that knows it from somebody else says whose it is.
 */
export const generationKeep = defineProtocol({
  id: '/aios/generation-keep/1',
  request: keep,
  /** `have`: events held; absent: the mirror lacks the request. `origin`: refused, it is that peer's. */
  response: z.object({ have: z.int().nonnegative().optional(), origin: peerId.optional(), epoch: epoch.optional() }),
  // A prompt of a million tokens is 5 MB.
  limits: { requestBytes: 8_388_608, responseBytes: 512, perPeerPerSecond: 2_000, deadlineMs: 5_000 },
})

/** Who has a session? Or: end it. `drop`: the asker began it and gives it up. */
export const generationAsk = defineProtocol({
  id: '/aios/generation-ask/1',
  request: z.object({ session: sessionId, do: z.enum(['find', 'cancel', 'drop']) }),
  /** `origin`: who generates, as far as the answerer knows; `events`: how many it holds itself. */
  response: z.object({ known: z.boolean(), origin: peerId.optional(), epoch: epoch.optional(), events: z.int().nonnegative(), ended: z.boolean() }),
  limits: { requestBytes: 512, responseBytes: 512, perPeerPerSecond: 2_000, deadlineMs: 2_000 },
})

const follow = z.object({ session: sessionId, after: z.int().nonnegative() })
/** The asker sends one `follow`; the other side answers with events until the end, or says who has them now. */
export type FollowFrame =
  | { readonly kind: 'follow'; readonly session: string; readonly after: number }
  | { readonly kind: 'events'; readonly from: number; readonly events: readonly GenerationEvent[] }

/** `u8 0 | DAG-CBOR { session, after }`, or `u8 1 | u32le from | events`. */
export const generationStream = defineStream<FollowFrame>({
  id: '/aios/generation/1',
  encode(frame) {
    const out = new FrameWriter()
    if (frame.kind === 'follow') out.u8(0).bytes(encode({ session: frame.session, after: frame.after }))
    else out.u8(1).u32(frame.from).bytes(encodeEvents(frame.events))
    return out.joined()
  },
  decode(bytes) {
    const input = new FrameReader(bytes, 'a follow frame')
    switch (input.u8()) {
      case 0: return { kind: 'follow', ...check(follow, decode(follow, input.rest(), 512, 'follow'), 'follow') }
      case 1: {
        const from = input.u32()
        return { kind: 'events', from, events: decodeEvents(input.rest(), from) }
      }
      default: throw new MeshError('MESSAGE_INVALID', 'a follow frame of an unknown kind')
    }
  },
  limits: { frameBytes: 2_097_152, queuedFrames: 64, idleMs: 600_000, perPeerPerSecond: 1_000 },
})
