import { lstat, readdir, readFile, realpath, stat } from 'node:fs/promises'
import { join, matchesGlob, relative, sep } from 'node:path'
import { MeshError } from '../../protocols/errors.ts'
import { bundlePath } from '../../protocols/specs.ts'

export type DirectoryFile = {
  /** Relative to the directory, with "/". */
  readonly path: string
  /** Where its bytes really are. */
  readonly absolute: string
  readonly size: number
}

export type DirectoryLimits = { readonly files: number; readonly fileBytes: number; readonly totalBytes: number }

export const DIRECTORY_LIMITS: DirectoryLimits = { files: 10_000, fileBytes: 68_719_476_736, totalBytes: 274_877_906_944 }

const IGNORE_FILE = '.aiosignore'
const IGNORE_BYTES = 65_536
const IGNORE_RULES = 500
const DEPTH = 24
/** Never part of what is published: dependencies are bundled, and these only serve to build. */
const NEVER = new Set(['node_modules', 'package-lock.json', 'tsconfig.json'])

/**
 * The files of a directory that may be published, sorted by path. Dot files, dependencies and what `.aiosignore` names
 * (one glob a line, `#` for comments) are left out. Throws SPEC_INVALID that names the file: links that lead out, devices,
 * unusable names, names that differ only in case, too many or too large.
 */
export async function readDirectory(directory: string, limits: DirectoryLimits = DIRECTORY_LIMITS): Promise<readonly DirectoryFile[]> {
  const root = await rootOf(directory)
  const ignored = await readIgnore(root)
  const files: DirectoryFile[] = []
  const folded = new Map<string, string>()
  let total = 0
  const walk = async (folder: string, depth: number): Promise<void> => {
    if (depth > DEPTH) throw invalid(relative(root, folder), `is nested more than ${DEPTH} folders deep`)
    const names = (await readdir(folder)).sort()
    for (const name of names) {
      const absolute = join(folder, name)
      const path = relative(root, absolute).split(sep).join('/')
      if (name.startsWith('.') || NEVER.has(name) || ignored(path)) continue
      const found = await lstat(absolute)
      if (found.isDirectory()) {
        await walk(absolute, depth + 1)
        continue
      }
      const file = found.isSymbolicLink() ? await follow(root, absolute, path) : { path, absolute, size: found.size }
      if (!found.isSymbolicLink() && !found.isFile()) throw invalid(path, 'is not a regular file: remove it, or name it in .aiosignore')
      const usable = bundlePath.safeParse(path)
      if (!usable.success) throw invalid(path, 'has a name that cannot be published: use at most 300 characters, without control characters, ":" and "\\"')
      if (file.size > limits.fileBytes) throw invalid(path, `has ${file.size} bytes; the limit is ${limits.fileBytes}`)
      const twin = folded.get(path.normalize('NFC').toLowerCase())
      if (twin !== undefined) throw invalid(path, `and ${twin} are the same file on hosts that ignore case: rename one`)
      folded.set(path.normalize('NFC').toLowerCase(), path)
      total += file.size
      if (total > limits.totalBytes) throw invalid(path, `takes the directory over ${limits.totalBytes} bytes`)
      files.push(file)
      if (files.length > limits.files) throw invalid(path, `is one file too many; the limit is ${limits.files}: name what is not needed in .aiosignore`)
    }
  }
  await walk(root, 0)
  return files.sort((a, b) => (a.path < b.path ? -1 : 1))
}

/** The directory itself, with links resolved. Throws BAD_INPUT when there is none. */
export async function rootOf(directory: string): Promise<string> {
  try {
    const root = await realpath(directory)
    if ((await stat(root)).isDirectory()) return root
  } catch (cause) {
    throw new MeshError('BAD_INPUT', `${directory}: no such directory`, { cause })
  }
  throw new MeshError('BAD_INPUT', `${directory} is not a directory`)
}

/** SPEC_INVALID about one file. */
export function invalid(path: string, message: string): MeshError {
  return new MeshError('SPEC_INVALID', `${path}: ${message}`, { details: { file: path } })
}

/** A link to a file inside the directory stands for that file. Everything else would publish what the author did not see. */
async function follow(root: string, absolute: string, path: string): Promise<DirectoryFile> {
  let target: string
  try {
    target = await realpath(absolute)
  } catch {
    throw invalid(path, 'is a link to nothing: remove it')
  }
  if (target !== root && !target.startsWith(root + sep)) throw invalid(path, 'is a link that leads out of the directory: copy the file in instead')
  const found = await stat(target)
  if (!found.isFile()) throw invalid(path, 'is a link to a folder: copy the files in instead')
  return { path, absolute: target, size: found.size }
}

async function readIgnore(root: string): Promise<(path: string) => boolean> {
  let text: string
  try {
    const file = join(root, IGNORE_FILE)
    if (!(await lstat(file)).isFile()) throw invalid(IGNORE_FILE, 'is not a regular file')
    text = await readFile(file, 'utf8')
  } catch (error) {
    if (error instanceof MeshError) throw error
    return () => false
  }
  if (text.length > IGNORE_BYTES) throw invalid(IGNORE_FILE, `has ${text.length} characters; the limit is ${IGNORE_BYTES}`)
  const globs = text.split('\n').map(line => line.trim()).filter(line => line !== '' && !line.startsWith('#'))
  if (globs.length > IGNORE_RULES) throw invalid(IGNORE_FILE, `has ${globs.length} rules; the limit is ${IGNORE_RULES}`)
  // As in .gitignore: a rule without an inner "/" holds at any depth, one that ends in "/" is a folder.
  const rules = globs.map(glob => {
    const bare = glob.replace(/\/$/, '')
    return bare.startsWith('/') ? bare.slice(1) : bare.includes('/') ? bare : `**/${bare}`
  })
  return path => rules.some(rule => matchesGlob(path, rule))
}
