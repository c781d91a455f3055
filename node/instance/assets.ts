import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Json } from '../../protocols/ids.ts'
import type { Assets } from '../../sdk/context.ts'
import { ComponentError } from '../../sdk/error.ts'

/** The files of a bundle, by the path they were published under. */
export function bundleAssets(folder: string, files: readonly string[]): Assets {
  const known = new Set(files)
  const path = (name: string): string => {
    const clean = name.replace(/^\.\//, '')
    if (!known.has(clean)) throw new ComponentError(`the bundle has no file "${name}"`)
    return join(folder, clean)
  }
  return {
    path,
    read: async name => new Uint8Array(await readFile(path(name))),
    text: name => readFile(path(name), 'utf8'),
    json: async name => JSON.parse(await readFile(path(name), 'utf8')) as Json,
  }
}
