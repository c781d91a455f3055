import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ERRORS } from '../protocols/errors.ts'
import { describeProtocols } from './protocol-table.ts'
import { lineOf, readSources, ROOT, type Room, type Source } from './source.ts'

/** Who may import whom. `node` and `simulations` never meet. */
const ARROWS: Readonly<Record<Room, readonly Room[]>> = {
  protocols: ['protocols'],
  sdk: ['sdk', 'protocols'],
  src: ['src', 'sdk', 'protocols'],
  node: ['node', 'src', 'sdk', 'protocols'],
  simulations: ['simulations', 'src', 'sdk', 'protocols'],
  test: ['test', 'simulations', 'node', 'src', 'sdk', 'protocols'],
}

/** Pure packages: no I/O, no clock, no randomness that we call. */
const PURE_PACKAGES = ['zod', 'multiformats', '@ipld/dag-cbor', '@noble/hashes', '@bufbuild/protobuf']
/** What models ship their text with. */
const TEXT_PACKAGES = ['@huggingface/tokenizers']
const PACKAGES: Readonly<Partial<Record<Room, readonly string[]>>> = { protocols: PURE_PACKAGES, src: [...PURE_PACKAGES, ...TEXT_PACKAGES], sdk: ['zod'] }

/** What only ports may touch. */
const AMBIENT: readonly (readonly [name: string, use: RegExp])[] = [
  ['Date', /\bnew Date\(|(?<![.\w])Date\.\w/g],
  ['performance', /(?<![.\w])performance\.\w/g],
  ['a timer', /(?<![.\w#])(?:setTimeout|setInterval|setImmediate|queueMicrotask)\(/g],
  ['Math.random', /\bMath\.random\b/g],
  ['AbortSignal.timeout', /\bAbortSignal\.timeout\b/g],
  ['process', /(?<![.\w#'" ])process\.[a-z]|[=(,!] ?process\.[a-z]/g],
  ['Buffer', /(?<![.\w])Buffer\.\w|\bnew Buffer\b/g],
  ['console', /(?<![.\w])console\.\w/g],
  ['fetch', /(?:\bawait|\breturn|[=(,]|=>)\s*fetch\(/g],
  ['crypto', /(?<![.\w#])crypto\.\w/g],
]

const DRAWERS = /(?:^|[-./])(?:utils?|helpers?|common|types|managers?|services?|handlers?|misc|index)(?=[-./]|$)/
const NAMED_BY_AIOS = ['sdk/index.ts']
/** Where a process or a reader begins; everything else must be imported, started or named by something that is reached. */
const ENTRANCES = ['test/property-seed.ts', 'node/cli/main.ts', 'node/cli/aios.mjs', 'node/bench/main.ts', 'node/demo/main.ts', 'simulations/run.ts', 'sdk/index.ts']
const AUTHORS_OWN = /^sdk\/examples\//
const LONGEST_FILE = 400
const GENERATED = /^(?:test\/vectors|node\/dashboard\/vendor)\//

const TOP_LEVEL = ['package.json', 'tsconfig.json', 'src', 'node', 'protocols', 'sdk', 'docker', 'simulations', 'test', 'README.md']
const ALSO_ALLOWED = ['package-lock.json', 'LICENSE', 'CHANGELOG.md', 'node_modules']

const sources = readSources()
const byPath = new Map(sources.map(source => [source.path, source]))

function findings(only: (source: Source) => boolean, pattern: RegExp, what: string, text: (source: Source) => string = source => source.code): readonly string[] {
  return sources.filter(only).flatMap(source => [...text(source).matchAll(pattern)].map(match => `${source.path}:${lineOf(source.text, match.index)} ${what}`))
}

function packageOf(specifier: string): string {
  return specifier.split('/').slice(0, specifier.startsWith('@') ? 2 : 1).join('/')
}

function target(source: Source, specifier: string): string {
  return join(source.path, '..', specifier)
}

describe('the house is tidy', () => {
  it('has sources to look at', () => {
    assert.ok(sources.length > 50, `${sources.length} sources`)
  })

  it('the top level is exactly what the design says', () => {
    const entries = readdirSync(ROOT).filter(name => !name.startsWith('.'))
    assert.deepEqual(entries.filter(name => !TOP_LEVEL.includes(name) && !ALSO_ALLOWED.includes(name)), [])
    assert.deepEqual(TOP_LEVEL.filter(name => !entries.includes(name)), [])
  })

  it('imports follow the arrows', () => {
    const wrong = sources.flatMap(source => source.imports.filter(specifier => specifier.startsWith('.')).flatMap(specifier => {
      const room = target(source, specifier).split('/')[0] ?? ''
      const known = ARROWS[source.room].some(allowed => allowed === room) || room === 'package.json'
      return known ? [] : [`${source.path} imports ${specifier}`]
    }))
    assert.deepEqual(wrong, [])
  })

  it('pure rooms use pure packages only', () => {
    const wrong = sources.filter(source => !AUTHORS_OWN.test(source.path)).flatMap(source => {
      const allowed = PACKAGES[source.room]
      return allowed === undefined ? [] : source.imports.filter(specifier => !specifier.startsWith('.') && !allowed.includes(packageOf(specifier))).map(specifier => `${source.path} imports ${specifier}`)
    })
    assert.deepEqual(wrong, [])
  })

  it('packages that are imported are declared', () => {
    const manifest: { readonly [key: string]: unknown } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
    const declared = new Set(['dependencies', 'devDependencies', 'optionalDependencies', 'peerDependencies'].flatMap(kind => Object.keys(manifest[kind] ?? {})))
    // Tests write programs in strings, imports and all.
    const wrong = sources.filter(({ room }) => room !== 'test').flatMap(source => source.imports.filter(specifier => !specifier.startsWith('.') && !specifier.startsWith('node:') && packageOf(specifier) !== 'aios-mesh' && !declared.has(packageOf(specifier))).map(specifier => `${source.path} imports ${specifier}`))
    assert.deepEqual(wrong, [])
  })

  it('src and protocols touch the world through ports only', () => {
    const wrong = AMBIENT.flatMap(([name, use]) => findings(source => source.room === 'src' || source.room === 'protocols', use, `uses ${name}`))
    assert.deepEqual(wrong, [])
  })

  it('files are named by a noun or a verb of the domain', () => {
    assert.deepEqual(sources.filter(({ path }) => DRAWERS.test(path.replace(/\.\w+$/, '')) && !NAMED_BY_AIOS.includes(path) && !AUTHORS_OWN.test(path)).map(({ path }) => path), [])
    assert.deepEqual(sources.filter(({ path }) => /[A-Z_]/.test(path.replace(/^sdk\/examples\/.*/, ''))).map(({ path }) => path), [])
  })

  it('no file is longer than a reader bears', () => {
    const long = sources.filter(({ path }) => !GENERATED.test(path)).map(({ path, text }) => ({ path, lines: text.split('\n').length - 1 })).filter(({ lines }) => lines > LONGEST_FILE)
    assert.deepEqual(long.map(({ path, lines }) => `${path} has ${lines} lines`), [])
  })

  it('the compiler is never silenced', () => {
    assert.deepEqual(findings(() => true, new RegExp(`@ts-${'(?:ignore|expect-error|nocheck)'}`, 'g'), 'silences the compiler', source => source.text), [])
    assert.deepEqual(findings(source => source.room !== 'test' && source.path.endsWith('.ts'), /(?:\bas|[:<|,(])\s*any\s*(?:[;,)>\]=|&{]|$)|\bany\[\]/gm, 'has an any'), [])
  })

  it('no host of the world has its address in the code', () => {
    const ours = /^(?:0|10|127|192\.168|192\.0\.2|198\.51\.100|203\.0\.113|169\.254)\./
    const addresses = sources.filter(source => source.room !== 'test' && source.path.endsWith('.ts')).flatMap(source => [...source.text.matchAll(/(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])/g)].map(([address]) => `${source.path} names ${address}`))
    assert.deepEqual(addresses.filter(found => !ours.test(found.split(' ').at(-1)!)), [])
  })

  it('nothing is left for later', () => {
    assert.deepEqual(findings(({ path }) => path !== 'test/tidy.test.ts', /\b(?:TODO|FIXME|HACK|XXX)\b/g, 'is left for later', source => source.text), [])
  })

  it('no test is singled out, and none is skipped without a reason', () => {
    assert.deepEqual(findings(source => source.room === 'test', /\b(?:it|describe|context)\.only\(/g, 'singles a test out'), [])
    const unexplained = sources.filter(source => source.room === 'test').flatMap(source => source.text.split('\n').flatMap((line, at, lines) => {
      const skips = /\b(?:it|describe|context)\.skip\(|\bthis\.skip\(/.test(line)
      const explained = line.includes('//') || lines[at - 1]?.includes('//') === true || /it\(`?.*(?:where|when)/.test(lines[at - 1] ?? '')
      return skips && !explained ? [`${source.path}:${at + 1}`] : []
    }))
    assert.deepEqual(unexplained.filter(place => !place.startsWith('test/tidy')), [])
  })

  it('every file is reached from somewhere a process or a reader begins', () => {
    const reached = new Set<string>()
    const visit = (path: string): void => {
      const source = byPath.get(path)
      if (source === undefined || reached.has(path)) return
      reached.add(path)
      for (const specifier of source.imports) if (specifier.startsWith('.')) visit(target(source, specifier))
      for (const mentioned of source.mentions) visit(mentioned)
    }
    for (const entrance of ENTRANCES) visit(entrance)
    // What only tests reach is dead, unless it is a test's own.
    for (const { path, room } of sources) if (room === 'test' && path.endsWith('.test.ts')) visitTests(path)
    function visitTests(path: string): void {
      const source = byPath.get(path)
      if (source?.room !== 'test' || reached.has(path)) return
      reached.add(path)
      for (const next of [...source.imports.filter(specifier => specifier.startsWith('.')).map(specifier => target(source, specifier)), ...source.mentions]) visitTests(next)
    }
    assert.deepEqual(sources.filter(({ path }) => !reached.has(path) && !AUTHORS_OWN.test(path)).map(({ path }) => path), [])
  })
})

describe('protocols/README.md', () => {
  const page = readFileSync(join(ROOT, 'protocols/README.md'), 'utf8')
  const rows = page.split('\n').filter(line => line.startsWith('|')).map(line => line.split('|').slice(1, -1).map(cell => cell.trim().replaceAll('`', '')))

  it('lists every protocol with its file and its limits, and none that is not there', async () => {
    const listed = rows.filter(([id]) => id?.startsWith('/aios/')).map(([id, file, kind, limits]) => ({ id, file, kind, limits }))
    assert.deepEqual(listed, await describeProtocols())
  })

  it('lists every error code with its statuses, and none that is not there', () => {
    const listed = rows.filter(([code]) => /^[A-Z][A-Z_]+$/.test(code ?? '')).map(cells => cells.slice(0, 4))
    assert.deepEqual(listed, Object.entries(ERRORS).map(([code, { http, grpc, retryable }]) => [code, String(http), String(grpc), retryable ? 'yes' : 'no']))
  })
})
