import type { Json } from '../../protocols/ids.ts'
import { quote } from '../../protocols/refusal.ts'
import type { Template } from '../../protocols/specs.ts'
import { boundedDocument, isList, isObject, type JsonObject } from './document.ts'
import { Fields } from './fields.ts'
import { compilePattern } from './pattern.ts'
import { Problems } from './problems.ts'

export type FieldType = 'string' | 'number' | 'integer' | 'boolean' | 'array' | 'object' | 'any'

/** One field of a protocol template in its one form. Attribute names are AIOS's. */
export type Field = {
  readonly type: FieldType
  readonly description?: string
  /** Left out when the author did not say: then absent data passes, and an edge must still supply the field. */
  readonly required?: boolean
  readonly default?: Json
  readonly choices?: readonly Json[]
  readonly pattern?: string
  /** Most characters of a text. */
  readonly length?: number
  readonly min?: number
  readonly max?: number
  /** Most elements of an array. */
  readonly max_length?: number
  readonly min_length?: number
  /** Exact number of elements. */
  readonly size?: number
  readonly items?: Field
  readonly properties?: Readonly<Record<string, Field>>
  /** AIOS's older samples name a published schema instead of spelling the type out. */
  readonly schema?: string
}

const TYPES: Readonly<Record<string, FieldType>> = {
  string: 'string', str: 'string', text: 'string',
  number: 'number', float: 'number', double: 'number', numeric: 'number',
  integer: 'integer', int: 'integer', long: 'integer',
  boolean: 'boolean', bool: 'boolean',
  array: 'array', list: 'array',
  object: 'object', dict: 'object', map: 'object', json: 'object',
  any: 'any',
}

/** `array(3, float)`, `array(float)`, `object(any)`: the registry's notation. */
const CALL = /^(array|list|object|dict)\s*\(\s*(?:(\d{1,6})\s*,\s*)?([^\s].{0,200}?)?\s*\)$/
const SCHEMA_NAME = /^[\w@-]+([.:/][\w.:/@-]+)+$/

/**
 * Reads both of AIOS's template languages into one: fields by name, a list of fields that carry their name, or one
 * `{type: "object", properties}` around them; `required` as a flag or as a list of names. A template already in the
 * one form comes back equal. Throws SPEC_INVALID that names every bad attribute.
 */
export function parseTemplate(document: unknown, what = 'protocol template'): Template {
  const problems = new Problems(what)
  const template = readTemplate(isList(document as Json) ? boundedDocument({ fields: document }, what)['fields'] : boundedDocument(document, what), '', problems)
  problems.settle()
  return template
}

/** As `parseTemplate`, inside a larger document whose size is already bounded. */
export function readTemplate(value: Json | undefined, path: string, problems: Problems): Template {
  return asTemplate(readFields(value, path, problems))
}

/** Does any field say its type, so that it is meant to be held against data? Else it is an example, or prose. */
export function looksLikeTemplate(value: Json | undefined): boolean {
  if (value === null || value === undefined) return true
  if (isList(value)) return value.some(item => isObject(item) && Object.hasOwn(item, 'type'))
  if (!isObject(value)) return false
  const fields = Object.values(value)
  return fields.length === 0 || fields.some(field => (isObject(field) ? Object.hasOwn(field, 'type') || Object.hasOwn(field, 'properties') || Object.hasOwn(field, 'items') : typeof field === 'string' && (Object.hasOwn(TYPES, field.toLowerCase()) || CALL.test(field))))
}

function readFields(value: Json | undefined, path: string, problems: Problems): Readonly<Record<string, Field>> {
  const fields: Record<string, Field> = {}
  const at = (name: string): string => (path === '' ? name : `${path}.${name}`)
  if (isList(value)) {
    for (const [index, item] of value.entries()) {
      const name = isObject(item) ? item['name'] : undefined
      if (typeof name === 'string' && name !== '') fields[name] = readField(item, at(name), problems)
      else problems.add(`${path}[${index}]`, 'a field in a list needs a "name"')
    }
    return fields
  }
  if (value === undefined || value === null) return fields
  if (!isObject(value)) {
    problems.add(path, `${quote(value)} is not a template; give fields by name, for example { "text": { "type": "string" } }`)
    return fields
  }
  const whole = value['type'] === 'object' && isObject(value['properties']) ? value['properties'] : value
  const required = isList(value['required']) ? value['required'] : []
  for (const [name, item] of Object.entries(whole)) {
    if (whole === value && name === 'required' && isList(item)) continue
    if (name.length > 200) problems.add(at(`${name.slice(0, 40)}…`), 'use a field name of at most 200 characters')
    else {
      const field = readField(item, at(name), problems)
      fields[name] = required.includes(name) ? { ...field, required: true } : field
    }
  }
  for (const name of required) if (typeof name !== 'string' || !Object.hasOwn(fields, name)) problems.add(at('required'), `lists ${quote(name)}, which is not one of ${Object.keys(fields).slice(0, 8).join(', ')}`)
  return fields
}

function readField(value: Json | undefined, path: string, problems: Problems): Field {
  if (typeof value === 'string') return readType(value, path, problems)
  if (!isObject(value)) {
    problems.add(path, `${quote(value)} is not a field; give { "type": "string" } or the like`)
    return { type: 'any' }
  }
  const fields = new Fields(value, path, problems)
  const subtype = value['subtype']
  const properties = value['properties'] ?? (value['type'] === 'object' || isList(subtype) ? subtype : undefined)
  const items = value['items'] ?? (value['type'] === 'array' || value['type'] === 'list' ? subtype : undefined)
  const typed = readType(value['type'] ?? (properties !== undefined ? 'object' : items !== undefined ? 'array' : 'any'), fields.path('type'), problems)
  const description = fields.text(['description'], 2_000)
  const required = value['required']
  if (required !== undefined && typeof required !== 'boolean' && !isList(required)) fields.wrong('required', required, 'give true, false, or the names of required properties')
  const choices = fields.find('choices', 'options', 'enum')
  if (choices !== undefined && (!isList(choices) || choices.length === 0)) fields.wrong('choices', choices, 'give a list of at least one value')
  const pattern = fields.text(['pattern'], 500)
  const compiled = pattern === undefined ? undefined : compilePattern(pattern)
  if (compiled?.ok === false) problems.add(fields.path('pattern'), compiled.because)
  const [min, max] = [number(fields, 'min', 'minimum'), number(fields, 'max', 'maximum')]
  if (min !== undefined && max !== undefined && min > max) fields.wrong('min', min, `make it at most max (${max})`)
  return compact({
    ...typed,
    description,
    required: typeof required === 'boolean' ? required : undefined,
    default: value['default'],
    choices: isList(choices) && choices.length > 0 ? choices : undefined,
    pattern,
    length: fields.count(['length', 'maxLength'], 0, 1_000_000_000),
    min, max,
    max_length: fields.count(['max_length', 'maxItems'], 0, 1_000_000_000),
    min_length: fields.count(['min_length', 'minItems'], 0, 1_000_000_000),
    size: fields.count(['size'], 0, 1_000_000_000) ?? typed.size,
    items: items === undefined ? typed.items : readField(items, fields.path('items'), problems),
    properties: properties === undefined ? undefined : readFields(isList(required) && isObject(properties) ? { type: 'object', properties, required } : properties, fields.path('properties'), problems),
    schema: fields.text(['schema'], 300) ?? typed.schema,
  })
}

function readType(value: Json, path: string, problems: Problems): Field {
  if (typeof value === 'string') {
    const known = TYPES[value.toLowerCase()]
    if (known !== undefined && Object.hasOwn(TYPES, value.toLowerCase())) return { type: known }
    const call = CALL.exec(value)
    if (call !== null) {
      const [, name, size, inner] = call
      const element = inner === undefined ? undefined : readType(inner, path, problems)
      if (name === 'object' || name === 'dict') return { type: 'object' }
      return compact({ type: 'array', size: size === undefined ? undefined : Number(size), items: element })
    }
    if (SCHEMA_NAME.test(value)) return { type: 'any', schema: value }
  }
  problems.add(path, `${quote(value)} is not a type; use string, number, integer, boolean, array, object or any`)
  return { type: 'any' }
}

function number(fields: Fields, ...names: readonly string[]): number | undefined {
  const value = fields.find(...names)
  if (value === undefined || typeof value === 'number') return value
  fields.wrong(names[0]!, value, 'give a number')
  return undefined
}

const KNOWN = new WeakMap<Template, Readonly<Record<string, Field>>>()

/** The fields of a template, read once per template object. Throws SPEC_INVALID. */
export function fieldsOf(template: Template): Readonly<Record<string, Field>> {
  const known = KNOWN.get(template)
  if (known !== undefined) return known
  const problems = new Problems('protocol template')
  const fields = readFields(template, '', problems)
  problems.settle()
  KNOWN.set(template, fields)
  return fields
}

function asTemplate(fields: Readonly<Record<string, Field>>): Template {
  const template: Record<string, Json> = {}
  for (const [name, field] of Object.entries(fields)) template[name] = asJson(field)
  return template
}

function asJson(field: Field): JsonObject {
  const { items, properties, ...flat } = field
  const out: Record<string, Json> = {}
  for (const [name, value] of Object.entries(flat)) if (value !== undefined) out[name] = value
  if (items !== undefined) out['items'] = asJson(items)
  if (properties !== undefined) out['properties'] = asTemplate(properties)
  return out
}

function compact(field: { readonly [K in keyof Field]: Field[K] | undefined } & { readonly type: FieldType }): Field {
  const out: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(field)) if (value !== undefined) out[name] = value
  return { ...out, type: field.type }
}
