import type { Json } from '../../protocols/ids.ts'
import { quote } from '../../protocols/refusal.ts'
import type { Template } from '../../protocols/specs.ts'
import { isList, isObject } from './document.ts'
import { compilePattern, type Pattern } from './pattern.ts'
import type { Problems } from './problems.ts'
import { fieldsOf, type Field } from './template-language.ts'

const MOST_PROBLEMS = 20
const patterns = new WeakMap<Field, Pattern | undefined>()

/**
 * What is wrong with `value` under a protocol template: empty when nothing is. Fields the template does not name pass,
 * and so do absent ones unless `required`. At most 20 problems, each naming its field.
 */
export function validate(template: Template, value: Json): readonly string[] {
  const problems: string[] = []
  checkFields(fieldsOf(template), value, '', problems)
  return problems
}

/** As `validate`, into the problems of the larger document that has `value` at `path`. */
export function judge(template: Template, value: Json, path: string, problems: Problems): void {
  for (const problem of validate(template, value)) {
    const end = problem.indexOf(': ')
    problems.add(`${path}.${problem.slice(0, end)}`, problem.slice(end + 2))
  }
}

/** `value` with the defaults its template gives for top-level fields that are absent. */
export function withDefaults(template: Template, value: Readonly<Record<string, Json>>): Readonly<Record<string, Json>> {
  const out: Record<string, Json> = { ...value }
  for (const [name, field] of Object.entries(fieldsOf(template))) if (field.default !== undefined && !Object.hasOwn(out, name)) out[name] = field.default
  return out
}

function checkFields(fields: Readonly<Record<string, Field>>, value: Json, path: string, problems: string[]): void {
  if (Object.keys(fields).length === 0) return
  if (!isObject(value)) {
    problems.push(`${path === '' ? 'data' : path}: ${quote(value)} must be an object with ${Object.keys(fields).slice(0, 8).join(', ')}`)
    return
  }
  for (const [name, field] of Object.entries(fields)) {
    if (problems.length >= MOST_PROBLEMS) return
    const at = path === '' ? name : `${path}.${name}`
    const given = Object.hasOwn(value, name) ? value[name] : undefined
    if (given === undefined || given === null) {
      if (field.required === true && field.default === undefined) problems.push(`${at}: missing; it is required (${wanted(field)})`)
    } else checkField(field, given, at, problems)
  }
}

function checkField(field: Field, value: Json, at: string, problems: string[]): void {
  if (problems.length >= MOST_PROBLEMS) return
  const wrong = (expected: string): void => { problems.push(`${at}: ${quote(value)} must be ${expected}`) }
  if (!hasType(field, value)) {
    wrong(wanted(field))
    return
  }
  if (field.choices !== undefined) {
    const { choices } = field
    const chosen = isList(value) ? value : [value]
    if (!chosen.every(one => choices.some(choice => same(choice, one)))) wrong(`one of ${choices.slice(0, 8).map(quote).join(', ')}`)
  }
  if (typeof value === 'number') {
    if (field.min !== undefined && value < field.min) wrong(`at least ${field.min}`)
    if (field.max !== undefined && value > field.max) wrong(`at most ${field.max}`)
  } else if (typeof value === 'string') {
    if (field.length !== undefined && value.length > field.length) wrong(`at most ${field.length} characters; it has ${value.length}`)
    if (field.pattern !== undefined) {
      const matches = patternOf(field)?.test(value)
      if (matches === false) wrong(`text that matches ${field.pattern}`)
      if (matches === undefined) wrong(`shorter; it takes too long to match against ${field.pattern}`)
    }
  } else if (isList(value)) {
    const most = field.max_length ?? field.length
    if (most !== undefined && value.length > most) wrong(`a list of at most ${most}`)
    if (field.min_length !== undefined && value.length < field.min_length) wrong(`a list of at least ${field.min_length}`)
    if (field.size !== undefined && value.length !== field.size) wrong(`a list of exactly ${field.size}`)
    if (field.items !== undefined) for (let index = 0; index < value.length && problems.length < MOST_PROBLEMS; index += 1) checkField(field.items, value[index]!, `${at}[${index}]`, problems)
  } else if (field.properties !== undefined) checkFields(field.properties, value, at, problems)
}

function hasType(field: Field, value: Json): boolean {
  switch (field.type) {
    case 'any': return true
    case 'array': return isList(value)
    case 'object': return isObject(value)
    case 'integer': return Number.isInteger(value)
    default: return typeof value === field.type
  }
}

function wanted(field: Field): string {
  switch (field.type) {
    case 'any': return 'any value'
    case 'array': return field.items === undefined ? 'a list' : `a list of ${field.items.type}`
    case 'object': return field.properties === undefined ? 'an object' : `an object with ${Object.keys(field.properties).slice(0, 8).join(', ')}`
    case 'integer': return 'a whole number'
    default: return `a ${field.type}`
  }
}

/** Deep equality of JSON values; field order does not matter. */
function same(a: Json, b: Json): boolean {
  if (a === b) return true
  if (isList(a) && isList(b)) return a.length === b.length && a.every((one, index) => same(one, b[index]!))
  if (!isObject(a) || !isObject(b)) return false
  const keys = Object.keys(a)
  return keys.length === Object.keys(b).length && keys.every(key => Object.hasOwn(b, key) && same(a[key]!, b[key]!))
}

function patternOf(field: Field): Pattern | undefined {
  if (!patterns.has(field)) {
    const compiled = compilePattern(field.pattern ?? '')
    patterns.set(field, compiled.ok ? compiled.value : undefined)
  }
  return patterns.get(field)
}
