import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject, type JsonObject } from '../../lib/json.ts'
import { all, IMPOSSIBLE, literal, many, one, rule, times, type Expression } from './expression.ts'
import { BoundRefused, integersBetween, numbersBetween, type Bound } from './json-number.ts'
import { ARRAY, BOOLEAN, COLON, COMMA, INTEGER, listed, NULL, NUMBER, OBJECT, otherKey, SPACE, STRING, stringCharacter, stringOf, value, VALUE } from './json-text.ts'
import { pattern, PatternRefused } from './regex.ts'
import { assertions, disjoint, isAnnotation, kindOf, merge, names, SchemaRefused } from './schema-merge.ts'

const SCHEMAS = 10_000
const DEEP = 100
const LENGTH = 100_000

/** Keywords of each type. A schema without `type` that uses those of one type only is read as being of that type. */
const OF_TYPE: Readonly<Record<string, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties', 'minProperties', 'maxProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength', 'pattern', 'format'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  integer: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  boolean: [],
  null: [],
}
const OF_ALL = ['type', 'enum', 'const', 'anyOf', 'oneOf', 'allOf', '$ref']
const KNOWN = new Set([...OF_ALL, ...Object.values(OF_TYPE).flat()])

const DATE = '\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\\d|2[0-8])'
const TIME = '([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)'
const BYTE = '(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)'
const LABEL = '[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?'
/** Subsets of what is valid: dates only up to the 28th of any month, addresses of the web, IPv6 written out in full. */
const FORMATS: Readonly<Record<string, string>> = {
  date: `^${DATE}$`, time: `^${TIME}$`, 'date-time': `^${DATE}T${TIME}$`, uuid: '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$', ipv4: `^${BYTE}(\\.${BYTE}){3}$`,
  duration: '^P(\\d+W|(\\d+Y(\\d+M(\\d+D)?)?|\\d+M(\\d+D)?|\\d+D)(T(\\d+H(\\d+M(\\d+S)?)?|\\d+M(\\d+S)?|\\d+S))?|T(\\d+H(\\d+M(\\d+S)?)?|\\d+M(\\d+S)?|\\d+S))$',
  hostname: `^${LABEL}(\\.${LABEL})*$`, ipv6: '^[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}$', uri: `^https?://${LABEL}(\\.${LABEL})*(:\\d{1,4})?(/[A-Za-z0-9._~-]*)*(\\?[A-Za-z0-9._~=&-]*)?(#[A-Za-z0-9._~-]*)?$`,
  email: '^[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)+$',
}

/**
 * The JSON texts that a schema (draft 2020-12) accepts; properties in the order in which the schema names them, and objects
 * that name properties are closed unless `additionalProperties` opens them: a subset of what is valid, so that every answer
 * is. Throws SchemaRefused naming the first thing that it cannot promise to keep.
 */
export function schemaExpression(schema: Json): Expression {
  try {
    return new SchemaReader(schema).read(schema, '#', 0)
  } catch (cause) {
    if (cause instanceof BoundRefused) throw new SchemaRefused(cause.message, { cause })
    throw cause
  }
}

class SchemaReader {
  readonly #root: Json
  readonly #references = new Map<string, Expression>()
  #count = 0

  constructor(root: Json) {
    this.#root = root
  }

  read(schema: Json, path: string, depth: number): Expression {
    this.#count += 1
    if (this.#count > SCHEMAS || depth > DEEP) throw new SchemaRefused(`${path}: the schema has more than ${SCHEMAS} parts or nests more than ${DEEP} deep`)
    if (schema === true) return VALUE
    if (schema === false) return IMPOSSIBLE
    if (!isJsonObject(schema)) throw new SchemaRefused(`${path}: a schema is an object or a boolean`)
    for (const keyword of Object.keys(schema)) if (!KNOWN.has(keyword) && !isAnnotation(keyword)) throw new SchemaRefused(`${path}: the keyword ${keyword} is not supported`)
    const said = assertions(schema)
    const { $ref, allOf, anyOf, oneOf, ...rest } = said
    if ($ref !== undefined && Object.keys(said).length === 1) return this.#reference($ref, path)
    if ($ref !== undefined || allOf !== undefined) {
      const parts = [...($ref === undefined ? [] : [this.#follow({ $ref }, path)]), ...(allOf === undefined ? [] : list(allOf, `${path}/allOf`)).map(part => this.#follow(part, path))]
      const kept: JsonObject = { ...rest, ...(anyOf === undefined ? {} : { anyOf }), ...(oneOf === undefined ? {} : { oneOf }) }
      return this.read(parts.reduce<JsonObject>((sum, part) => merge(sum, object(part, path), path), kept), path, depth + 1)
    }
    if (anyOf !== undefined && oneOf !== undefined) throw new SchemaRefused(`${path}: anyOf and oneOf together are not supported`)
    const branches = anyOf ?? oneOf
    if (branches !== undefined) {
      const keyword = anyOf === undefined ? 'oneOf' : 'anyOf'
      const options = list(branches, `${path}/${keyword}`)
      if (anyOf === undefined) this.#mustDiffer(options, `${path}/oneOf`)
      const alone = Object.keys(rest).length === 0
      return either(options.map((branch, at) => this.read(alone ? branch : merge(rest, object(this.#follow(branch, path), path), `${path}/${keyword}/${at}`), `${path}/${keyword}/${at}`, depth + 1)))
    }
    if (said['const'] !== undefined || said['enum'] !== undefined) return this.#values(said, path)
    const types = said['type'] === undefined ? inferred(said) : names(said['type'])
    if (types === undefined) return VALUE
    return either(types.map(type => this.#typed(type, said, types, path, depth)))
  }

  #typed(type: string, schema: JsonObject, types: readonly string[], path: string, depth: number): Expression {
    const own = OF_TYPE[type]
    if (own === undefined) throw new SchemaRefused(`${path}: there is no type ${type}`)
    for (const keyword of Object.keys(schema)) {
      // A keyword of another type says nothing about this one.
      if (keyword !== 'type' && !own.includes(keyword) && !types.some(other => OF_TYPE[other]?.includes(keyword) === true)) throw new SchemaRefused(`${path}: ${keyword} says nothing about ${types.join(' or ')}`)
    }
    switch (type) {
      case 'object': return this.#object(schema, path, depth)
      case 'array': return this.#array(schema, path, depth)
      case 'string': return string(schema, path)
      case 'integer': case 'number': return numeric(type, schema, path)
      case 'boolean': return BOOLEAN
      default: return NULL
    }
  }

  #object(schema: JsonObject, path: string, depth: number): Expression {
    const properties = schema['properties'] === undefined ? {} : object(schema['properties'], `${path}/properties`)
    const required = names(schema['required'])
    const extra = schema['additionalProperties'] ?? Object.keys(properties).length === 0
    const low = count(schema, 'minProperties', path) ?? 0
    const high = count(schema, 'maxProperties', path) ?? Infinity
    const declared: JsonObject = { ...properties, ...Object.fromEntries(required.filter(name => properties[name] === undefined).map(name => [name, extra === false ? false : extra])) }
    const keys = Object.keys(declared)
    if (keys.length > 0 && (low > 0 || high !== Infinity)) throw new SchemaRefused(`${path}: minProperties and maxProperties beside properties are not supported`)
    if (keys.length === 0 && extra === true && low === 0 && high === Infinity) return OBJECT
    const others = extra === false ? IMPOSSIBLE : this.read(extra, `${path}/additionalProperties`, depth + 1)
    const other = others === IMPOSSIBLE ? IMPOSSIBLE : all(keys.length === 0 ? STRING : otherKey(keys), COLON, others)
    if (keys.length === 0) {
      if (low > 1) throw new SchemaRefused(`${path}: minProperties above 1 is not supported, as keys may repeat`)
      if (other === IMPOSSIBLE) return low > 0 ? IMPOSSIBLE : all(literal('{'), SPACE, literal('}'))
      return rule(() => between('{', other, '}', low, high))
    }
    const members = keys.map(name => ({ name, needed: required.includes(name), value: this.read(declared[name] ?? true, `${path}/properties/${name}`, depth + 1) }))
    const impossible = members.find(member => member.needed && member.value === IMPOSSIBLE)
    if (impossible !== undefined) return IMPOSSIBLE
    const close = all(SPACE, literal('}'))
    // From the last to the first: what may follow when something was written before, and when nothing was.
    let after = other === IMPOSSIBLE ? close : all(many(all(COMMA, other)), close)
    let first = other === IMPOSSIBLE ? close : one(close, all(SPACE, other, after))
    for (const { name, needed, value: inner } of members.reverse()) {
      if (inner === IMPOSSIBLE) continue
      const member = all(value(name), COLON, inner)
      const here = all(SPACE, member, after)
      first = needed ? here : one(here, first)
      const later = all(COMMA, member, after)
      after = needed ? later : one(later, after)
    }
    const whole = all(literal('{'), first)
    return rule(() => whole)
  }

  #array(schema: JsonObject, path: string, depth: number): Expression {
    const low = count(schema, 'minItems', path) ?? 0
    const high = count(schema, 'maxItems', path) ?? Infinity
    const heads = (schema['prefixItems'] === undefined ? [] : list(schema['prefixItems'], `${path}/prefixItems`)).map((head, at) => this.read(head, `${path}/prefixItems/${at}`, depth + 1))
    const items = schema['items'] ?? true
    if (heads.length === 0 && items === true && low === 0 && high === Infinity) return ARRAY
    const item = this.read(items, `${path}/items`, depth + 1)
    if (heads.length === 0) return item === IMPOSSIBLE ? (low > 0 ? IMPOSSIBLE : all(literal('['), SPACE, literal(']'))) : rule(() => between('[', item, ']', low, high))
    const close = all(SPACE, literal(']'))
    const more = item === IMPOSSIBLE || high <= heads.length ? undefined : times(all(COMMA, item), Math.max(0, low - heads.length), high - heads.length)
    if (low > heads.length && more === undefined) return IMPOSSIBLE
    let rest = more === undefined ? close : all(more, close)
    for (let at = heads.length - 1; at >= 0; at -= 1) {
      if (at >= high || heads[at] === IMPOSSIBLE) {
        if (at < low) return IMPOSSIBLE
        rest = close
        continue
      }
      const here = all(at === 0 ? SPACE : COMMA, heads[at]!, rest)
      rest = at < low ? here : one(here, close)
    }
    const whole = all(literal('['), rest)
    return rule(() => whole)
  }

  #values(schema: JsonObject, path: string): Expression {
    const { const: only, enum: several, type, ...rest } = schema
    const [other] = Object.keys(rest)
    if (other !== undefined) throw new SchemaRefused(`${path}: ${other} beside const or enum is not supported`)
    const options = several === undefined ? [only ?? null] : list(several, `${path}/enum`)
    const types = type === undefined ? undefined : names(type)
    const fits = (given: Json): boolean => types === undefined || types.includes(kindOf(given)) || (Number.isInteger(given) && types.includes('integer'))
    const equals = (given: Json): boolean => only === undefined || several === undefined || JSON.stringify(given) === JSON.stringify(only)
    return either(options.filter(given => fits(given) && equals(given)).map(value))
  }

  #reference(reference: Json, path: string): Expression {
    if (typeof reference !== 'string') throw new SchemaRefused(`${path}: $ref is text`)
    const known = this.#references.get(reference)
    if (known !== undefined) return known
    let body: Expression = IMPOSSIBLE
    this.#references.set(reference, rule(() => body))
    body = this.read(this.#pointed(reference, path), reference, 0)
    if (body === IMPOSSIBLE) this.#references.set(reference, IMPOSSIBLE)
    return this.#references.get(reference) ?? body
  }

  /** What a chain of references ends in. */
  #follow(schema: Json, path: string): Json {
    let at = schema
    for (let steps = 0; isJsonObject(at) && typeof at['$ref'] === 'string'; steps += 1) {
      if (steps > 32) throw new SchemaRefused(`${path}: ${at['$ref']} refers to itself`)
      const { $ref, ...beside } = assertions(at)
      const target = this.#pointed(String($ref), path)
      at = Object.keys(beside).length === 0 ? target : merge(beside, object(target, path), path)
    }
    return at
  }

  #pointed(reference: string, path: string): Json {
    if (reference !== '#' && !reference.startsWith('#/')) throw new SchemaRefused(`${path}: $ref may only point into the schema itself (#/…), not to ${reference}`)
    let at: Json | undefined = this.#root
    for (const step of reference.split('/').slice(1)) {
      const name = decodeURIComponent(step).replaceAll('~1', '/').replaceAll('~0', '~')
      at = Array.isArray(at) ? at[Number(name)] : isJsonObject(at) ? at[name] : undefined
    }
    if (at === undefined) throw new SchemaRefused(`${path}: $ref ${reference} points to nothing`)
    return at
  }

  #mustDiffer(options: readonly Json[], path: string): void {
    options.forEach((branch, at) => options.slice(0, at).forEach((earlier, before) => {
      if (!disjoint(earlier, branch, schema => this.#follow(schema, path))) throw new SchemaRefused(`${path}: branches ${before} and ${at} may both fit one value, which oneOf forbids; use anyOf, or tell them apart by a required property with different const`)
    }))
  }
}

function either(options: readonly Expression[]): Expression {
  const possible = options.filter(option => option !== IMPOSSIBLE)
  return possible.length === 0 ? IMPOSSIBLE : one(...possible)
}

function between(open: string, item: Expression, close: string, low: number, high: number): Expression {
  if (high < low) return IMPOSSIBLE
  if (low === 0 && high === Infinity) return listed(open, item, close)
  const empty = all(literal(open), SPACE, literal(close))
  if (high === 0) return empty
  const filled = all(literal(open), SPACE, item, times(all(COMMA, item), Math.max(0, low - 1), high - 1), SPACE, literal(close))
  return low === 0 ? one(empty, filled) : filled
}

function string(schema: JsonObject, path: string): Expression {
  const low = count(schema, 'minLength', path) ?? 0
  const high = count(schema, 'maxLength', path) ?? Infinity
  const { format } = schema
  const source = schema['pattern'] ?? (typeof format === 'string' ? FORMATS[format] : undefined)
  if (format !== undefined && (typeof format !== 'string' || FORMATS[format] === undefined)) throw new SchemaRefused(`${path}: the format ${JSON.stringify(format)} is not supported; those that are: ${Object.keys(FORMATS).join(', ')}`)
  if (format !== undefined && schema['pattern'] !== undefined) throw new SchemaRefused(`${path}: format beside pattern is not supported`)
  if (source === undefined) return high < low ? IMPOSSIBLE : low === 0 && high === Infinity ? STRING : stringOf(low, high)
  if (low > 0 || high !== Infinity) throw new SchemaRefused(`${path}: minLength and maxLength beside ${format === undefined ? 'pattern' : 'format'} are not supported; say the length in the pattern`)
  if (typeof source !== 'string') throw new SchemaRefused(`${path}: pattern is text`)
  try {
    const inner = pattern(source, stringCharacter, true)
    return rule(() => all(literal('"'), inner, literal('"')))
  } catch (cause) {
    if (cause instanceof PatternRefused) throw new SchemaRefused(`${path}: the pattern ${source} ${cause.message}`, { cause })
    throw cause
  }
}

function numeric(type: 'integer' | 'number', schema: JsonObject, path: string): Expression {
  const bound = (inclusive: string, exclusive: string, tighter: (a: number, b: number) => boolean): Bound | undefined => {
    const at = limit(schema, inclusive, path)
    const beyond = limit(schema, exclusive, path)
    if (beyond !== undefined && (at === undefined || !tighter(at, beyond))) return { at: beyond, strict: true }
    return at === undefined ? undefined : { at, strict: false }
  }
  const low = bound('minimum', 'exclusiveMinimum', (a, b) => a > b)
  const high = bound('maximum', 'exclusiveMaximum', (a, b) => a < b)
  if (low === undefined && high === undefined) return type === 'integer' ? INTEGER : NUMBER
  const made = type === 'integer' ? integersBetween(low, high) : numbersBetween(low, high)
  return made === IMPOSSIBLE ? IMPOSSIBLE : rule(() => made)
}

function inferred(schema: JsonObject): readonly string[] | undefined {
  const used = Object.keys(schema)
  if (used.length === 0) return undefined
  const fits = Object.entries(OF_TYPE).filter(([type, own]) => type !== 'integer' && used.every(keyword => own.includes(keyword))).map(([type]) => type)
  return fits.length === 0 ? Object.keys(OF_TYPE).filter(type => type !== 'integer') : fits
}

function count(schema: JsonObject, keyword: string, path: string): number | undefined {
  const value = limit(schema, keyword, path)
  if (value === undefined) return undefined
  if (!Number.isInteger(value) || value < 0 || value > LENGTH) throw new SchemaRefused(`${path}: ${keyword} is a whole number up to ${LENGTH}, not ${value}`)
  return value
}

function limit(schema: JsonObject, keyword: string, path: string): number | undefined {
  const given = schema[keyword]
  if (given === undefined) return undefined
  if (typeof given !== 'number') throw new SchemaRefused(`${path}: ${keyword} is a number`)
  return given
}

function list(given: Json, path: string): readonly Json[] {
  if (!Array.isArray(given) || given.length === 0) throw new SchemaRefused(`${path} is a list with at least one member`)
  return given
}

function object(given: Json, path: string): JsonObject {
  if (given === true) return {}
  if (!isJsonObject(given)) throw new SchemaRefused(`${path}: an object was expected`)
  return given
}
