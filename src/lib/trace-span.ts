import { asMeshError } from '../../protocols/errors.ts'
import type { Telemetry, TraceSpan } from '../ports.ts'

type Attributes = Readonly<Record<string, string | number | boolean>>

/** Begins a span below `parent`. Where nobody collects spans it is none, and whoever comes next is below `parent` itself. */
export function traceSpan(telemetry: Telemetry, name: string, kind: 'server' | 'client' | 'internal', parent: string | undefined, attributes: Attributes = {}): TraceSpan {
  return telemetry.span?.(name, kind, parent, attributes) ?? { traceparent: parent, end: () => undefined }
}

/** Why a span failed, for its collector. */
export function failureText(error: unknown): string {
  const { code, message } = asMeshError(error)
  return `${code}: ${message}`.slice(0, 500)
}
