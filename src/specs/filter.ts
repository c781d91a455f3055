import type { Json } from '../../protocols/ids.ts'
import { compilePath, equal, numberOf, order, someAt } from './compare.ts'
import { isList, isObject, type JsonObject } from './document.ts'
import { specValues } from './envelope.ts'
import { Fields } from './fields.ts'
import { Problems } from './problems.ts'

const OPERATORS = ['==', '!=', 'IN', '>', '>=', '<', '<=', 'LIKE'] as const
const AGGREGATES = ['avg', 'sum', 'min', 'max', 'count'] as const
const MATCH_TYPES = ['component', 'cluster', 'block', 'vdag', 'policy', 'policyFunction', 'policyGraph'] as const
export const QUERIES = ['clusterQuery', 'clusterMetricsQuery', 'blockQuery', 'blockMetricsQuery', 'componentQuery', 'vdagQuery', 'vdagMetricsQuery', 'policyQuery', 'policyFunctionQuery', 'policyGraphQuery'] as const

export type Operator = (typeof OPERATORS)[number]
export type Aggregate = (typeof AGGREGATES)[number]
export type MatchType = (typeof MATCH_TYPES)[number]
export type QueryName = (typeof QUERIES)[number]

/** A condition in AIOS's own form, with every spelling of an operator made one. */
export type Condition =
  | { readonly logicalOperator: 'AND' | 'OR'; readonly conditions: readonly Condition[] }
  | { readonly variable: string; readonly operator: Operator; readonly value: Json }
  | { readonly aggOperator: Aggregate; readonly target: string; readonly operator: Operator; readonly value: Json }

export type Queries = { readonly [K in QueryName]?: Condition }
export type FilterIR = { readonly matchType: MatchType; readonly filter: Queries }

const SPELLINGS: Readonly<Record<string, Operator>> = { '=': '==', EQ: '==', $EQ: '==', '<>': '!=', NE: '!=', $NE: '!=', 'IN ANY': 'IN', IN_ANY: 'IN', $IN: 'IN', GT: '>', $GT: '>', GTE: '>=', $GTE: '>=', LT: '<', $LT: '<', LTE: '<=', $LTE: '<=' }
const MOST_CONDITIONS = 1_000
const LONGEST_PATH = 300

/** A filter, enveloped or bare. `matchType` may be left out where the queries say it. Throws SPEC_INVALID. */
export function parseFilter(document: unknown): FilterIR {
  const problems = new Problems('filter')
  const filter = readFilter(new Fields(specValues(document, 'filter'), '', problems))
  problems.settle()
  return filter
}

/** The queries of a `clusterAllocator`'s or an assignment's `parameters.filter`: by name, or one bare condition. Throws SPEC_INVALID. */
export function parseQueries(document: unknown, bare: QueryName): Queries {
  const problems = new Problems('filter')
  const values = specValues(document, 'filter')
  const fields = new Fields(values, '', problems)
  const inner = values['filter']
  const queries = isCondition(values) ? { [bare]: readCondition(values, bare, problems) } : readQueries(isObject(inner) ? fields.inside('filter') : fields)
  problems.settle()
  return queries
}

export function readFilter(fields: Fields): FilterIR {
  const said = fields.text(['matchType', 'match_type'], 40)
  const named = MATCH_TYPES.find(type => type.toLowerCase() === said?.toLowerCase())
  const filter = fields.inside('filter')
  // A bare condition is about what is looked for.
  const queries = named !== undefined && isCondition(filter.values) ? { [`${named}Query`]: readCondition(filter.values, fields.path('filter'), fields.problems) } : readQueries(filter)
  const implied = MATCH_TYPES.find(type => type !== 'cluster' && (`${type}Query` in queries || `${type}MetricsQuery` in queries)) ?? ('clusterQuery' in queries || 'clusterMetricsQuery' in queries ? 'cluster' : undefined)
  if (said !== undefined && named === undefined) fields.wrong('matchType', said, `use one of ${MATCH_TYPES.join(', ')}`)
  else if (said === undefined && implied === undefined) fields.wrong('matchType', undefined, `use one of ${MATCH_TYPES.join(', ')}`)
  return { matchType: named ?? implied ?? 'cluster', filter: queries }
}

function readQueries(fields: Fields): Queries {
  const queries: { -readonly [K in QueryName]?: Condition } = {}
  for (const name of Object.keys(fields.values)) if (!QUERIES.some(query => query === name)) fields.wrong(name, fields.values[name], `use one of ${QUERIES.join(', ')}`)
  for (const name of QUERIES) {
    const query = fields.object(name)
    // AIOS treats an empty query as none.
    if (query !== undefined && Object.keys(query).length > 0) queries[name] = readCondition(query, fields.path(name), fields.problems)
  }
  return queries
}

function isCondition(value: JsonObject): boolean {
  return ['variable', 'logicalOperator', 'conditions', 'aggOperator'].some(name => Object.hasOwn(value, name))
}

function readCondition(value: JsonObject, path: string, problems: Problems, budget = { left: MOST_CONDITIONS }): Condition {
  const fields = new Fields(value, path, problems)
  budget.left -= 1
  if (budget.left === -1) problems.add(path, `a query may have at most ${MOST_CONDITIONS} conditions`)
  if (budget.left < 0) return { logicalOperator: 'AND', conditions: [] }
  if (Object.hasOwn(value, 'logicalOperator') || Object.hasOwn(value, 'conditions')) {
    const conditions = fields.list('conditions')
    if (conditions.length === 0) fields.wrong('conditions', value['conditions'], 'give at least one condition')
    return {
      logicalOperator: fields.choice<'AND' | 'OR'>(['logicalOperator'], { AND: ['&&', '$and'], OR: ['||', '$or'] }, 'AND'),
      conditions: conditions.flatMap((inner, index) => {
        if (isObject(inner)) return [readCondition(inner, fields.path(`conditions[${index}]`), problems, budget)]
        fields.wrong(`conditions[${index}]`, inner, 'give { "variable": …, "operator": …, "value": … }')
        return []
      }),
    }
  }
  const operator = readOperator(fields)
  const given = fields.find('value')
  if (given === undefined && !Object.hasOwn(value, 'value')) fields.wrong('value', undefined, 'say what to compare with')
  if (operator === 'LIKE' && typeof given !== 'string') fields.wrong('value', given, 'LIKE takes a text, with * for anything')
  const compared = operator === 'IN' && !isList(given) ? [given ?? null] : (given ?? null)
  if (Object.hasOwn(value, 'aggOperator')) {
    const aggOperator = fields.choice<Aggregate>(['aggOperator'], { avg: ['average', 'mean'], sum: [], min: [], max: [], count: [] }, 'count')
    const target = fields.needed(['target', 'variable'], 'name what to aggregate, for example "instances.llm_active_sessions"', LONGEST_PATH)
    if (operator === 'LIKE' || operator === 'IN') fields.wrong('operator', operator, 'an aggregate compares with ==, !=, >, >=, < or <=')
    return { aggOperator, target, operator, value: compared }
  }
  return { variable: fields.needed(['variable'], 'name the field, for example "gpus.count"', LONGEST_PATH), operator, value: compared }
}

function readOperator(fields: Fields): Operator {
  const said = fields.find('operator')
  const text = typeof said === 'string' ? said.trim().toUpperCase() : ''
  const operator = OPERATORS.find(one => one === text) ?? (Object.hasOwn(SPELLINGS, text) ? SPELLINGS[text] : undefined)
  if (operator === undefined) fields.wrong('operator', said, `use one of ${OPERATORS.join(' ')}`)
  return operator ?? '=='
}

/**
 * A condition as a test of one document. Paths are dotted, and reach into every element of a list; one that starts with
 * `entity` ("block.component…" of a block) may leave that out, as the document does.
 */
export function compileCondition(condition: Condition, entity?: string): (document: Json) => boolean {
  if ('logicalOperator' in condition) {
    const tests = condition.conditions.map(inner => compileCondition(inner, entity))
    return condition.logicalOperator === 'AND' ? document => tests.every(test => test(document)) : document => tests.some(test => test(document))
  }
  if ('aggOperator' in condition) {
    const { aggOperator, operator, value } = condition
    const some = reach(condition.target, entity)
    const test = comparison(operator, value)
    return document => {
      const found = aggregate(aggOperator, document, some)
      return found !== undefined && test(found)
    }
  }
  const { operator, value } = condition
  const some = reach(condition.variable, entity)
  // As in Mongo, a negation holds when no element equals, also where the field is absent.
  if (operator === '!=') return document => !some(document, found => equal(found, value))
  const test = comparison(operator, value)
  return document => some(document, test)
}

/** The paths that a condition reads. */
export function variablesOf(condition: Condition | undefined): readonly string[] {
  if (condition === undefined) return []
  if ('logicalOperator' in condition) return condition.conditions.flatMap(variablesOf)
  return ['aggOperator' in condition ? condition.target : condition.variable]
}

type Reach = (document: Json, test: (value: Json) => boolean) => boolean

function reach(dotted: string, entity: string | undefined): Reach {
  const path = compilePath(dotted)
  if (entity === undefined || path.length < 2 || path[0]?.name !== entity) return (document, test) => someAt(document, path, test)
  const inner = path.slice(1)
  return (document, test) => someAt(document, isObject(document) && Object.hasOwn(document, entity) ? path : inner, test)
}

function comparison(operator: Operator, value: Json): (found: Json) => boolean {
  switch (operator) {
    case '==': return found => equal(found, value)
    case '!=': return found => !equal(found, value)
    case 'LIKE': {
      const like = glob(String(value))
      return found => typeof found !== 'object' && like(String(found))
    }
    case 'IN': {
      const wanted: readonly Json[] = isList(value) ? value : [value]
      return found => wanted.some(one => equal(found, one))
    }
    case '>': return found => (order(found, value) ?? 0) > 0
    case '>=': return found => (order(found, value) ?? -1) >= 0
    case '<': return found => (order(found, value) ?? 0) < 0
    case '<=': return found => (order(found, value) ?? 1) <= 0
  }
}

/** Over the values that are no lists; undefined where there is nothing to take a mean, least or most of. */
function aggregate(kind: Aggregate, document: Json, some: Reach): number | undefined {
  let [count, numbers, sum, least, most] = [0, 0, 0, Infinity, -Infinity]
  some(document, value => {
    if (isList(value)) return false
    count += 1
    const number = numberOf(value)
    if (number !== undefined) {
      numbers += 1
      sum += number
      least = Math.min(least, number)
      most = Math.max(most, number)
    }
    return false
  })
  if (kind === 'count') return count
  if (kind === 'sum') return sum
  if (numbers === 0) return undefined
  return kind === 'avg' ? sum / numbers : kind === 'min' ? least : most
}

/** `*` stands for anything; a text without `*` may stand anywhere, as in AIOS. Linear: each piece is looked for once. */
function glob(like: string): (text: string) => boolean {
  const pieces = like.split('*')
  if (pieces.length === 1) return text => text.includes(like)
  const [head, tail] = [pieces[0]!, pieces.at(-1)!]
  return text => {
    if (text.length < head.length + tail.length || !text.startsWith(head) || !text.endsWith(tail)) return false
    let at = head.length
    for (const piece of pieces.slice(1, -1)) {
      const found = text.indexOf(piece, at)
      if (found === -1) return false
      at = found + piece.length
    }
    return at <= text.length - tail.length
  }
}
