import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { z } from 'zod'

const text = z.object({ stringValue: z.string() }).or(z.object({ intValue: z.string() })).or(z.object({ doubleValue: z.number() })).or(z.object({ boolValue: z.boolean() }))
const attributes = z.array(z.object({ key: z.string(), value: text }))
const hexadecimal = (digits: number) => z.string().regex(new RegExp(`^[0-9a-f]{${digits}}$`))
const span = z.object({
  traceId: hexadecimal(32), spanId: hexadecimal(16), parentSpanId: hexadecimal(16).optional(), name: z.string(), kind: z.int().min(1).max(5),
  startTimeUnixNano: z.string().regex(/^\d{19}$/), endTimeUnixNano: z.string().regex(/^\d{19}$/), attributes, status: z.object({ code: z.int(), message: z.string().optional() }),
})
const request = z.object({ resourceSpans: z.array(z.object({ resource: z.object({ attributes }), scopeSpans: z.array(z.object({ scope: z.object({ name: z.string() }), spans: z.array(span) })) })) })

export type Collected = z.infer<typeof span> & { readonly by: string }

/** An OpenTelemetry collector: takes OTLP over HTTP in JSON, strictly, and keeps what it got. */
export class Collector {
  readonly spans: Collected[] = []
  readonly requests: { readonly headers: NodeJS.Dict<string | string[]>; readonly spans: number }[] = []
  readonly wrong: string[] = []
  /** What to answer instead of 200, one after another. */
  readonly refusals: number[] = []
  readonly #server = createServer((asked, reply) => {
    const parts: Buffer[] = []
    asked.on('data', (part: Buffer) => parts.push(part))
    asked.on('end', () => {
      const refusal = this.refusals.shift()
      if (refusal === undefined) this.#take(asked.url ?? '', Buffer.concat(parts).toString(), asked.headers)
      reply.writeHead(refusal ?? 200, { 'content-type': 'application/json' }).end('{}')
    })
  })

  async open(): Promise<string> {
    await new Promise<void>(resolve => this.#server.listen(0, '127.0.0.1', resolve))
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }

  #take(url: string, body: string, headers: NodeJS.Dict<string | string[]>): void {
    try {
      if (url !== '/v1/traces') throw new Error(`posted to ${url}`)
      const { resourceSpans } = request.parse(JSON.parse(body))
      for (const { resource, scopeSpans } of resourceSpans) {
        const by = resource.attributes.flatMap(({ key, value }) => (key === 'service.instance.id' && 'stringValue' in value ? [value.stringValue] : []))[0] ?? ''
        const spans = scopeSpans.flatMap(scope => scope.spans).map(one => ({ ...one, by }))
        this.spans.push(...spans)
        this.requests.push({ headers, spans: spans.length })
      }
    } catch (error) {
      this.wrong.push(String(error))
    }
  }
}
