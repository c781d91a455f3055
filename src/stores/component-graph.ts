import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { isList, isObject, type JsonObject } from '../specs/document.ts'
import { parseGraphQuery, pick, type Selection } from '../specs/graph-query.ts'
import { mongoFind } from '../specs/mongo-find.ts'
import type { Shelf } from './shelf.ts'

const COMPARED = ['gt', 'gte', 'lt', 'lte', 'ne', 'in', 'nin', 'regex', 'exists']

/**
 * AIOS's read-only GraphQL over components: `componentMany`, `componentOne`, `componentById`, `componentByIds`, `componentCount`, with
 * `filter` (fields, `_operators`, `AND`, `OR`), `sort` (`NAME_ASC`), `skip` and `limit`. Ids are URIs or CIDs. Throws BAD_INPUT.
 */
export async function answerGraphQuery(shelf: Pick<Shelf, 'documents'>, source: string, variables: JsonObject): Promise<JsonObject> {
  const asked = parseGraphQuery(source, variables)
  const documents = (await shelf.documents()).map(document => ({ ...document, _id: document['componentURI'] ?? null, __typename: 'Component' }))
  return Object.fromEntries(asked.map(selection => [selection.as, answer(selection, documents)]))
}

function answer({ name, args, fields }: Selection, documents: readonly JsonObject[]): Json {
  const found = (): readonly JsonObject[] => mongoFind(documents, { query: filterOf(args['filter'] ?? {}, ''), options: { ...sorted(args['sort']), ...(args['skip'] === undefined ? {} : { skip: args['skip'] }), ...(args['limit'] === undefined ? {} : { limit: args['limit'] }) } })
  const by = (id: Json | undefined): JsonObject | undefined => documents.find(document => document['componentURI'] === id || document['cid'] === id)
  switch (name) {
    case 'componentMany': return pick(found(), fields)
    case 'componentOne': return pick(found()[0], fields)
    case 'componentById': return pick(by(args['_id']), fields)
    case 'componentByIds': return pick((isList(args['_ids']) ? args['_ids'] : []).flatMap(id => by(id) ?? []), fields)
    case 'componentCount': return found().length
    case '__typename': return 'Query'
    default: throw new MeshError('BAD_INPUT', `query: there is no ${name} here: componentMany, componentOne, componentById, componentByIds and componentCount are`)
  }
}

/** GraphQL's nested filter as Mongo's dotted one. */
function filterOf(filter: Json, path: string): JsonObject {
  if (!isObject(filter)) throw new MeshError('BAD_INPUT', 'query: a filter is an object of fields')
  const conditions = Object.entries(filter).flatMap(([name, wanted]): JsonObject[] => {
    if (name === 'AND' || name === 'OR') return [{ [name === 'AND' ? '$and' : '$or']: isList(wanted) ? wanted.map(one => filterOf(one, path)) : [] }]
    if (name === '_operators') return [operatorsOf(wanted, path)]
    const at = path === '' ? name : `${path}.${name}`
    return [isObject(wanted) ? filterOf(wanted, at) : { [at]: isList(wanted) ? { $in: wanted } : wanted }]
  })
  return conditions.length === 0 ? {} : { $and: conditions }
}

function operatorsOf(value: Json, path: string): JsonObject {
  if (!isObject(value)) return {}
  const conditions = Object.entries(value).map(([name, wanted]): JsonObject => {
    const at = path === '' ? name : `${path}.${name}`
    if (!isObject(wanted)) return { [at]: wanted }
    const compared = Object.entries(wanted).filter(([operator]) => COMPARED.includes(operator))
    return compared.length === 0 ? operatorsOf(wanted, at) : { [at]: Object.fromEntries(compared.map(([operator, operand]) => [`$${operator}`, operand])) }
  })
  return conditions.length === 0 ? {} : { $and: conditions }
}

function sorted(sort: Json | undefined): JsonObject {
  if (typeof sort !== 'string') return {}
  const [, field = '_ID', direction = 'ASC'] = /^(.*?)(?:_(ASC|DESC))?$/.exec(sort) ?? []
  const name = field === '_ID' ? '_id' : field
  return { sort: { [FIELDS.find(known => known.toUpperCase() === name.toUpperCase()) ?? name]: direction === 'DESC' ? -1 : 1 } }
}

const FIELDS = ['_id', 'componentURI', 'componentType', 'createdAt']
