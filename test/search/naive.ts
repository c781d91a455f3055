import type { Json } from '../../protocols/ids.ts'
import { isList, isObject, type JsonObject } from '../../src/specs/document.ts'
import type { Condition, FilterIR, MatchType, Queries } from '../../src/specs/filter.ts'
import type { SearchSources } from '../../src/specs/search.ts'

/** The filter language written down as it is described, without a thought for time: what the fast one is held to. */
export function naiveEvaluate({ matchType, filter }: FilterIR, sources: SearchSources): readonly JsonObject[] {
  return documents(matchType, sources).filter(document => passesOwn(matchType, document, filter, sources) && passesOthers(matchType, document, filter, sources))
}

const OTHERS: readonly MatchType[] = ['cluster', 'block', 'vdag', 'component', 'policy']

function passesOthers(type: MatchType, document: JsonObject, filter: Queries, sources: SearchSources): boolean {
  const others = OTHERS.filter(other => other !== type && asks(filter, other))
  const direct = (a: MatchType, b: MatchType): boolean => LINKS.some(([x, y]) => (x === a && y === b) || (x === b && y === a))
  if (type === 'block') return others.every(other => related(type, document, other, filter, sources))
  if (others.includes('block') || others.some(other => !direct(type, other))) {
    return documents('block', sources).some(block => touches(type, document, 'block', block) && passesOwn('block', block, filter, sources) && others.filter(other => other !== 'block').every(other => related('block', block, other, filter, sources)))
  }
  return others.every(other => related(type, document, other, filter, sources) || (BOTH.includes(type) && BOTH.includes(other) && documents('block', sources).some(block => touches(type, document, 'block', block) && related('block', block, other, filter, sources))))
}

const LINKS: readonly (readonly [MatchType, MatchType])[] = [['block', 'cluster'], ['block', 'component'], ['block', 'policy'], ['component', 'policy'], ['vdag', 'block'], ['vdag', 'component'], ['vdag', 'policy']]
const BOTH: readonly MatchType[] = ['vdag', 'component']

function related(type: MatchType, document: JsonObject, other: MatchType, filter: Queries, sources: SearchSources): boolean {
  return documents(other, sources).some(far => touches(type, document, other, far) && passesOwn(other, far, filter, sources))
}

function touches(a: MatchType, one: JsonObject, b: MatchType, two: JsonObject): boolean {
  const named = (from: MatchType, document: JsonObject, to: MatchType): readonly unknown[] => {
    const nodes = isList(document['nodes']) ? document['nodes'].filter(isObject) : []
    const policies = isObject(document['policies']) ? Object.values(document['policies']).map(rule => (isObject(rule) ? rule['policyRuleURI'] : undefined)) : []
    if (from === 'block' && to === 'cluster') return isList(document['cluster']) ? document['cluster'].map(cluster => (isObject(cluster) ? cluster['id'] : cluster)) : []
    if (from === 'block' && to === 'component') return [document['componentUri']]
    if ((from === 'block' || from === 'component') && to === 'policy') return policies
    if (from === 'vdag' && to === 'block') return nodes.map(node => node['blockId'])
    if (from === 'vdag' && to === 'component') return nodes.map(node => node['componentURI'])
    if (from === 'vdag' && to === 'policy') return nodes.map(node => (isObject(node['assignmentPolicyRule']) ? node['assignmentPolicyRule']['policyRuleURI'] : undefined))
    return []
  }
  const name = (type: MatchType, document: JsonObject): Json | undefined => document[type === 'vdag' ? 'vdagURI' : type === 'component' ? 'componentURI' : type === 'policy' ? 'policyRuleURI' : 'id']
  return named(a, one, b).includes(name(b, two)) || named(b, two, a).includes(name(a, one))
}

function documents(type: MatchType, sources: SearchSources): readonly JsonObject[] {
  switch (type) {
    case 'cluster': return sources.clusters ?? []
    case 'block': return sources.blocks ?? []
    case 'vdag': return sources.vdags ?? []
    case 'component': return sources.components ?? []
    default: return sources.policies ?? []
  }
}

function asks(filter: Queries, type: MatchType): boolean {
  switch (type) {
    case 'cluster': return filter.clusterQuery !== undefined || filter.clusterMetricsQuery !== undefined
    case 'block': return filter.blockQuery !== undefined || filter.blockMetricsQuery !== undefined
    case 'vdag': return filter.vdagQuery !== undefined || filter.vdagMetricsQuery !== undefined
    case 'component': return filter.componentQuery !== undefined
    default: return filter.policyQuery !== undefined
  }
}

function passesOwn(type: MatchType, document: JsonObject, filter: Queries, sources: SearchSources): boolean {
  const own = type === 'cluster' ? filter.clusterQuery : type === 'block' ? filter.blockQuery : type === 'vdag' ? filter.vdagQuery : type === 'component' ? filter.componentQuery : filter.policyQuery
  if (own !== undefined && !holds(own, { ...document, [type]: document })) return false
  const measured = type === 'cluster' ? filter.clusterMetricsQuery : type === 'block' ? filter.blockMetricsQuery : undefined
  if (measured === undefined) return true
  const metrics = (type === 'cluster' ? sources.clusterMetrics : sources.blockMetrics)?.find(one => one[type === 'cluster' ? 'clusterId' : 'blockId'] === document['id'])
  return metrics !== undefined && holds(measured, metrics)
}

function holds(condition: Condition, document: Json): boolean {
  if ('logicalOperator' in condition) {
    const results = condition.conditions.map(inner => holds(inner, document))
    return condition.logicalOperator === 'AND' ? !results.includes(false) : results.includes(true)
  }
  if ('aggOperator' in condition) {
    const leaves = valuesAt(document, condition.target.split('.')).filter(value => !isList(value))
    const numbers = leaves.flatMap(value => asNumber(value) ?? [])
    const results = { count: leaves.length, sum: numbers.reduce((a, b) => a + b, 0), avg: numbers.length === 0 ? undefined : numbers.reduce((a, b) => a + b, 0) / numbers.length, min: numbers.length === 0 ? undefined : Math.min(...numbers), max: numbers.length === 0 ? undefined : Math.max(...numbers) }
    const result = results[condition.aggOperator]
    return result !== undefined && compares(result, condition.operator, condition.value)
  }
  const found = valuesAt(document, condition.variable.split('.'))
  return condition.operator === '!=' ? !found.some(value => compares(value, '==', condition.value)) : found.some(value => compares(value, condition.operator, condition.value))
}

function valuesAt(document: Json, path: readonly string[]): readonly Json[] {
  const [name, ...rest] = path
  if (name === undefined) return isList(document) ? [document, ...document] : [document]
  if (isList(document)) return document.filter(isObject).flatMap(element => valuesAt(element, path))
  const inner = isObject(document) && Object.hasOwn(document, name) ? document[name] : undefined
  return inner === undefined ? [] : valuesAt(inner, rest)
}

function compares(found: Json, operator: string, value: Json): boolean {
  const [a, b] = [asNumber(found), asNumber(value)]
  switch (operator) {
    case '==': return typeof found === 'number' || typeof value === 'number' ? a !== undefined && a === b : JSON.stringify(found) === JSON.stringify(value)
    case '!=': return !compares(found, '==', value)
    case 'IN': return isList(value) && value.some(one => compares(found, '==', one))
    case 'LIKE': return typeof found !== 'object' && new RegExp(`${String(value).includes('*') ? '^' : ''}${String(value).replaceAll(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '[^]*')}${String(value).includes('*') ? '$' : ''}`).test(String(found))
    default: {
      const order = a !== undefined && b !== undefined ? a - b : typeof found === 'string' && typeof value === 'string' ? (found < value ? -1 : found > value ? 1 : 0) : NaN
      return operator === '>' ? order > 0 : operator === '>=' ? order >= 0 : operator === '<' ? order < 0 : order <= 0
    }
  }
}

function asNumber(value: Json): number | undefined {
  return typeof value === 'number' ? value : typeof value === 'string' && /^-?\d+(\.\d+)?$/.test(value) ? Number(value) : undefined
}
