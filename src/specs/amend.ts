import type { Json } from '../../protocols/ids.ts'
import { quote } from '../../protocols/refusal.ts'
import { equal, numberOf, order } from './compare.ts'
import { boundedDocument, isList, isObject, type JsonObject } from './document.ts'
import { Problems } from './problems.ts'

type Mutable = { [key: string]: Json }
/** What an operator does to the value at a path; undefined removes it. */
type Operator = (before: Json | undefined, given: Json, wrong: (fix: string) => void) => Json | undefined

const FORBIDDEN = new Set(['__proto__', 'constructor', 'prototype'])

const OPERATORS: Readonly<Record<string, Operator>> = {
  $set: (_, given) => given,
  $setOnInsert: before => before,
  $unset: () => undefined,
  $inc: (before, given, wrong) => arithmetic(before, given, wrong, (a, b) => a + b),
  $mul: (before, given, wrong) => arithmetic(before, given, wrong, (a, b) => a * b),
  $min: (before, given) => (before === undefined || (order(given, before) ?? 0) < 0 ? given : before),
  $max: (before, given) => (before === undefined || (order(given, before) ?? 0) > 0 ? given : before),
  $push: (before, given, wrong) => [...listOf(before, wrong), ...each(given)],
  $addToSet: (before, given, wrong) => each(given).reduce<Json[]>((set, one) => (set.some(known => equal(known, one)) ? set : [...set, one]), [...listOf(before, wrong)]),
  $pull: (before, given, wrong) => listOf(before, wrong).filter(one => !(isObject(given) && isList(given['$in']) ? given['$in'] : [given]).some(gone => equal(one, gone))),
  $pullAll: (before, given, wrong) => listOf(before, wrong).filter(one => !each({ $each: given }).some(gone => equal(one, gone))),
  $pop: (before, given, wrong) => (given === -1 ? listOf(before, wrong).slice(1) : listOf(before, wrong).slice(0, -1)),
}

/**
 * A document after Mongo's update operators (`{ "$set": { "a.b": 1 }, "$push": { "tags": "x" } }`), as AIOS's registries
 * take them; a change without operators sets its fields. Throws SPEC_INVALID naming operator and path.
 */
export function amend(document: JsonObject, change: unknown): JsonObject {
  const asked = boundedDocument(change, 'update')
  const problems = new Problems('update')
  const keys = Object.keys(asked)
  const plain = !keys.some(key => key.startsWith('$'))
  const out = clone(document)
  for (const [name, fields] of plain ? [['$set', asked] as const] : Object.entries(asked)) {
    const operator = Object.hasOwn(OPERATORS, name) ? OPERATORS[name] : undefined
    if (operator === undefined) problems.add(name, `there is no such operator; use one of ${Object.keys(OPERATORS).join(' ')}`)
    else if (!isObject(fields)) problems.add(name, `${quote(fields)}: give the fields it changes: { "field": value }`)
    else for (const [path, given] of Object.entries(fields)) apply(out, path, given, operator, fix => problems.add(`${name}.${path}`, `${quote(given)}: ${fix}`))
  }
  problems.settle()
  return boundedDocument(out, 'update')
}

/** The top-level fields that a change touches, without making it. */
export function touched(change: unknown): readonly string[] {
  const asked = boundedDocument(change, 'update')
  const named = Object.entries(asked).flatMap(([name, fields]) => (name.startsWith('$') ? (isObject(fields) ? Object.keys(fields) : []) : [name]))
  return [...new Set(named.map(path => path.split('.')[0]!))]
}

function apply(root: Mutable, path: string, given: Json, operator: Operator, wrong: (fix: string) => void): void {
  const names = path.split('.')
  if (names.some(name => name === '' || FORBIDDEN.has(name) || name.startsWith('$'))) return wrong('is no field that can be changed')
  const last = names.pop()!
  let holder: Mutable | Json[] = root
  for (const name of names) {
    const next: Json | undefined = Array.isArray(holder) ? holder[Number(name)] : Object.hasOwn(holder, name) ? holder[name] : undefined
    if (next === undefined && !Array.isArray(holder)) {
      const made: Mutable = {}
      holder[name] = made
      holder = made
    } else if (isMutable(next)) holder = next
    else return wrong(`there is no object at ${name} to change`)
  }
  if (Array.isArray(holder)) {
    const index = Number(last)
    if (!Number.isInteger(index) || index < 0 || index > holder.length) return wrong(`the list has no place ${last}`)
    holder[index] = operator(holder[index], given, wrong) ?? null
    return undefined
  }
  const after = operator(Object.hasOwn(holder, last) ? holder[last] : undefined, given, wrong)
  if (after === undefined) delete holder[last]
  else holder[last] = after
  return undefined
}

function isMutable(value: Json | undefined): value is Mutable | Json[] {
  return value !== null && typeof value === 'object'
}

function clone(document: JsonObject): Mutable {
  return { ...boundedDocument(document, 'update') }
}

function arithmetic(before: Json | undefined, given: Json, wrong: (fix: string) => void, of: (a: number, b: number) => number): Json {
  const [a, b] = [before === undefined ? 0 : numberOf(before), numberOf(given)]
  if (a !== undefined && b !== undefined) return of(a, b)
  wrong('give a number, for a field that holds one')
  return before ?? null
}

function listOf(value: Json | undefined, wrong: (fix: string) => void): readonly Json[] {
  if (value === undefined) return []
  if (isList(value)) return value
  wrong('the field holds no list')
  return []
}

function each(given: Json): readonly Json[] {
  return isObject(given) && isList(given['$each']) ? given['$each'] : [given]
}
