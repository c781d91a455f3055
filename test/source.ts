import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'

export const ROOT = resolve(import.meta.dirname, '..')
export const ROOMS = ['protocols', 'sdk', 'src', 'node', 'simulations', 'test'] as const
export type Room = (typeof ROOMS)[number]

/** One source file of ours, as the rules read it. */
export type Source = { readonly path: string; readonly room: Room; readonly text: string; readonly code: string; readonly imports: readonly string[]; readonly mentions: readonly string[] }

const NOT_OURS = ['node_modules', 'test/fixtures', 'node/dashboard/vendor', 'node/stubs']
const IMPORT = /(?:^|[\s;}])(?:import|export)\b[^'"`;]*?\bfrom\s*['"]([^'"]+)['"]|(?<![-'"`\w])import\s*\(?\s*['"]([^'"]+)['"]/g
const FILE_NAME = /['"`]([^'"`\s]+\.(?:ts|mjs|cjs|js))['"`]/g

/** Every source file of the house, sorted by path. */
export function readSources(): readonly Source[] {
  return ROOMS.flatMap(room => walk(join(ROOT, room)).map(file => read(room, file)))
}

function walk(directory: string): readonly string[] {
  if (!existsSync(directory) || NOT_OURS.includes(relative(ROOT, directory))) return []
  return readdirSync(directory).sort().flatMap(name => {
    const path = join(directory, name)
    if (name === 'node_modules') return []
    if (statSync(path).isDirectory()) return walk(path)
    return /\.(?:ts|mjs|cjs|js)$/.test(name) && !name.endsWith('.d.ts') ? [path] : []
  })
}

function read(room: Room, file: string): Source {
  const text = readFileSync(file, 'utf8')
  const code = withoutComments(text)
  const imports = [...code.matchAll(IMPORT)].flatMap(match => match[1] ?? match[2] ?? [])
  const mentions = [...code.matchAll(FILE_NAME)].flatMap(match => locate(dirname(file), match[1] ?? ''))
  return { path: relative(ROOT, file), room, text, code, imports, mentions }
}

/** The file of ours that a string in a source names: relative to it, or to the root (commands, worker entries). */
function locate(directory: string, name: string): readonly string[] {
  if (name.startsWith('http')) return []
  return [resolve(directory, name), resolve(ROOT, name)].filter(path => path.startsWith(ROOT) && existsSync(path)).map(path => relative(ROOT, path))
}

/** Comments become spaces, line by line; strings stay, so that positions and imports do. */
function withoutComments(text: string): string {
  return text
    .replace(/\/\*[^]*?\*\//g, comment => comment.replace(/[^\n]/g, ' '))
    .replace(/(^|[^:'"`\\/])\/\/.*$/gm, (line, before: string) => before + ' '.repeat(line.length - before.length))
}

export function lineOf(text: string, index: number): number {
  return text.slice(0, index).split('\n').length
}
