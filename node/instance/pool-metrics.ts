import type { Json } from '../../protocols/ids.ts'

type Fields = { readonly [key: string]: Json }
type Series = { readonly labels: Fields; readonly value: Json }

/** What the copies of one block count, as if one had counted it all. Percentiles are means of theirs, weighted by how much each observed. */
export function addMetrics(all: readonly Json[]): Readonly<Record<string, Json>> {
  const out: Record<string, Json> = {}
  for (const name of new Set(all.flatMap(metrics => Object.keys(fields(metrics))))) {
    const families = all.flatMap(metrics => fields(metrics)[name] ?? []).map(fields)
    const { type } = families[0] ?? {}
    if (typeof type !== 'string') continue
    const series = families.filter(family => family['type'] === type).flatMap(({ series }) => (Array.isArray(series) ? series.map(seriesOf) : []))
    const groups = Map.groupBy(series, ({ labels }) => JSON.stringify(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1))))
    out[name] = { type, series: [...groups.values()].map(group => ({ labels: group[0]?.labels ?? {}, value: together(type, group.map(({ value }) => value)) })) }
  }
  return out
}

function together(type: string, values: readonly Json[]): Json {
  if (type === 'counter' || type === 'gauge') return sum(values.map(number))
  if (type === 'histogram') {
    const all = values.map(fields)
    const buckets = all.map(({ buckets }) => (Array.isArray(buckets) ? buckets : []))
    return { count: sum(all.map(({ count }) => number(count))), sum: sum(all.map(value => number(value['sum']))), buckets: (buckets[0] ?? []).map((pair, at) => [pairOf(pair)[0] ?? 0, sum(buckets.map(one => number(pairOf(one[at])[1])))]) }
  }
  const all = values.map(fields)
  const newest = all.findLast(({ current }) => number(current) !== 0) ?? all[0]
  return { current: number(newest?.['current']), ...Object.fromEntries(['1m', '5m', '15m'].map(name => [name, windows(all.map(value => fields(value[name])))])) }
}

function windows(all: readonly Fields[]): Json {
  const seen = all.filter(({ count }) => number(count) > 0)
  const count = sum(seen.map(window => number(window['count'])))
  const weighted = (name: string): number => (count === 0 ? 0 : sum(seen.map(window => number(window[name]) * number(window['count']))) / count)
  const extreme = (name: string, of: (...values: number[]) => number): number => (seen.length === 0 ? 0 : of(...seen.map(window => number(window[name]))))
  return { count, mean: weighted('mean'), min: extreme('min', Math.min), max: extreme('max', Math.max), perSecond: sum(all.map(window => number(window['perSecond']))), p50: weighted('p50'), p95: weighted('p95'), p99: weighted('p99') }
}

function seriesOf(value: Json): Series {
  const series = fields(value)
  return { labels: fields(series['labels']), value: series['value'] ?? null }
}

function fields(value: Json | undefined): Fields {
  return value !== null && typeof value === 'object' && !Array.isArray(value) ? (value as Fields) : {}
}

function pairOf(value: Json | undefined): readonly Json[] {
  return Array.isArray(value) ? value : []
}

function number(value: Json | undefined): number {
  return typeof value === 'number' ? value : 0
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0)
}
