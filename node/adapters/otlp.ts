import { setTimeout as sleep } from 'node:timers/promises'
import { MeshError } from '../../protocols/errors.ts'
import type { Attributes, RecordedSpan } from './span-recorder.ts'

export type OtlpOptions = {
  /** Where traces are posted, whole: `http://host:4318/v1/traces`. */
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  /** What the resource is: `service.name` and more. */
  readonly resource: Attributes
  /** Part of the traces that begin here which is recorded. */
  readonly ratio: number
  readonly queue: number
  readonly batch: number
  readonly everyMs: number
  readonly timeoutMs: number
  readonly onDropped: (spans: number, because: 'full' | 'refused' | 'unreachable') => void
}

const KINDS = { internal: 1, server: 2, client: 3 } as const
/** A collector that is away for longer loses the batch: the next ones are newer. */
const TRIES = 4
const AGAIN_MS = 500
/** OTLP/HTTP: these may be sent again. */
const TRANSIENT = new Set([408, 429, 502, 503, 504])
const SCOPE = { name: 'aios-mesh' }

/** Sends spans to a collector by OTLP over HTTP in JSON, in batches. What finds no room in the queue is dropped and counted: tracing never makes anybody wait. */
export class OtlpExporter {
  readonly #options: OtlpOptions
  readonly #queue: RecordedSpan[] = []
  readonly #timer: NodeJS.Timeout
  readonly #stopping = new AbortController()
  #sending: Promise<void> | undefined

  constructor(options: OtlpOptions) {
    this.#options = options
    this.#timer = setInterval(() => void this.flush(), options.everyMs).unref()
  }

  take(span: RecordedSpan): void {
    if (this.#queue.length >= this.#options.queue) return this.#options.onDropped(1, 'full')
    this.#queue.push(span)
    if (this.#queue.length >= this.#options.batch) void this.flush()
  }

  /** Sends what waits. Never throws. */
  flush(): Promise<void> {
    this.#sending ??= this.#sendAll().finally(() => { this.#sending = undefined })
    return this.#sending
  }

  /** Sends what waits, and gives up after `patienceMs`. */
  async stop(patienceMs: number): Promise<void> {
    clearInterval(this.#timer)
    const late = setTimeout(() => this.#stopping.abort(), patienceMs).unref()
    await this.flush()
    clearTimeout(late)
    this.#stopping.abort()
  }

  async #sendAll(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#queue.splice(0, this.#options.batch)
      const outcome = await this.#send(JSON.stringify(this.#request(batch)))
      if (outcome !== 'taken') this.#options.onDropped(batch.length, outcome)
    }
  }

  async #send(body: string): Promise<'taken' | 'refused' | 'unreachable'> {
    const { url, headers, timeoutMs } = this.#options
    for (let tries = 1; ; tries += 1) {
      try {
        const response = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body, signal: AbortSignal.any([AbortSignal.timeout(timeoutMs), this.#stopping.signal]) })
        await response.body?.cancel()
        if (response.ok) return 'taken'
        if (!TRANSIENT.has(response.status)) return 'refused'
      } catch {
        // Away, or too slow.
      }
      if (tries >= TRIES || this.#stopping.signal.aborted) return 'unreachable'
      await sleep(AGAIN_MS * 2 ** (tries - 1) * (0.5 + Math.random()), undefined, { signal: this.#stopping.signal, ref: false }).catch(() => undefined)
    }
  }

  #request(spans: readonly RecordedSpan[]): object {
    return { resourceSpans: [{ resource: { attributes: written(this.#options.resource) }, scopeSpans: [{ scope: SCOPE, spans: spans.map(otlpSpan) }] }] }
  }
}

function otlpSpan({ traceId, spanId, parentId, name, kind, startMs, endMs, attributes, failure }: RecordedSpan): object {
  return {
    traceId, spanId, ...(parentId === undefined ? {} : { parentSpanId: parentId }), name, kind: KINDS[kind],
    startTimeUnixNano: nanos(startMs), endTimeUnixNano: nanos(endMs), attributes: written(attributes),
    status: failure === undefined ? { code: 0 } : { code: 2, message: failure },
  }
}

/** As OTLP's JSON has 64 bits: text. */
function nanos(ms: number): string {
  const whole = Math.floor(ms)
  return (BigInt(whole) * 1_000_000n + BigInt(Math.round((ms - whole) * 1e6))).toString()
}

function written(attributes: Attributes): readonly object[] {
  return Object.entries(attributes).map(([key, value]) => ({ key, value: typeof value === 'string' ? { stringValue: value } : typeof value === 'boolean' ? { boolValue: value } : Number.isSafeInteger(value) ? { intValue: String(value) } : { doubleValue: value } }))
}

/**
 * What OpenTelemetry's own variables say: OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT, taken as it is), …_HEADERS,
 * OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER(_ARG), OTEL_BSP_*. `endpoint`, if given, comes before them.
 * Undefined where nothing names a collector. Throws BAD_INPUT.
 */
export function otlpOptions(endpoint: string | undefined, env: Readonly<Record<string, string | undefined>>): Omit<OtlpOptions, 'onDropped'> | undefined {
  const base = endpoint ?? env['OTEL_EXPORTER_OTLP_ENDPOINT']
  const whole = endpoint === undefined ? env['OTEL_EXPORTER_OTLP_TRACES_ENDPOINT'] : undefined
  if (env['OTEL_SDK_DISABLED'] === 'true' || (endpoint === undefined && env['OTEL_TRACES_EXPORTER'] === 'none') || (base ?? whole ?? '') === '') return undefined
  const url = whole ?? `${(base ?? '').replace(/\/+$/, '').replace(/\/v1\/traces$/, '')}/v1/traces`
  if (!URL.canParse(url) || !/^https?:/.test(url)) throw new MeshError('BAD_INPUT', `a collector's address is http://HOST:PORT, not ${base ?? whole}`)
  const sampler = env['OTEL_TRACES_SAMPLER'] ?? 'parentbased_always_on'
  const ratio = sampler.endsWith('always_off') ? 0 : sampler.endsWith('traceidratio') ? Math.min(1, Math.max(0, Number(env['OTEL_TRACES_SAMPLER_ARG'] ?? '1') || 0)) : 1
  const count = (name: string, fallback: number): number => {
    const given = Number(env[name])
    return Number.isInteger(given) && given > 0 ? given : fallback
  }
  const batch = count('OTEL_BSP_MAX_EXPORT_BATCH_SIZE', 512)
  return {
    url, headers: pairs(env['OTEL_EXPORTER_OTLP_TRACES_HEADERS'] ?? env['OTEL_EXPORTER_OTLP_HEADERS']),
    resource: { ...pairs(env['OTEL_RESOURCE_ATTRIBUTES']), 'service.name': env['OTEL_SERVICE_NAME'] ?? 'aios-mesh' },
    ratio, batch, queue: Math.max(batch, count('OTEL_BSP_MAX_QUEUE_SIZE', 2_048)), everyMs: count('OTEL_BSP_SCHEDULE_DELAY', 2_000), timeoutMs: count('OTEL_EXPORTER_OTLP_TIMEOUT', 5_000),
  }
}

/** `key=value,key=value`, each percent-encoded, as W3C's baggage has it. */
function pairs(text: string | undefined): Record<string, string> {
  return Object.fromEntries((text ?? '').split(',').flatMap(pair => {
    const at = pair.indexOf('=')
    if (at <= 0) return []
    const value = pair.slice(at + 1).trim()
    try {
      return [[pair.slice(0, at).trim(), decodeURIComponent(value)]]
    } catch {
      return [[pair.slice(0, at).trim(), value]]
    }
  }))
}
