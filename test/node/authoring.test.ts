import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import * as fc from 'fast-check'
import { check, digest, encode, hex, recordCid, type Schema } from '../../protocols/codec.ts'
import { granted, MeshError } from '../../protocols/errors.ts'
import type { Cid, Json } from '../../protocols/ids.ts'
import { bundlePath } from '../../protocols/specs.ts'
import type { ContentStore } from '../../src/ports.ts'
import { ArtefactCatalogue } from '../../src/registries/catalogue.ts'
import { Registries } from '../../src/registries/store.ts'
import { MemoryView } from '../../src/registries/view.ts'
import { QuickjsSandbox } from '../../node/adapters/quickjs.ts'
import { Authoring, type PublishProgress } from '../../node/authoring/authoring.ts'
import { readDirectory } from '../../node/authoring/directory.ts'
import { makeIdentity } from '../registries/ed25519.ts'
import { ROOT } from '../source.ts'
import { cells } from './cells.ts'
import { realClock, recording } from '../registries/loopback.ts'

const MODEL = readFileSync(join(ROOT, 'sdk/examples/tumour-triage/classify/model.onnx'))

type Tree = Readonly<Record<string, string | Uint8Array>>

const COMPONENT = JSON.stringify({
  componentId: { name: 'adder', version: '1.0.0', releaseTag: 'stable' },
  componentType: 'rule',
  componentInputProtocol: { a: { type: 'number' } },
  policies: {},
})
const CODE = `import { defineBlock } from 'aios-mesh/sdk'
import { add } from './lib/add.ts'
export default defineBlock({ data: (entry: { data: { a: number } }) => ({ sum: add(entry.data.a, 1) }) })
`
const ADD = 'export const add = (a: number, b: number): number => a + b\n'
const SOURCES: Tree = { 'component.json': COMPONENT, 'index.ts': CODE, 'lib/add.ts': ADD, 'weights/scale.bin': new Uint8Array([1, 2, 3]), 'README.md': '# Adder', '.git/config': 'secret', 'node_modules/x/index.js': 'module.exports = 1' }
/** As AIOS's documentation has it: snake_case, no code_type. */
const RULE = JSON.stringify({ name: 'least-loaded', version: '1.0', release_tag: 'stable', metadata: {}, tags: 'lb,demo', policy_parameters: { weight: 2 }, policy_settings: {}, description: 'picks the idlest' })
const RULE_CLASS = `class AIOSv1PolicyRule {
  constructor(ruleId, settings, parameters) { this.parameters = parameters }
  eval(parameters, input, context) { return { weighted: input.load * this.parameters.weight } }
  management(action, data) { return {} }
}
`

const hasCode = (code: string, pattern = /./) => (error: unknown): boolean => error instanceof MeshError && error.code === code && pattern.test(error.message)

describe('authoring', function () {
  this.timeout(60_000)
  const sandbox = new QuickjsSandbox()
  const identity = makeIdentity()
  const folders: string[] = []
  let content: ReturnType<typeof contentStore>
  let catalogue: ArtefactCatalogue
  let authoring: Authoring

  beforeEach(() => {
    content = contentStore()
    catalogue = new ArtefactCatalogue(new Registries(new MemoryView(), { identity, mayWrite: () => granted(true) }, { clock: realClock(), telemetry: recording() }), content)
    authoring = new Authoring({ content, sandbox, identity, catalogue, journal: cells() })
  })
  after(async () => {
    await sandbox[Symbol.asyncDispose]()
    await Promise.all(folders.map(folder => rm(folder, { recursive: true, force: true })))
  })

  const folder = async (tree: Tree): Promise<string> => {
    const root = await mkdtemp(join(tmpdir(), 'authoring-'))
    folders.push(root)
    for (const [path, text] of Object.entries(tree)) {
      await mkdir(dirname(join(root, path)), { recursive: true })
      await writeFile(join(root, path), text)
    }
    return root
  }
  const nothingPublished = async (): Promise<void> => {
    assert.deepEqual(await catalogue.components(), [])
    assert.deepEqual(await catalogue.policies(), [])
    assert.equal(content.files.size, 0)
  }

  describe('of components', () => {
    it('publishes a manifest, the code as one module and everything else as it is', async () => {
      const published = await authoring.publishComponent(await folder(SOURCES))
      assert.equal(published.uri, 'rule.adder:1.0.0-stable')
      const { manifest, cid } = await catalogue.component(published.uri)
      assert.equal(cid, published.cid)
      assert.deepEqual(manifest.files.map(({ path }) => path), ['README.md', 'entry.mjs', 'weights/scale.bin'])
      assert.deepEqual(manifest.runtime, { name: 'node', entry: 'entry.mjs' })
      assert.equal(manifest.author, identity.peer)
      assert.equal(published.bytes, manifest.files.reduce((sum, { size }) => sum + size, 0))
    })

    it('makes a module that runs on its own, with the SDK inside', async () => {
      const published = await authoring.publishComponent(await folder(SOURCES))
      const { manifest } = await catalogue.component(published.uri)
      const entry = manifest.files.find(({ path }) => path === 'entry.mjs')
      assert(entry)
      const alone = await folder({ 'entry.mjs': content.files.get(entry.cid) ?? '' })
      const script = `const { default: block } = await import(${JSON.stringify(pathToFileURL(join(alone, 'entry.mjs')).href)}); console.log(JSON.stringify(await block.data({ data: { a: 41 } })))`
      const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], { cwd: alone })
      assert.deepEqual(JSON.parse(stdout), { sum: 42 })
    })

    it('gives the same sources the same CID, wherever they lie', async () => {
      const one = await authoring.publishComponent(await folder(SOURCES))
      const before = [...content.files.keys()]
      const elsewhere = join(await folder({}), 'deeper', 'still')
      for (const [path, text] of Object.entries(SOURCES)) {
        await mkdir(dirname(join(elsewhere, path)), { recursive: true })
        await writeFile(join(elsewhere, path), text)
      }
      const two = await authoring.publishComponent(elsewhere)
      assert.equal(two.cid, one.cid)
      assert.deepEqual([...content.files.keys()], before)
    })

    it('publishing the same twice changes nothing; publishing something else under the same version is refused', async () => {
      const root = await folder(SOURCES)
      assert.equal((await authoring.publishComponent(root)).existing, false)
      assert.equal((await authoring.publishComponent(root)).existing, true)
      const stored = content.files.size
      await writeFile(join(root, 'weights/scale.bin'), new Uint8Array([9, 9, 9, 9]))
      await assert.rejects(authoring.publishComponent(root), hasCode('IMMUTABLE', /raise its version/))
      assert.equal(content.files.size, stored, 'found out before anything was stored')
      await writeFile(join(root, 'weights/scale.bin'), new Uint8Array([9, 9, 9]))
      await assert.rejects(authoring.publishComponent(root), hasCode('IMMUTABLE', /raise its version/))
    })

    it('publishes a model without code as it is', async () => {
      const root = await folder({ 'my-model.json': JSON.stringify({ header: { templateUri: 'Parser/V1' }, body: { spec: { values: JSON.parse(COMPONENT) } } }), 'model.onnx': MODEL })
      const { manifest } = await catalogue.component((await authoring.publishComponent(root)).uri)
      assert.deepEqual(manifest.runtime, { name: 'onnx', model: 'model.onnx', format: 'onnx' })
      assert.deepEqual(manifest.files.map(({ path, size }) => [path, size]), [['model.onnx', MODEL.byteLength]])
    })

    it('refuses what says that it is a model and is none, or not all of one', async () => {
      const publish = async (files: Tree): Promise<unknown> => authoring.publishComponent(await folder({ 'component.json': COMPONENT, ...files }))
      await assert.rejects(publish({ 'model.onnx': new Uint8Array(5_000) }), hasCode('SPEC_INVALID', /^model\.onnx: .*ONNX/))
      await assert.rejects(publish({ 'model.onnx': MODEL.subarray(0, MODEL.byteLength / 2) }), hasCode('SPEC_INVALID', /^model\.onnx: /))
      await assert.rejects(publish({ 'model.json': '{' }), hasCode('SPEC_INVALID', /^model\.json: /))
      await assert.rejects(publish({ 'model.json': JSON.stringify({ modelTopology: {}, weightsManifest: [{ paths: ['group1-shard1of1.bin'], weights: [] }] }) }), hasCode('SPEC_INVALID', /names group1-shard1of1\.bin, which is not there/))
    })

    it('tells how far it is', async () => {
      const seen: PublishProgress[] = []
      const published = await authoring.publishComponent(await folder({ ...SOURCES, 'big.bin': new Uint8Array(3_000_000) }), { progress: progress => seen.push(progress) })
      assert(seen.length >= 5)
      assert.equal(seen.at(-1)?.doneBytes, published.bytes)
      assert(seen.every(({ doneBytes, totalBytes }, i) => totalBytes === published.bytes && doneBytes >= (seen[i - 1]?.doneBytes ?? 0)))
    })

    it('leaves out what .aiosignore names', async () => {
      const root = await folder({ ...SOURCES, '.aiosignore': '# drafts\n*.md\nnotes/\n/top.txt\n', 'notes/a.txt': '', 'deep/notes/b.txt': '', 'deep/top.txt': '', 'top.txt': '' })
      const { manifest } = await catalogue.component((await authoring.publishComponent(root)).uri)
      assert.deepEqual(manifest.files.map(({ path }) => path), ['deep/top.txt', 'entry.mjs', 'weights/scale.bin'])
    })

    const refusals: readonly (readonly [string, Tree, RegExp])[] = [
      ['no manifest', { 'index.ts': CODE }, /component\.json/],
      ['two manifests', { 'a.json': COMPONENT, 'b.json': COMPONENT, 'index.js': '' }, /a\.json and b\.json/],
      ['a manifest that is not JSON', { 'component.json': '{ "a": ', 'index.js': '' }, /component\.json: is not JSON/],
      ['a manifest without a name', { 'component.json': JSON.stringify({ componentId: { version: '1', releaseTag: 'a' }, componentType: 'x' }), 'index.js': 'export default 1' }, /component\.json: .*componentId\.name/],
      ['an entry that leads out', { 'component.json': JSON.stringify({ ...JSON.parse(COMPONENT), runtime: { name: 'node', entry: '../../etc/passwd' } }), 'index.js': '' }, /component\.json: .*runtime\.entry/],
      ['code that does not parse', { ...SOURCES, 'index.ts': 'export default {' }, /index\.ts:1:\d+/],
      ['an import of a package that is not installed', { ...SOURCES, 'index.ts': 'import "left-pad-of-nobody"' }, /index\.ts:1:8: .*left-pad-of-nobody/],
      ['an import of a file that is missing', { ...SOURCES, 'index.ts': 'import "./missing.ts"' }, /missing/],
      ['names that differ only in case', { ...SOURCES, 'A.txt': '', 'a.txt': '' }, /ignore case/],
      ['a name that hosts cannot write', { ...SOURCES, 'a:b.txt': '' }, /cannot be published/],
      ['a file in the place of the bundled code', { ...SOURCES, 'entry.mjs': 'export {}' }, /entry\.mjs/],
    ]
    for (const [what, tree, pattern] of refusals) {
      it(`refuses ${what} and publishes nothing`, async () => {
        await assert.rejects(authoring.publishComponent(await folder(tree)), hasCode('SPEC_INVALID', pattern))
        await nothingPublished()
      })
    }

    it('refuses links that lead out, links to folders and links to nothing; a link inside stands for its file', async () => {
      const outside = await folder({ 'secret.txt': 'secret' })
      for (const target of [join(outside, 'secret.txt'), outside, '/etc/passwd', 'weights', 'nothing']) {
        const root = await folder(SOURCES)
        await symlink(target, join(root, 'link.txt'))
        await assert.rejects(authoring.publishComponent(root), hasCode('SPEC_INVALID', /^link\.txt: is a link/), target)
      }
      const root = await folder(SOURCES)
      await symlink('README.md', join(root, 'link.md'))
      await nothingPublished()
      const { manifest } = await catalogue.component((await authoring.publishComponent(root)).uri)
      const cids = manifest.files.filter(({ path }) => path.endsWith('.md')).map(({ cid }) => cid)
      assert.equal(cids.length, 2)
      assert.equal(new Set(cids).size, 1)
    })

    it('refuses code from outside the directory, by path or by link', async () => {
      const outside = await folder({ 'own.ts': 'export const own = 1' })
      const byPath = await folder({ ...SOURCES, 'index.ts': `import { own } from ${JSON.stringify(join(outside, 'own.ts'))}; export default { data: () => own }` })
      await assert.rejects(authoring.publishComponent(byPath), hasCode('SPEC_INVALID', /outside the directory/))
      await nothingPublished()
    })

    it('refuses what is too large or too many, naming the file', async () => {
      const small = new Authoring({ content, sandbox, identity, catalogue, journal: cells() }, { files: 7, fileBytes: 10_000, totalBytes: 15_000 })
      await assert.rejects(small.publishComponent(await folder({ ...SOURCES, 'big.bin': new Uint8Array(10_001) })), hasCode('SPEC_INVALID', /^big\.bin: .*limit is 10000/))
      await assert.rejects(small.publishComponent(await folder({ ...SOURCES, 'x1.bin': new Uint8Array(9_000), 'x2.bin': new Uint8Array(9_000) })), hasCode('SPEC_INVALID', /over 15000/))
      await assert.rejects(small.publishComponent(await folder({ ...SOURCES, 'a.txt': '', 'b.txt': '', 'c.txt': '' })), hasCode('SPEC_INVALID', /too many/))
      await nothingPublished()
    })

    it('names nothing when the disk is full in the middle', async () => {
      content.failAfter(1)
      await assert.rejects(authoring.publishComponent(await folder(SOURCES)), hasCode('STORAGE_FULL'))
      assert.deepEqual(await catalogue.components(), [])
      content.failAfter(Infinity)
    })

    it('refuses a directory that is not there', async () => {
      await assert.rejects(authoring.publishComponent('/no/such/directory'), hasCode('BAD_INPUT', /no such directory/))
    })
  })

  describe('of policies', () => {
    const run = async (uri: string, input: Json): Promise<Json> => {
      const { rule, source } = await catalogue.policy(uri)
      const opened = await sandbox.open(source, { ruleId: uri, settings: rule.settings, parameters: rule.parameters })
      assert(opened.ok, opened.ok ? '' : opened.message)
      const answer = await opened.rule.eval(rule.parameters, input, null)
      assert(answer.ok, answer.ok ? '' : answer.message)
      return answer.value
    }

    it('publishes AIOS\'s documented form, a class in code/function.js and no code_type', async () => {
      const published = await authoring.publishPolicy(await folder({ 'policy.json': RULE, 'code/function.js': RULE_CLASS }))
      assert.equal(published.uri, 'least-loaded:1.0-stable')
      assert.deepEqual(await run(published.uri, { load: 21 }), { weighted: 42 })
      const { rule } = await catalogue.policy(published.uri)
      assert.deepEqual(rule.tags, ['lb', 'demo'])
      assert.equal(rule.author, identity.peer)
    })

    it('publishes TypeScript against the SDK, with what it imports', async () => {
      const root = await folder({
        'policy.json': RULE,
        'index.ts': 'import { definePolicy } from "aios-mesh/sdk"\nimport { half } from "./half.ts"\nexport default definePolicy({ eval: (parameters, input) => ({ out: half(Number(input.load)) * Number(parameters.weight) }) })',
        'half.ts': 'export const half = (x: number): number => x / 2',
      })
      assert.deepEqual(await run((await authoring.publishPolicy(root)).uri, { load: 8 }), { out: 8 })
    })

    for (const [what, file, source] of [
      ['a default object', 'code/index.js', 'export default { eval: (p, input) => ({ weighted: input.load * p.weight }) }'],
      ['a CommonJS class', 'code/function.js', `${RULE_CLASS}\nmodule.exports = { AIOSv1PolicyRule }`],
      ['an exported class', 'code/function.ts', `export ${RULE_CLASS.replace('parameters) {', 'parameters) {')}`.replaceAll('this.parameters', '(this as any).parameters').replace('(ruleId,', '(ruleId: string,')],
    ] as const) {
      it(`takes ${what}`, async () => {
        assert.deepEqual(await run((await authoring.publishPolicy(await folder({ 'policy.json': RULE, [file]: source }))).uri, { load: 2 }), { weighted: 4 })
      })
    }

    it('publishing the same twice changes nothing; other code under the same version is refused', async () => {
      const root = await folder({ 'policy.json': RULE, 'code/function.js': RULE_CLASS })
      const first = await authoring.publishPolicy(root)
      const second = await authoring.publishPolicy(root)
      assert.deepEqual([second.cid, first.existing, second.existing], [first.cid, false, true])
      await writeFile(join(root, 'code/function.js'), RULE_CLASS.replace('input.load', 'input.load + 1'))
      await assert.rejects(authoring.publishPolicy(root), hasCode('IMMUTABLE'))
    })

    const refusals: readonly (readonly [string, Tree, RegExp])[] = [
      ['Python, saying what to write instead', { 'policy.json': RULE, 'code/function.py': 'class AIOSv1PolicyRule: pass' }, /function\.py: is Python.*function\.js/],
      ['a directory without a rule', { 'policy.json': RULE }, /put the rule there/],
      ['code that exports nothing', { 'policy.json': RULE, 'code/function.js': 'const x = 1' }, /code\/function\.js: exports no rule/],
      ['a rule that throws when it is made', { 'policy.json': RULE, 'code/function.js': 'export default class { constructor() { throw new Error("not today") } eval() {} }' }, /code\/function\.js: does not open.*not today/],
      ['a rule that never finishes loading', { 'policy.json': RULE, 'code/function.js': 'for (;;) {}; export default () => 1' }, /does not open.*fuel/],
      ['a rule that wants the host', { 'policy.json': RULE, 'code/function.js': 'import { readFileSync } from "node:fs"; export default () => readFileSync("/etc/passwd")' }, /code\/function\.js:1:\d+: .*node:fs/],
      ['a version that is missing', { 'policy.json': JSON.stringify({ name: 'x' }), 'code/function.js': RULE_CLASS }, /policy\.json: .*version/],
    ]
    for (const [what, tree, pattern] of refusals) {
      it(`refuses ${what} and publishes nothing`, async () => {
        await assert.rejects(authoring.publishPolicy(await folder(tree)), hasCode('SPEC_INVALID', pattern))
        await nothingPublished()
      })
    }
  })

  describe('of assets', () => {
    it('publishes a file under its own name, once', async () => {
      const root = await folder({ 'labels.txt': 'benign\nmalignant\n' })
      const published = await authoring.publishAsset(join(root, 'labels.txt'))
      assert.equal(published.uri, 'labels.txt:1.0.0-stable')
      const record = await catalogue.asset(published.uri)
      assert.equal(record.size, 17)
      assert.deepEqual(content.files.get(record.content), new Uint8Array(await readFile(join(root, 'labels.txt'))))
      assert.equal((await authoring.publishAsset(join(root, 'labels.txt'))).existing, true)
    })

    it('takes a name, version and tag, and refuses other bytes under them', async () => {
      const root = await folder({ 'a.bin': 'one', 'b.bin': 'two', 'c.bin': 'three' })
      const named = { name: 'weights', version: '2.1', releaseTag: 'beta' }
      assert.equal((await authoring.publishAsset(join(root, 'a.bin'), named)).uri, 'weights:2.1-beta')
      await assert.rejects(authoring.publishAsset(join(root, 'b.bin'), named), hasCode('IMMUTABLE'))
      await assert.rejects(authoring.publishAsset(join(root, 'c.bin'), named), hasCode('IMMUTABLE'))
    })

    it('refuses a name that makes no URI, a missing file and a folder, before storing anything', async () => {
      const root = await folder({ 'a b.bin': 'x' })
      await assert.rejects(authoring.publishAsset(join(root, 'a b.bin')), hasCode('SPEC_INVALID', /name/))
      await assert.rejects(authoring.publishAsset(join(root, 'none')), hasCode('BAD_INPUT'))
      await assert.rejects(authoring.publishAsset(root), hasCode('BAD_INPUT'))
      await nothingPublished()
    })
  })

  it('a path inside a bundle never leads out of it', () => {
    const part = fc.constantFrom('a', 'b.txt', '..', '.', '', '/', '\\', 'C:', '\0', '...', '..a')
    fc.assert(fc.property(fc.array(part, { minLength: 1, maxLength: 6 }), parts => {
      const path = parts.join('/')
      if (!bundlePath.safeParse(path).success) return
      const resolved = new URL(path.split('/').map(encodeURIComponent).join('/'), 'file:///bundle/').pathname
      assert(resolved.startsWith('/bundle/') && resolved.length > '/bundle/'.length, path)
      assert(!/[\\:\0]/.test(path), path)
    }), { numRuns: 500 })
    for (const bad of ['/etc/passwd', '../x', 'a/../../x', 'a//b', './a', 'a/', 'C:/x', 'a\\b', 'a\0b', '']) assert(!bundlePath.safeParse(bad).success, bad)
  })

  it('a directory is read in the same order everywhere', async () => {
    const root = await folder({ 'b/2': '', 'b-1': '', 'a': '', 'B': '', 'é': '', 'b/1/x': '' })
    assert.deepEqual((await readDirectory(root)).map(({ path }) => path).slice(0, 5), ['B', 'a', 'b-1', 'b/1/x', 'b/2'])
  })
})

/** Files and records by their hash, in memory. */
function contentStore(): ContentStore & { readonly files: Map<Cid, Uint8Array>; failAfter(adds: number): void } {
  const records = new Map<Cid, unknown>()
  const files = new Map<Cid, Uint8Array>()
  let left = Infinity
  return {
    files,
    failAfter(adds) {
      left = adds
    },
    async add(bytes) {
      const chunks: Uint8Array[] = []
      for await (const chunk of bytes) chunks.push(chunk)
      left -= 1
      if (left < 0) throw new MeshError('STORAGE_FULL', 'no space is left on the disk')
      const whole = new Uint8Array(Buffer.concat(chunks))
      const cid = `f${hex(digest(whole))}`
      files.set(cid, whole)
      return { cid, size: whole.byteLength }
    },
    async *cat(cid) {
      const bytes = files.get(cid)
      if (bytes === undefined) throw new MeshError('CONTENT_UNAVAILABLE', cid)
      yield bytes
    },
    fetch: async () => {},
    async putRecord(value) {
      const cid = recordCid(encode(value))
      records.set(cid, value)
      return cid
    },
    async getRecord<T>(cid: Cid, schema: Schema<T>) {
      if (!records.has(cid)) throw new MeshError('CONTENT_UNAVAILABLE', cid)
      return check(schema, records.get(cid), cid)
    },
    has: async cid => records.has(cid) || files.has(cid),
    pin: async () => {},
    unpin: async () => {},
  }
}
