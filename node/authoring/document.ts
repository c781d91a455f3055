import { readFile } from 'node:fs/promises'
import { MeshError } from '../../protocols/errors.ts'
import { invalid, type DirectoryFile } from './directory.ts'

const DOCUMENT_BYTES = 4_194_304

/**
 * The JSON document that describes a directory: the file of that name, or else the one other JSON file beside it that
 * mentions all of `marks`. Throws SPEC_INVALID naming the file.
 */
export async function findDocument(files: readonly DirectoryFile[], name: string, marks: readonly string[]): Promise<{ readonly path: string; readonly value: unknown }> {
  const named = files.find(file => file.path === name)
  if (named !== undefined) return { path: name, value: parse(name, await read(named)) }
  const candidates: { readonly path: string; readonly text: string }[] = []
  for (const file of files) {
    if (file.path.includes('/') || !file.path.endsWith('.json') || file.size > DOCUMENT_BYTES) continue
    const text = await read(file)
    if (marks.some(mark => text.includes(`"${mark}"`))) candidates.push({ path: file.path, text })
  }
  const [only] = candidates
  if (only === undefined) throw new MeshError('SPEC_INVALID', `the directory has no ${name}, and no other JSON file with ${marks.join(' or ')}`, { details: { file: name } })
  if (candidates.length > 1) throw new MeshError('SPEC_INVALID', `${candidates.map(({ path }) => path).join(' and ')} could each describe this directory: call the right one ${name}`, { details: { file: name } })
  return { path: only.path, value: parse(only.path, only.text) }
}

/** Says which file a parser's SPEC_INVALID is about. */
export function inFile<T>(path: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof MeshError && error.code === 'SPEC_INVALID') throw new MeshError('SPEC_INVALID', `${path}: ${error.message}`, { cause: error, details: { ...error.details, file: path } })
    throw error
  }
}

async function read(file: DirectoryFile): Promise<string> {
  if (file.size > DOCUMENT_BYTES) throw invalid(file.path, `has ${file.size} bytes; the limit is ${DOCUMENT_BYTES}`)
  return readFile(file.absolute, 'utf8')
}

function parse(path: string, text: string): unknown {
  try {
    // Editors on Windows put a byte order mark first.
    return JSON.parse(text.replace(/^\uFEFF/, ''))
  } catch (cause) {
    throw invalid(path, `is not JSON: ${cause instanceof Error ? cause.message : String(cause)}`)
  }
}
