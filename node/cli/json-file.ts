import { readFile } from 'node:fs/promises'
import { text as readAll } from 'node:stream/consumers'
import { MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'

const LIMIT = 64 * 1_048_576

/** JSON from a file, or from standard input for `-`. Throws BAD_INPUT naming the file and the place. */
export async function readJson(path: string): Promise<Json> {
  let raw: string
  try {
    raw = path === '-' ? await readAll(process.stdin) : await readFile(path, 'utf8')
  } catch (cause) {
    throw new MeshError('BAD_INPUT', `cannot read ${path}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
  if (raw.length > LIMIT) throw new MeshError('MESSAGE_TOO_LARGE', `${path} has ${raw.length} characters; the limit is ${LIMIT}: publish large inputs as assets`)
  try {
    return json.parse(JSON.parse(raw))
  } catch (cause) {
    throw new MeshError('BAD_INPUT', `${path === '-' ? 'standard input' : path} is not JSON: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
}
