import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { compilePath, firstAt, order, type Path } from './compare.ts'
import { isList, isObject, type JsonObject } from './document.ts'
import { mongoQuery } from './mongo.ts'

type Sort = readonly { readonly path: Path; readonly down: boolean }[]

const MOST_FOUND = 100_000
const WRAPPER = ['query', 'filter', 'options', 'sort', 'limit', 'skip']

/**
 * The documents that a query of AIOS's registries finds: a Mongo filter, or `{ query, options: { sort, limit, skip } }`. Throws
 * BAD_INPUT naming the operator or option.
 */
export function mongoFind(documents: readonly JsonObject[], body: Json): readonly JsonObject[] {
  if (!isObject(body)) return documents.filter(mongoQuery(body))
  const keys = Object.keys(body)
  const wrapped = keys.length > 0 && keys.every(key => WRAPPER.includes(key)) && ['query', 'filter', 'options'].some(key => isObject(body[key]))
  const options: JsonObject = wrapped ? { ...body, ...(isObject(body['options']) ? body['options'] : {}) } : {}
  const sort = readSort(options['sort'])
  const [skip, limit] = [readCount('skip', options['skip'], 0), readCount('limit', options['limit'], MOST_FOUND)]
  const found = documents.filter(mongoQuery(wrapped ? body['query'] ?? body['filter'] ?? {} : body))
  if (sort.length > 0) found.sort((a, b) => compareBy(sort, a, b))
  // As in Mongo, a limit of 0 is none.
  return found.slice(skip, skip + (limit === 0 ? MOST_FOUND : limit))
}

function readSort(value: Json | undefined): Sort {
  if (value === undefined || value === null) return []
  const pairs: (readonly [string, Json])[] = []
  for (const item of isList(value) ? value : [value]) {
    if (isObject(item)) pairs.push(...Object.entries(item))
    else if (isList(item) && typeof item[0] === 'string') pairs.push([item[0], item[1] ?? 1])
    else throw bad('options.sort takes { "field": 1 } for ascending, -1 for descending')
  }
  return pairs.map(([field, direction]) => ({ path: compilePath(field), down: direction === -1 || direction === 'desc' || direction === 'descending' }))
}

function compareBy(sort: Sort, a: JsonObject, b: JsonObject): number {
  for (const { path, down } of sort) {
    const [left, right] = [firstAt(a, path), firstAt(b, path)]
    // What lacks the field comes first, as in Mongo.
    const difference = left === undefined || right === undefined ? Number(left !== undefined) - Number(right !== undefined) : order(left, right) ?? 0
    if (difference !== 0) return down ? -difference : difference
  }
  return 0
}

function readCount(name: string, value: Json | undefined, otherwise: number): number {
  if (value === undefined || value === null) return otherwise
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= MOST_FOUND) return value
  throw bad(`options.${name} takes a whole number up to ${MOST_FOUND}`)
}

function bad(because: string): MeshError {
  return new MeshError('BAD_INPUT', `query: ${because}`)
}
