import { randomBytes } from 'node:crypto'
import { readTraceparent, writeTraceparent } from '../../protocols/trace.ts'
import type { Telemetry, TraceSpan } from '../../src/ports.ts'

export type Attributes = Readonly<Record<string, string | number | boolean>>
export type RecordedSpan = {
  readonly traceId: string
  readonly spanId: string
  readonly parentId: string | undefined
  readonly name: string
  readonly kind: 'server' | 'client' | 'internal'
  /** Milliseconds since 1970, with fractions. */
  readonly startMs: number
  readonly endMs: number
  readonly attributes: Attributes
  readonly failure: string | undefined
}

const NAME = 120
const TEXT = 300
/** What is not sampled is passed on as such and recorded by nobody. */
const FLAGLESS = { end: () => undefined }

/**
 * Begins spans and hands each that has ended to `take`. A trace that a caller began is recorded when the caller says so, one that
 * begins here in `ratio` of the cases.
 */
export function spanRecorder(take: (span: RecordedSpan) => void, ratio: number): NonNullable<Telemetry['span']> {
  return (name, kind, parent, attributes): TraceSpan => {
    const above = readTraceparent(parent)
    const sampled = above?.sampled ?? Math.random() < ratio
    const traceId = above?.traceId ?? randomBytes(16).toString('hex')
    if (!sampled) return { traceparent: parent ?? writeTraceparent({ traceId, spanId: randomBytes(8).toString('hex'), sampled }), ...FLAGLESS }
    const spanId = randomBytes(8).toString('hex')
    // The clock of the wall may jump within a span; the other one does not.
    const startMs = Date.now()
    const began = performance.now()
    let open = true
    return {
      traceparent: writeTraceparent({ traceId, spanId, sampled }),
      end(failure, more = {}) {
        if (!open) return
        open = false
        take({ traceId, spanId, parentId: above?.spanId, name: name.slice(0, NAME), kind, startMs, endMs: startMs + (performance.now() - began), attributes: bounded({ ...attributes, ...more }), failure })
      },
    }
  }
}

function bounded(attributes: Attributes): Attributes {
  return Object.fromEntries(Object.entries(attributes).map(([key, value]) => [key, typeof value === 'string' ? value.slice(0, TEXT) : value]))
}
