import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject, type JsonObject } from '../../lib/json.ts'

export type Problem = { readonly path: string; readonly because: string }
export class SchemaRefused extends Error {}

/** Says nothing about what is valid. */
const ANNOTATIONS = new Set(['title', 'description', 'default', 'examples', '$schema', '$id', '$comment', 'deprecated', 'readOnly', 'writeOnly', 'discriminator', '$defs', 'definitions', 'strict'])

export function isAnnotation(keyword: string): boolean {
  return ANNOTATIONS.has(keyword) || keyword.startsWith('x-')
}

/** Without what says nothing about validity. */
export function assertions(schema: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(schema).filter(([keyword]) => !isAnnotation(keyword)))
}

/** One schema for what must hold for both. Throws SchemaRefused where that cannot be written as one. */
export function merge(a: JsonObject, b: JsonObject, path: string): JsonObject {
  const merged: Record<string, Json> = { ...assertions(a) }
  if (a['additionalProperties'] !== undefined || b['additionalProperties'] !== undefined) closed(a, b, path)
  for (const [keyword, value] of Object.entries(assertions(b))) {
    const mine = merged[keyword]
    merged[keyword] = mine === undefined || JSON.stringify(mine) === JSON.stringify(value) ? value : both(keyword, mine, value, path)
  }
  return merged
}

function both(keyword: string, a: Json, b: Json, path: string): Json {
  switch (keyword) {
    case 'required': return [...new Set([...names(a), ...names(b)])]
    case 'properties': {
      if (!isJsonObject(a) || !isJsonObject(b)) break
      const left = a
      return { ...a, ...Object.fromEntries(Object.entries(b).map(([name, schema]) => [name, left[name] === undefined ? schema : { allOf: [left[name], schema] }])) }
    }
    case 'type': {
      const wider = (types: readonly string[]): readonly string[] => (types.includes('number') ? [...types, 'integer'] : types)
      const left = wider(names(a))
      const right = wider(names(b))
      const common = left.filter(type => right.includes(type))
      return common.includes('number') ? common.filter(type => type !== 'integer') : common
    }
    case 'enum': if (Array.isArray(a) && Array.isArray(b)) {
      const right = b.map(value => JSON.stringify(value))
      return a.filter(value => right.includes(JSON.stringify(value)))
    }
    break
    case 'minimum': case 'exclusiveMinimum': case 'minLength': case 'minItems': case 'minProperties': if (typeof a === 'number' && typeof b === 'number') return Math.max(a, b)
    break
    case 'maximum': case 'exclusiveMaximum': case 'maxLength': case 'maxItems': case 'maxProperties': if (typeof a === 'number' && typeof b === 'number') return Math.min(a, b)
    break
    case 'anyOf': case 'oneOf': case 'items': case 'allOf': case 'not': break
  }
  throw new SchemaRefused(`${path}: two schemas must hold at once and both say ${keyword}; that combination is not supported`)
}

/** A schema that closes its objects knows only its own properties; the other's would have to be dropped. */
function closed(a: JsonObject, b: JsonObject, path: string): void {
  const known = (schema: JsonObject): string => Object.keys(isJsonObject(schema['properties']) ? schema['properties'] : {}).sort().join(' ')
  const free = (schema: JsonObject): boolean => schema['additionalProperties'] === undefined && known(schema) === ''
  if (known(a) !== known(b) && !free(a) && !free(b)) throw new SchemaRefused(`${path}: two schemas must hold at once, and additionalProperties of one closes it to properties of the other; that combination is not supported`)
}

export function names(value: Json | undefined): readonly string[] {
  if (typeof value === 'string') return [value]
  return Array.isArray(value) ? value.filter(item => typeof item === 'string') : []
}

/** May no value fit both? Sure when true; false may only mean that it cannot be told. `resolve` follows a $ref one step. */
export function disjoint(a: Json, b: Json, resolve: (schema: Json) => Json, depth = 8): boolean {
  const left = resolve(a)
  const right = resolve(b)
  if (left === false || right === false) return true
  if (!isJsonObject(left) || !isJsonObject(right) || depth === 0) return false
  const leftValues = values(left)
  const rightValues = values(right)
  if (leftValues !== undefined && rightValues !== undefined) return !leftValues.some(value => rightValues.includes(value))
  const leftTypes = typesOf(left)
  const rightTypes = typesOf(right)
  if (leftTypes !== undefined && rightTypes !== undefined && !leftTypes.some(type => rightTypes.includes(type))) return true
  const leftProperties = left['properties']
  const rightProperties = right['properties']
  if (leftTypes?.join() !== 'object' || rightTypes?.join() !== 'object' || !isJsonObject(leftProperties) || !isJsonObject(rightProperties)) return false
  const shared = names(left['required']).filter(name => names(right['required']).includes(name))
  return shared.some(name => leftProperties[name] !== undefined && rightProperties[name] !== undefined && disjoint(leftProperties[name], rightProperties[name], resolve, depth - 1))
}

function values(schema: JsonObject): readonly string[] | undefined {
  if (schema['const'] !== undefined) return [JSON.stringify(schema['const'])]
  return Array.isArray(schema['enum']) ? schema['enum'].map(value => JSON.stringify(value)) : undefined
}

function typesOf(schema: JsonObject): readonly string[] | undefined {
  const given = schema['type'] === undefined ? undefined : names(schema['type'])
  const types = given ?? (Array.isArray(schema['enum']) ? schema['enum'] : schema['const'] === undefined ? undefined : [schema['const']])?.map(kindOf)
  return types === undefined ? undefined : [...new Set(types.map(type => (type === 'integer' ? 'number' : type)))]
}

export function kindOf(value: Json): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'array'
  return typeof value
}
