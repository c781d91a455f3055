import assert from 'node:assert/strict'
import { OtlpExporter, otlpOptions, type OtlpOptions } from '../../node/adapters/otlp.ts'
import { spanRecorder, type RecordedSpan } from '../../node/adapters/span-recorder.ts'
import { readTraceparent } from '../../protocols/trace.ts'
import { Collector } from '../e2e/collector.ts'

describe('spans for a collector', () => {
  const collector = new Collector()
  let url: string
  let dropped: string[]
  before(async () => { url = `${await collector.open()}/v1/traces` })
  after(() => collector.close())
  beforeEach(() => {
    collector.spans.length = 0
    collector.requests.length = 0
    dropped = []
  })

  const exporter = (over: Partial<OtlpOptions> = {}): OtlpExporter => new OtlpExporter({
    url, headers: { 'x-team': 'mesh' }, resource: { 'service.name': 'test', 'service.instance.id': 'peer-a' }, ratio: 1, queue: 100, batch: 10, everyMs: 3_600_000, timeoutMs: 2_000,
    onDropped: (spans, because) => dropped.push(`${spans} ${because}`), ...over,
  })
  const fill = (to: OtlpExporter, count: number): void => {
    const begin = spanRecorder(span => to.take(span), 1)
    for (let at = 0; at < count; at += 1) begin(`work ${at}`, 'internal', undefined, { at, half: at / 2, odd: at % 2 === 1 }).end(at === 0 ? 'INTERNAL: a bug' : undefined)
  }

  it('go in batches, in the form that collectors take, with its headers', async () => {
    const out = exporter()
    fill(out, 25)
    await out.stop(5_000)
    assert.deepEqual(collector.wrong, [])
    assert.equal(collector.spans.length, 25)
    assert.ok(collector.requests.every(({ spans, headers }) => spans <= 10 && headers['x-team'] === 'mesh'))
    assert.deepEqual(collector.spans.map(({ status }) => status.code), [2, ...Array.from({ length: 24 }, () => 0)])
    assert.ok(collector.spans.every(({ startTimeUnixNano, endTimeUnixNano, by }) => BigInt(endTimeUnixNano) >= BigInt(startTimeUnixNano) && by === 'peer-a'))
    assert.deepEqual(dropped, [])
  })

  it('beyond the bound of the queue are dropped and counted, and nobody waits', async () => {
    const out = exporter({ queue: 12, batch: 1_000 })
    fill(out, 40)
    assert.equal(dropped.length, 28)
    await out.stop(5_000)
    assert.equal(collector.spans.length, 12)
  })

  it('are sent again to a collector that is busy, and not to one that refuses them', async () => {
    collector.refusals.push(503)
    const out = exporter()
    fill(out, 3)
    await out.flush()
    assert.equal(collector.spans.length, 3)
    collector.refusals.push(400)
    fill(out, 2)
    await out.stop(5_000)
    assert.deepEqual([collector.spans.length, dropped], [3, ['2 refused']])
  })

  it('are given up when nobody is there, within the patience of whoever stops', async () => {
    const out = exporter({ url: 'http://127.0.0.1:1/v1/traces' })
    fill(out, 2)
    await out.stop(50)
    assert.deepEqual(dropped, ['2 unreachable'])
  })

  it('belong to their caller\'s trace, are not recorded where the caller says so, and name their parent', () => {
    const seen: RecordedSpan[] = []
    const begin = spanRecorder(span => seen.push(span), 1)
    const above = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    const outer = begin('outer', 'server', above, {})
    const inner = begin('inner', 'client', outer.traceparent, {})
    inner.end()
    inner.end('twice counts once')
    outer.end()
    assert.deepEqual(seen.map(({ name, traceId, parentId, failure }) => [name, traceId, parentId, failure]), [['inner', '0af7651916cd43dd8448eb211c80319c', seen[1]?.spanId, undefined], ['outer', '0af7651916cd43dd8448eb211c80319c', 'b7ad6b7169203331', undefined]])
    const unsampled = `${above.slice(0, -2)}00`
    assert.equal(begin('quiet', 'server', unsampled, {}).traceparent, unsampled)
    const never = spanRecorder(() => assert.fail('it is not sampled'), 0)('root', 'server', undefined, {})
    never.end()
    assert.equal(readTraceparent(never.traceparent)?.sampled, false)
  })

  it('go where the environment says, and where the command says before that', () => {
    assert.equal(otlpOptions(undefined, {}), undefined)
    assert.equal(otlpOptions(undefined, { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c:4318/' })?.url, 'http://c:4318/v1/traces')
    assert.equal(otlpOptions(undefined, { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://c:4318/own' })?.url, 'http://c:4318/own')
    assert.equal(otlpOptions('http://mine:1', { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://c:4318/own' })?.url, 'http://mine:1/v1/traces')
    const full = otlpOptions(undefined, { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c', OTEL_EXPORTER_OTLP_HEADERS: 'authorization=Bearer%20x,team=a', OTEL_SERVICE_NAME: 's', OTEL_TRACES_SAMPLER: 'parentbased_traceidratio', OTEL_TRACES_SAMPLER_ARG: '0.25', OTEL_BSP_MAX_QUEUE_SIZE: '9', OTEL_BSP_MAX_EXPORT_BATCH_SIZE: '3' })
    assert.deepEqual([full?.headers, full?.resource['service.name'], full?.ratio, full?.queue, full?.batch], [{ authorization: 'Bearer x', team: 'a' }, 's', 0.25, 9, 3])
    assert.throws(() => otlpOptions('collector:4318', {}), { code: 'BAD_INPUT' })
    assert.equal(otlpOptions(undefined, { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c', OTEL_SDK_DISABLED: 'true' }), undefined)
  })
})
