import { z } from 'zod'

/** W3C trace context: version, trace, parent span, flags. A later version may say more behind it, which is passed on to nobody. */
const FORM = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?=$|-)/
const VERSION_0 = /^00-.{52}$/

export type TraceContext = { readonly traceId: string; readonly spanId: string; readonly sampled: boolean }

/** A `traceparent` as it travels between peers: of version 00. */
export const traceparent = z.string().max(60)

/** Reads a `traceparent` header (W3C Trace Context, 2021). Undefined where it is none: the trace then begins here. */
export function readTraceparent(text: string | undefined): TraceContext | undefined {
  const given = text?.trim() ?? ''
  const match = FORM.exec(given)
  // Version 00 ends with its flags; later ones may go on.
  if (match === null || (given.startsWith('00') && !VERSION_0.test(given))) return undefined
  const [, traceId = '', spanId = '', flags = ''] = match
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 }
}

export function writeTraceparent({ traceId, spanId, sampled }: TraceContext): string {
  return `00-${traceId}-${spanId}-${sampled ? '01' : '00'}`
}
