import type { Json, PeerId } from '../../protocols/ids.ts'
import { CATEGORY } from '../../sdk/metrics.ts'
import { isJsonObject, type JsonObject } from '../lib/json.ts'
import { familiesOf, type Family } from './instance-metrics.ts'

export type Exposed = { readonly block: string; readonly instance: string; readonly metrics: JsonObject; readonly reported: Json }

/** Series of one scrape; what is more is counted and left out. */
const SERIES_BOUND = 10_000
const PLAIN = ['queue_length', 'in_flight', 'tasks_processed', 'tasks_failed', 'latency', 'latency_p50', 'latency_p95', 'latency_p99', 'uptime'] as const
/** Names under which AIOS's own are told; an author's carry the prefix of instances, so that they never meet the daemon's. */
const PREFIX = 'aios_instance_'

type Line = { readonly name: string; readonly type: 'counter' | 'gauge' | 'histogram'; readonly text: string }

/** Prometheus's text format for a node, and for instances with what their authors measure, labelled by block, instance and peer. */
export function exposition(peer: PeerId, node: JsonObject, instances: readonly Exposed[]): string {
  const lines: Line[] = [...nodeLines(peer, node)]
  for (const { block, instance, metrics, reported } of instances) {
    const own = { block, instance, peer }
    for (const name of PLAIN) if (typeof metrics[name] === 'number') lines.push(line(`${PREFIX}${name}`, name.startsWith('tasks_') ? 'counter' : 'gauge', own, metrics[name]))
    for (const [name, family] of familiesOf(reported)) lines.push(...familyLines(`${PREFIX}${clean(name)}`, family, own))
  }
  const kept = lines.slice(0, SERIES_BOUND)
  const left = lines.length - kept.length
  const byName = Map.groupBy(left === 0 ? kept : [...kept, line('aios_instance_series_left_out', 'gauge', { peer }, left)], ({ name }) => name)
  // One name has one type: of two authors who disagree the first one is believed.
  return [...byName].map(([name, [first, ...rest]]) => (first === undefined ? '' : `# TYPE ${name} ${first.type}\n${[first, ...rest].filter(({ type }) => type === first.type).map(({ text }) => `${text}\n`).join('')}`)).join('')
}

/** Each number below `metrics.resource.node`, its path with underscores for a name. */
function * nodeLines(peer: PeerId, value: JsonObject, path: readonly string[] = ['aios_node']): Generator<Line> {
  for (const [key, inner] of Object.entries(value)) {
    if (typeof inner === 'number') yield line([...path, clean(key)].join('_'), 'gauge', { peer }, inner)
    else if (isJsonObject(inner)) yield * nodeLines(peer, inner, [...path, clean(key)])
    else if (key === 'gpus' && Array.isArray(inner)) for (const gpu of inner.filter(isJsonObject)) for (const [name, number] of Object.entries(gpu)) if (typeof number === 'number') yield line(`aios_node_gpu_${clean(name)}`, 'gauge', { peer, gpu: String(gpu['gpu_id']) }, number)
  }
}

function familyLines(name: string, family: Family, own: Labels): readonly Line[] {
  switch (family.type) {
    case 'counter':
    case 'gauge':
      return family.series.map(({ labels, value }) => line(name, family.type, { ...labels, ...own }, value))
    case 'histogram':
      return family.series.flatMap(({ labels, value: { buckets, count, sum } }) => {
        const all = { ...labels, ...own }
        const text = [
          ...buckets.map(([bound, atMost]) => `${name}_bucket${written({ ...all, le: String(bound) })} ${atMost}`), `${name}_bucket${written({ ...all, le: '+Inf' })} ${count}`,
          `${name}_sum${written(all)} ${sum}`, `${name}_count${written(all)} ${count}`,
        ].join('\n')
        return [{ name, type: 'histogram' as const, text }]
      })
    case 'rolling':
      return family.series.flatMap(({ labels: { [CATEGORY]: category, ...labels }, value }) => (['1m', '5m', '15m'] as const).flatMap(window => {
        const all = { ...labels, ...own, ...(category === undefined ? {} : { [CATEGORY]: category }), window }
        const { mean, p50, p95, p99 } = value[window]
        return [line(`${name}_average`, 'gauge', all, mean), ...([['0.5', p50], ['0.95', p95], ['0.99', p99]] as const).map(([quantile, at]) => line(`${name}_quantile`, 'gauge', { ...all, quantile }, at))]
      }))
  }
}

type Labels = Readonly<Record<string, string>>

function line(name: string, type: 'counter' | 'gauge', labels: Labels, value: number): Line {
  return { name, type, text: `${name}${written(labels)} ${value}` }
}

function written(labels: Labels): string {
  return `{${Object.entries(labels).map(([key, value]) => `${clean(key).replaceAll(':', '_')}="${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`).join(',')}}`
}

/** Prometheus's alphabet. */
function clean(name: string): string {
  return name.replace(/[^A-Za-z0-9_:]/g, '_').replace(/^(?=\d)/, '_')
}
