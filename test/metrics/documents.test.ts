import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import { ManualClock, Metrics } from '../../sdk/index.ts'
import { Rolling } from '../../sdk/instruments.ts'
import { isJsonObject, toJson, type JsonObject } from '../../src/lib/json.ts'
import { aggregate, clusterMetricsOf } from '../../src/metrics/aggregate.ts'
import { instanceMetrics, type InstanceFacts } from '../../src/metrics/instance-metrics.ts'
import { nodeMetrics, type NodeFacts } from '../../src/metrics/node-metrics.ts'

const nothing = new Rolling(new ManualClock()).window(60_000)
const facts: InstanceFacts = { block: 'b', instance: 'in-1', host: 'peer-a', state: 'ready', at: 5_000, uptimeMs: 3_000, queued: 1, inFlight: 2, served: 7, failed: 1, latency: nothing, memoryMb: 12, cpuPercent: 40, reported: {} }
const host: NodeFacts = {
  peer: 'peer-a', cluster: 'c', at: 5_000,
  total: { cpuMilli: 4_000, memoryMb: 1_000, diskMb: 100, gpus: [{ id: 'g0', name: 'G', memoryMb: 100, freeMb: 60 }] },
  usage: { cpuLoad: 0.5, memoryFreeMb: 400, diskFreeMb: 50, gpus: [{ id: 'g0', freeMb: 60, utilisation: 0.5, memoryUtilisation: 0.25, powerUtilisation: 0.1, temperature: 40 }] },
  counters: {
    load: [1, 2, 3], processes: { runningThreads: 2, totalThreads: 90, runningProcesses: 1, totalProcesses: 30 }, memory: { totalMb: 1_000, freeMb: 400, swapUsedMb: 5, swapFreeMb: 6, pageFaultsPerSec: 7 },
    disk: { totalMb: 200, freeMb: 50 }, iops: { blocksPerSec: 1, readBytes: 2, writeBytes: 3, total: 4, active: 5, response: 6 }, network: { txBytesTotal: 10, rxBytesTotal: 11 },
  },
}

function at(document: JsonObject, path: string): unknown {
  return path.split('.').reduce<unknown>((value, key) => (value !== null && typeof value === 'object' && key in value ? (value as JsonObject)[key] : undefined), document)
}

describe("AIOS's metrics documents", () => {
  it('a node has every metric of the list, under its name', () => {
    const node = nodeMetrics(host)
    const names = [
      ...['load1m', 'load5m', 'load15m', 'runningThreads', 'runningProcesses', 'totalThreads', 'totalProcesses'].map(name => `vcpu.${name}`),
      ...['freeMem', 'usedMem', 'averageUtil', 'usedSwap', 'freeSwap', 'pageFaultsPerSec'].map(name => `memory.${name}`),
      ...['freeMem', 'usedMem', 'maxDisk', 'minDisk'].map(name => `storage.disks.memory.${name}`),
      ...['blocksPerSec', 'readBytes', 'writeBytes', 'total', 'active', 'response'].map(name => `storage.disks.iops.${name}`),
      'storage.freeMem', 'storage.usedMem', 'network.txBytesTotal', 'network.rxBytesTotal',
      ...['totalUsedMem', 'totalFreeMem', 'totalMem', 'avgMemUtilization', 'avgCudaUtilization', 'avgPowerUtilization', 'avgTemperature', 'count'].map(name => `gpu.${name}`),
    ]
    assert.deepEqual(names.filter(name => typeof at(node, `metrics.resource.node.${name}`) !== 'number'), [])
    assert.equal(at(node, 'metrics.resource.node.memory.averageUtil'), 60)
    assert.deepEqual(at(node, 'metrics.resource.node.gpus'), [{ gpu_id: 'g0', usedMem: 40, freeMem: 60, totalMem: 100, memUtilization: 25, cudaUtilization: 50, powerUtilization: 10, temperature: 40 }])
  })

  it('what a host cannot count is absent and not nought', () => {
    const node = nodeMetrics({ ...host, counters: undefined })
    assert.equal(at(node, 'metrics.resource.node.network'), undefined)
    assert.equal(at(node, 'metrics.resource.node.vcpu.runningThreads'), undefined)
    assert.equal(at(node, 'metrics.resource.node.vcpu.load1m'), 2)
  })

  it('a cluster sums what adds up, takes means of loads and shares and the extremes of disks, and averages its GPUs where AIOS sums their averages', () => {
    const idle: NodeFacts = {
      ...host, peer: 'peer-b', counters: { ...host.counters!, load: [3, 4, 5], disk: { totalMb: 400, freeMb: 100 } },
      total: { ...host.total, gpus: ['h0', 'h1', 'h2'].map(id => ({ id, name: 'H', memoryMb: 100, freeMb: 100 })) },
      usage: { ...host.usage, gpus: ['h0', 'h1', 'h2'].map(id => ({ id, freeMb: 100, utilisation: 0.1, temperature: 20 })) },
    }
    const cluster = clusterMetricsOf('c', [nodeMetrics(host), nodeMetrics(idle)])
    assert.deepEqual([at(cluster, 'cluster.vcpu.load15m'), at(cluster, 'cluster.memory.freeMem'), at(cluster, 'cluster.memory.averageUtil')], [4, 800, 60])
    assert.deepEqual([at(cluster, 'cluster.storage.disks.memory.maxDisk'), at(cluster, 'cluster.storage.disks.memory.minDisk'), at(cluster, 'cluster.network.txBytesTotal')], [400, 200, 20])
    assert.deepEqual([at(cluster, 'cluster.gpu.count'), at(cluster, 'cluster.gpu.totalMem')], [4, 400])
    assert.ok(Math.abs(Number(at(cluster, 'cluster.gpu.avgCudaUtilization')) - 20) < 1e-9)
    assert.equal(at(cluster, 'cluster.gpu.avgTemperature'), 25)
    assert.equal((cluster['nodes'] as readonly unknown[]).length, 2)
  })

  it('an instance has AIOS\'s own metrics and the author\'s, with averages over 1, 5 and 15 minutes and percentiles', () => {
    const clock = new ManualClock()
    const metrics = new Metrics(clock)
    metrics.register_counter('images', 'seen')
    metrics.increment_counter('images', { camera: 'left' })
    metrics.increment_counter('images', 2)
    metrics.set_gauge('depth', 4)
    metrics.register_histogram('inference_duration', 'seconds')
    for (let n = 1; n <= 100; n += 1) metrics.observe_histogram('inference_duration', n / 100)
    metrics.observe_rolling('score', 10)
    clock.advance(4 * 60_000)
    metrics.observe_rolling('score', 30)
    metrics.observe_custom_rolling('quality', 'blur', 3)
    metrics.rolling('on_data_latency').observe(0.25)
    metrics.counter('on_data_count').increment()
    const document = instanceMetrics({ ...facts, reported: toJson(metrics.snapshot()) })
    assert.deepEqual([document['images'], document['images_total'], document['depth'], document['on_data_count'], document['queue_length'], document['tasks_processed']], [3, 3, 4, 1, 1, 7])
    assert.deepEqual([at(document, 'score.current'), at(document, 'score.average_1m'), at(document, 'score.average_5m'), at(document, 'score.average_15m')], [30, 30, 20, 20])
    assert.equal(at(document, 'custom.quality.blur.current'), 3)
    assert.ok(Math.abs(Number(document['on_data_latency_p99']) - 0.25) < 0.01)
    assert.equal(document['on_data_latency'], 0.25)
    assert.deepEqual([document['inference_duration_count'], at(document, 'inference_duration.p50')], [100, 0.5])
    assert.deepEqual(at(document, 'labelled.images'), [{ labels: {}, value: 2 }, { labels: { camera: 'left' }, value: 1 }].filter(({ labels }) => Object.keys(labels).length > 0))
    assert.deepEqual([document['instanceId'], document['nodeId'], document['timestamp'], at(document, 'hardware.cpuUtilization')], ['in-1', 'peer-a', 5, 40])
    assert.deepEqual(metrics.get_extended_metrics()['score'], { current: 30, average_1m: 30, average_5m: 20, average_15m: 20 })
  })

  it('stays within its bytes and says who it is, whatever an instance reports', () => {
    fc.assert(fc.property(fc.oneof(fc.jsonValue(), fc.dictionary(fc.string(), fc.record({ type: fc.constantFrom('counter', 'gauge', 'rolling'), series: fc.array(fc.record({ labels: fc.dictionary(fc.string(), fc.string()), value: fc.oneof(fc.double({ noNaN: true, noDefaultInfinity: true }), fc.jsonValue()) })) }))), reported => {
      const document = instanceMetrics({ ...facts, reported: toJson(reported) })
      assert.equal(document['instanceId'], 'in-1')
      assert.ok(JSON.stringify(document).length < 40_000)
    }))
    const many = new Metrics(new ManualClock())
    for (let name = 0; name < 250; name += 1) for (let label = 0; label < 100; label += 1) many.gauge(`gauge_${name}`, { label: `${label}` }).set(label)
    const document = instanceMetrics({ ...facts, reported: toJson(many.snapshot()) })
    assert.ok(JSON.stringify(document).length < 36_000 && Number(document['left_out']) > 0)
  })

  it('instances of a block come together as nodes of a cluster do', () => {
    const both = aggregate([{ instanceId: 'a', tasks_processed: 2, latency: 1, llm_active_sessions: 3 }, { instanceId: 'b', tasks_processed: 5, latency: 3, llm_active_sessions: 1 }])
    assert.deepEqual(both, { tasks_processed: 7, latency: 2, llm_active_sessions: 4 })
    assert.ok(isJsonObject(both))
  })
})
