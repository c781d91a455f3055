import { refused, granted, MeshError, type Verdict } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { isList, isObject, type JsonObject } from './document.ts'
import { compilePattern } from './pattern.ts'

const MOST_TERMS = 1_000
const DEPTH = 16

type Test = (document: JsonObject) => boolean

/**
 * A registry query as AIOS's own registries take it: a Mongo filter (`$eq $ne $gt $gte $lt $lte $in $nin $exists $regex
 * $options $and $or $nor $not`, dotted paths, lists by any of their items). Throws BAD_INPUT naming the operator.
 */
export function mongoQuery(filter: Json): Test {
  if (!isObject(filter)) throw bad('a query is an object, for example {"asset_tags": {"$in": ["weights"]}}')
  return compile(filter, { terms: 0 }, 0)
}

function compile(filter: JsonObject, budget: { terms: number }, depth: number): Test {
  if (depth > DEPTH) throw bad(`a query nests at most ${DEPTH} deep`)
  const tests = Object.entries(filter).map(([key, wanted]): Test => {
    if (++budget.terms > MOST_TERMS) throw bad(`a query has at most ${MOST_TERMS} terms`)
    if (key === '$and' || key === '$or' || key === '$nor') {
      if (!isList(wanted) || !wanted.every(isObject)) throw bad(`${key} takes a list of queries`)
      const inner = wanted.map(one => compile(one, budget, depth + 1))
      if (key === '$and') return document => inner.every(test => test(document))
      return document => inner.some(test => test(document)) === (key === '$or')
    }
    if (key.startsWith('$')) throw bad(`${key} is no operator here: $and, $or and $nor are`)
    const test = condition(wanted, budget, depth)
    const path = key.split('.')
    return document => test(valuesAt(document, path))
  })
  return document => tests.every(test => test(document))
}

/** What is wanted of the values found under one path; none where the field is absent. */
function condition(wanted: Json, budget: { terms: number }, depth: number): (found: readonly Json[]) => boolean {
  if (!isObject(wanted) || !Object.keys(wanted).some(key => key.startsWith('$'))) return found => found.some(value => same(value, wanted)) || (wanted === null && found.length === 0)
  const tests = Object.entries(wanted).flatMap(([operator, operand]) => {
    if (++budget.terms > MOST_TERMS) throw bad(`a query has at most ${MOST_TERMS} terms`)
    if (operator === '$options') return []
    return [one(operator, operand, wanted['$options'] ?? '', budget, depth)]
  })
  return found => tests.every(test => test(found))
}

function one(operator: string, operand: Json, options: Json, budget: { terms: number }, depth: number): (found: readonly Json[]) => boolean {
  switch (operator) {
    case '$eq': return condition(operand, budget, depth)
    case '$ne': return not(condition(operand, budget, depth))
    case '$gt': return found => found.some(value => order(value, operand, rank => rank > 0))
    case '$gte': return found => found.some(value => order(value, operand, rank => rank >= 0))
    case '$lt': return found => found.some(value => order(value, operand, rank => rank < 0))
    case '$lte': return found => found.some(value => order(value, operand, rank => rank <= 0))
    case '$in':
    case '$nin': {
      if (!isList(operand)) throw bad(`${operator} takes a list`)
      const within = (found: readonly Json[]): boolean => found.some(value => operand.some(item => same(value, item)))
      return operator === '$in' ? within : not(within)
    }
    case '$exists': return found => found.length > 0 === (operand !== false && operand !== 0)
    case '$not': {
      if (depth > DEPTH) throw bad(`a query nests at most ${DEPTH} deep`)
      return not(condition(operand, budget, depth + 1))
    }
    case '$regex': {
      const pattern = regular(operand, options)
      if (!pattern.ok) throw bad(`$regex ${pattern.because}`)
      return found => found.some(value => typeof value === 'string' && pattern.value(value))
    }
    default: throw bad(`${operator} is no operator here: $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, $not and $regex are`)
  }
}

/** `$options: "i"` folds the case of both sides; patterns match in linear time. */
function regular(source: Json, options: Json): Verdict<(text: string) => boolean> {
  if (typeof source !== 'string') return refused('takes a text')
  if (typeof options !== 'string' || !/^[ims]*$/.test(options)) return refused('takes "$options" of i, m and s')
  const folded = options.includes('i')
  // Lower case inside an escape (\S, \D) would mean something else.
  const pattern = compilePattern(folded ? source.replace(/\\.|[^\\]+/g, part => (part.startsWith('\\') ? part : part.toLowerCase())) : source)
  return pattern.ok ? granted(text => pattern.value.test(folded ? text.toLowerCase() : text) === true) : pattern
}

/** Every value a dotted path leads to, through lists as well; a list that ends the path also counts as itself. */
function valuesAt(document: Json, path: readonly string[]): readonly Json[] {
  const [name, ...rest] = path
  if (name === undefined) return isList(document) ? [document, ...document] : [document]
  if (isList(document)) {
    const index = /^\d+$/.test(name) ? document[Number(name)] : undefined
    return [...(index === undefined ? [] : valuesAt(index, rest)), ...document.filter(isObject).flatMap(item => valuesAt(item, path))]
  }
  if (!isObject(document) || !Object.hasOwn(document, name)) return []
  const inner = document[name]
  return inner === undefined ? [] : valuesAt(inner, rest)
}

function same(a: Json, b: Json): boolean {
  if (a === b) return true
  if (isList(a)) return isList(b) && a.length === b.length && a.every((item, at) => same(item, b[at] ?? null))
  if (!isObject(a) || !isObject(b)) return false
  const names = Object.keys(a)
  return names.length === Object.keys(b).length && names.every(name => Object.hasOwn(b, name) && same(a[name] ?? null, b[name] ?? null))
}

/** Only like is compared with like, as Mongo does; a text that is a number counts as one beside a number. */
function order(value: Json, operand: Json, holds: (rank: number) => boolean): boolean {
  if (typeof value === 'string' && typeof operand === 'string') return holds(value < operand ? -1 : value > operand ? 1 : 0)
  const [left, right] = [numeric(value), numeric(operand)]
  return left !== undefined && right !== undefined && holds(left - right)
}

function numeric(value: Json): number | undefined {
  if (typeof value === 'number') return value
  return typeof value === 'string' && /^-?\d+(\.\d+)?$/.test(value) ? Number(value) : undefined
}

function not(test: (found: readonly Json[]) => boolean): (found: readonly Json[]) => boolean {
  return found => !test(found)
}

function bad(because: string): MeshError {
  return new MeshError('BAD_INPUT', `query: ${because}`)
}
