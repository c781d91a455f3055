import type { Json } from '../../protocols/ids.ts'
import type { JsonObject } from '../lib/json.ts'
import { mongoFind } from '../specs/mongo-find.ts'

/** One registry as AIOS's users know it: documents by key, in AIOS's spelling. */
export interface Shelf {
  documents(): Promise<readonly JsonObject[]>
  /** Throws NOT_FOUND. */
  get(key: string): Promise<JsonObject>
  /** Answers the key. Throws SPEC_INVALID, ALREADY_EXISTS, IMMUTABLE, FORBIDDEN. */
  create(document: Json): Promise<string>
  /** Mongo's update operators, or fields to set. Throws NOT_FOUND, FORBIDDEN (another's), IMMUTABLE (not what may change). */
  update(key: string, change: Json): Promise<JsonObject>
  /** Deletes, or yanks what is never deleted. Throws NOT_FOUND, FORBIDDEN. */
  remove(key: string, because?: string): Promise<void>
}

/** Documents that pass a Mongo filter, or `{ query, options: { sort, limit, skip } }`. Throws BAD_INPUT. */
export async function query(shelf: Pick<Shelf, 'documents'>, body: Json): Promise<readonly JsonObject[]> {
  return mongoFind(await shelf.documents(), body)
}
