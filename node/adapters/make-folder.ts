import { existsSync, mkdirSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { MeshError } from '../../protocols/errors.ts'

const NO_PLACE: ReadonlySet<unknown> = new Set(['ENOENT', 'ENOTDIR', 'EROFS', 'ENAMETOOLONG'])

/**
 * Makes the folder, and those above it, where they are missing, for their owner alone. One step at a time: Node's recursive `mkdir` never
 * ends on a file system that answers ENOENT though the folder above is there, as /proc does. Throws BAD_INPUT where none can be, and what
 * `mkdirSync` throws.
 */
export function makeFolder(dir: string): void {
  const missing: string[] = []
  for (let at = resolve(dir); !existsSync(at); at = dirname(at)) missing.push(at)
  for (const folder of missing.reverse()) {
    try {
      mkdirSync(folder, { mode: 0o700 })
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined
      // Somebody else was faster.
      if (code === 'EEXIST') continue
      if (NO_PLACE.has(code)) throw new MeshError('BAD_INPUT', `no folder can be made at ${folder} (${String(code)}): name one on a disk with --data DIR`, { cause: error })
      throw error
    }
  }
}
