import { performance } from 'node:perf_hooks'
import type { Json } from '../../protocols/ids.ts'
import { searchWorld } from './search-world.ts'

const RECORDS = 10_000
const ROUNDS = 200
const WARM = 20

const is = (variable: string, operator: string, value: Json): Json => ({ variable, operator, value })
const QUERIES: Readonly<Record<string, Json>> = {
  by_id: { matchType: 'block', filter: { blockQuery: is('id', '==', 'block-7777') } },
  by_component: { matchType: 'block', filter: { blockQuery: { logicalOperator: 'AND', conditions: [is('block.component.componentMetadata.task', '==', 'task-7'), is('component.componentMetadata.hardware.memory', '>=', '512'), { logicalOperator: 'OR', conditions: [is('tags', 'IN', ['tenant-7', 'tenant-27']), is('component.componentId.name', 'LIKE', 'detector-*7')] }] } } },
  by_cluster: { matchType: 'block', filter: { clusterQuery: is('regionId', '==', 'eu-north'), blockQuery: is('minInstances', '>=', 2) } },
  by_metrics: { matchType: 'block', filter: { blockMetricsQuery: { aggOperator: 'avg', target: 'instances.latency', operator: '<', value: '4' }, blockQuery: is('tags', 'IN', ['tenant-0', 'tenant-1', 'tenant-2', 'tenant-3']) } },
  all_metrics: { matchType: 'block', filter: { blockMetricsQuery: { logicalOperator: 'AND', conditions: [{ aggOperator: 'max', target: 'instances.queue_length', operator: '>=', value: 9 }, { aggOperator: 'count', target: 'instances', operator: '>', value: 2 }] } } },
  joined: { matchType: 'component', filter: { clusterQuery: is('regionId', '==', 'us-east'), blockQuery: is('tags', '==', 'tenant-5') } },
  clusters: { matchType: 'cluster', filter: { clusterMetricsQuery: is('cluster.vcpu.load_15m', '<', '0.1') } },
}

/** How long AIOS's filter takes over 10,000 blocks, 1,000 components and 500 hosts, in milliseconds; between any two a host has spoken. */
export async function run(): Promise<Record<string, number>> {
  const { inventory, speak } = await searchWorld(RECORDS)
  const began = performance.now()
  await inventory.filter(QUERIES['by_id'] ?? null)
  const figures: Record<string, number> = { records: RECORDS, first_ms: round(performance.now() - began) }
  const all: number[] = []
  for (const [name, query] of Object.entries(QUERIES)) {
    const times: number[] = []
    let found = 0
    for (let at = 0; at < ROUNDS + WARM; at += 1) {
      speak(at)
      const from = performance.now()
      found = (await inventory.filter(query)).length
      if (at >= WARM) times.push(performance.now() - from)
    }
    figures[`${name}_found`] = found
    figures[`${name}_p50_ms`] = round(percentile(times, 0.5))
    figures[`${name}_p99_ms`] = round(percentile(times, 0.99))
    all.push(...times)
  }
  return { ...figures, p50_ms: round(percentile(all, 0.5)), p99_ms: round(percentile(all, 0.99)) }
}

function percentile(times: readonly number[], part: number): number {
  const sorted = [...times].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0
}

function round(value: number): number {
  return Math.round(value * 100) / 100
}
