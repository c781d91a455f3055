import { pino, type Logger } from 'pino'
import { Counter, Gauge, Histogram, Registry as Metrics } from 'prom-client'
import type { Telemetry } from '../../src/ports.ts'
import { OtlpExporter, type OtlpOptions } from './otlp.ts'
import { spanRecorder } from './span-recorder.ts'

const REDACT = ['token', 'secret', 'privateKey', 'bearerKey', 'invite', '*.token', '*.secret', '*.privateKey']
/** From a call on the same host to a model that thinks for a minute. */
const BUCKETS_MS = [0.5, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 15_000, 60_000]
const SERIES_BOUND = 2_000
/** What a collector gets to take the last spans. */
const FLUSH_MS = 2_000

export type TelemetrySink = { readonly telemetry: Telemetry; exposition(): Promise<string>; readonly contentType: string; /** Sends what spans wait. */ stop(): Promise<void> }

/** Metrics for Prometheus, structured logs, and spans for a collector where there is one. `destination` is a file descriptor or path; labels must be few-valued. */
export function createTelemetry(options: { readonly level: string; readonly destination: number | string; readonly otlp?: Omit<OtlpOptions, 'onDropped'> | undefined }): TelemetrySink {
  const metrics = new Metrics()
  const log: Logger = pino({ level: options.level, redact: { paths: REDACT, censor: '(secret)' }, base: null }, pino.destination({ dest: options.destination, sync: true, mkdir: true }))
  const known = new Map<string, Counter | Gauge | Histogram>()
  const series = new Set<string>()

  const metric = <M extends Counter | Gauge | Histogram>(kind: new (init: { name: string; help: string; labelNames: string[]; registers: Metrics[]; buckets?: number[] }) => M, name: string, labels: Readonly<Record<string, string>>): M | undefined => {
    const labelNames = Object.keys(labels).sort()
    const one = `${name}|${labelNames.map(key => `${key}=${labels[key]}`).join('|')}`
    if (!series.has(one)) {
      // A label that takes unbounded values would grow memory for ever: better to lose the series.
      if (series.size >= SERIES_BOUND) return undefined
      series.add(one)
    }
    const found = known.get(name)
    if (found instanceof kind) return found
    if (found !== undefined) return undefined
    const made = new kind({ name: `aios_${name}`, help: name.replaceAll('_', ' '), labelNames, registers: [metrics], ...(name.endsWith('_ms') ? { buckets: BUCKETS_MS } : {}) })
    known.set(name, made)
    return made
  }

  const telemetry: Telemetry = {
    count: (name, labels = {}, by = 1) => metric(Counter, name, labels)?.inc({ ...labels }, by),
    gauge: (name, value, labels = {}) => metric(Gauge, name, labels)?.set({ ...labels }, value),
    observe: (name, value, labels = {}) => metric(Histogram, name, labels)?.observe({ ...labels }, value),
    event: (level, name, fields) => log[level](fields, name),
  }
  const { otlp } = options
  if (otlp === undefined) return { telemetry, exposition: () => metrics.metrics(), contentType: metrics.contentType, stop: async () => undefined }
  const exporter = new OtlpExporter({ ...otlp, onDropped: (spans, because) => telemetry.count('spans_dropped_total', { because }, spans) })
  return { telemetry: { ...telemetry, span: spanRecorder(span => exporter.take(span), otlp.ratio) }, exposition: () => metrics.metrics(), contentType: metrics.contentType, stop: () => exporter.stop(FLUSH_MS) }
}
