import assert from 'node:assert/strict'
import { encode } from '../../protocols/codec.ts'
import { metricsPull } from '../../protocols/metrics.ts'
import { ManualClock, Metrics } from '../../sdk/index.ts'
import { Rolling } from '../../sdk/instruments.ts'
import { toJson } from '../../src/lib/json.ts'
import { HostMetrics } from '../../src/metrics/host-metrics.ts'
import { started } from '../placement/mesh.ts'

describe('what a host tells of itself', () => {
  it('fits an answer, however many instances it has and whatever they measure, and says how many it left out', async () => {
    const { world } = await started({ peers: 1 })
    const [peer] = [...world.peers.values()]
    assert.ok(peer)
    const metrics = new Metrics(new ManualClock())
    for (let name = 0; name < 250; name += 1) metrics.rolling(`r${name}`).observe(0.5)
    const reported = toJson(metrics.snapshot())
    const nothing = new Rolling(new ManualClock()).window(1)
    const instances = Array.from({ length: 200 }, (_, at) => ({ instance: `in-${at}`, block: at % 2 === 0 ? 'even' : 'odd', state: 'ready' as const, inFlight: 0, queued: 0, memoryMb: 0.5, cpuPercent: 0.5, gpus: [], reported: at === 7 ? {} : reported, record: { served: 1, failed: 0, latency: nothing, uptimeMs: 1 } }))
    const host = new HostMetrics(peer.ports, { instances: { measured: () => instances }, vdags: { measured: () => [] } }, () => 'c')
    const told = host.answer({ node: false, vdags: false })
    assert.ok(encode(metricsPull.response.parse(told)).byteLength < metricsPull.limits.responseBytes)
    assert.ok(told.left > 0 && told.left + told.instances.length === 200)
    assert.equal(told.instances[0]?.instance, 'in-7', 'the smallest first')
    assert.deepEqual(host.answer({ node: false, vdags: false, blocks: ['even'] }).instances.map(({ block }) => block).filter(block => block !== 'even'), [])
  })
})
