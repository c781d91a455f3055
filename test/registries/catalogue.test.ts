import assert from 'node:assert/strict'
import { check, encode, recordCid, utf8, digest, hex, type Schema } from '../../protocols/codec.ts'
import { MeshError, granted } from '../../protocols/errors.ts'
import type { Cid } from '../../protocols/ids.ts'
import { modelManifest, type ServedModel } from '../../protocols/model.ts'
import { blockRecord, componentManifest, vdagSpec, type ComponentManifest, type VdagSpec } from '../../protocols/specs.ts'
import type { ContentStore } from '../../src/ports.ts'
import { ArtefactCatalogue } from '../../src/registries/catalogue.ts'
import { compareVersions, latest } from '../../src/registries/latest.ts'
import { Registries } from '../../src/registries/store.ts'
import { MemoryView } from '../../src/registries/view.ts'
import { makeIdentity } from './ed25519.ts'
import { realClock, recording } from './loopback.ts'
import { samples } from '../protocols/samples.ts'

/** Records and files by CID, in memory, counting reads. */
function contentStore(): ContentStore & { readonly reads: { records: number } } {
  const records = new Map<Cid, unknown>()
  const files = new Map<Cid, Uint8Array>()
  const reads = { records: 0 }
  return {
    reads,
    async add(bytes) {
      const chunks: Uint8Array[] = []
      for await (const chunk of bytes) chunks.push(chunk)
      const whole = Uint8Array.from(chunks.flatMap(chunk => [...chunk]))
      const cid = `f${hex(digest(whole))}`
      files.set(cid, whole)
      return { cid, size: whole.byteLength }
    },
    async *cat(cid) {
      const bytes = files.get(cid)
      if (bytes === undefined) throw new MeshError('CONTENT_UNAVAILABLE', cid)
      // Split in the middle of characters, as a network would.
      for (let at = 0; at < bytes.byteLength; at += 3) yield bytes.subarray(at, at + 3)
    },
    fetch: async () => {},
    async putRecord(value) {
      const cid = recordCid(encode(value))
      records.set(cid, value)
      return cid
    },
    async getRecord<T>(cid: Cid, schema: Schema<T>) {
      reads.records++
      const value = records.get(cid)
      if (value === undefined) throw new MeshError('CONTENT_UNAVAILABLE', cid)
      return check(schema, value, cid)
    },
    has: async cid => records.has(cid) || files.has(cid),
    pin: async () => {},
    unpin: async () => {},
  }
}

const hasCode = (code: string) => (error: unknown) => error instanceof MeshError && error.code === code

describe('the catalogue', () => {
  const identity = makeIdentity()
  let content: ReturnType<typeof contentStore>
  let registries: Registries
  let catalogue: ArtefactCatalogue

  beforeEach(() => {
    content = contentStore()
    registries = new Registries(new MemoryView(), { identity, mayWrite: () => granted(true) }, { clock: realClock(), telemetry: recording() })
    catalogue = new ArtefactCatalogue(registries, content)
  })

  const component = (version: string, tags: string[] = []): ComponentManifest =>
    componentManifest.parse({ componentURI: `model.eye:${version}`, componentId: { name: 'eye', version: version.split('-')[0], releaseTag: version.split('-')[1] }, componentType: 'model', runtime: { name: 'onnx', model: 'm.onnx' }, files: [], needs: {}, tags, author: identity.peer })
  const spec = (name: string): VdagSpec => vdagSpec.parse({ vdagURI: `${name}:1-a`, vdagName: name, vdagVersion: { version: '1', releaseTag: 'a' }, nodes: [{ label: 'n', type: 'block' }], edges: [], inputs: ['n'], outputs: ['n'] })

  it('finds what was published by URI, by CID and by asking for the latest', async () => {
    const { cid } = await catalogue.publishComponent(component('1.9.0-stable'))
    const newest = await catalogue.publishComponent(component('1.10.0-stable'))
    assert.deepEqual(await catalogue.component('model.eye:1.9.0-stable'), { manifest: component('1.9.0-stable'), cid })
    assert.deepEqual((await catalogue.component('model.eye:latest')).cid, newest.cid)
    assert.deepEqual((await catalogue.component('model.eye')).cid, newest.cid)
    assert.deepEqual(await catalogue.componentByCid(cid), component('1.9.0-stable'))
    assert.deepEqual((await catalogue.components()).map(({ uri, writer }) => [uri, writer]), [['model.eye:1.10.0-stable', identity.peer], ['model.eye:1.9.0-stable', identity.peer]])
    await assert.rejects(catalogue.component('model.eye:3-x'), hasCode('NOT_FOUND'))
    await assert.rejects(catalogue.component('toString'), hasCode('NOT_FOUND'))
  })

  it('takes the same content again and refuses other content under a published URI', async () => {
    const first = await catalogue.publishComponent(component('1-a'))
    assert.deepEqual(await catalogue.publishComponent(component('1-a')), first)
    await assert.rejects(catalogue.publishComponent(component('1-a', ['changed'])), error => hasCode('IMMUTABLE')(error) && /raise its version or releaseTag/.test(String(error)))
    assert.equal((await catalogue.component('model.eye:1-a')).cid, first.cid)
    await assert.rejects(catalogue.publishComponent({ ...component('1-a'), componentURI: 'model.eye:latest' }), hasCode('SPEC_INVALID'))
  })

  it('fetches a document once and gives every caller its own copy', async () => {
    await catalogue.publishVdag(spec('triage'))
    const { spec: mine } = await catalogue.vdag('triage:1-a')
    mine.nodes.length = 0
    assert.equal((await catalogue.vdag('triage:1-a')).spec.nodes.length, 1)
    assert.equal(content.reads.records, 1)
    assert.deepEqual((await catalogue.vdags()).map(({ uri }) => uri), ['triage:1-a'])
  })

  it('does not take a document that calls itself something else', async () => {
    const { cid } = await catalogue.publishVdag(spec('honest'))
    await registries.open('vdags', { parse: value => value }).put('other:1-a', { cid })
    await assert.rejects(catalogue.vdag('other:1-a'), /calls itself honest:1-a/)
    await registries.open('components', { parse: value => value }).put('model.x:1-a', { cid })
    await assert.rejects(catalogue.component('model.x:1-a'), hasCode('MESSAGE_INVALID'))
  })

  it('brings a policy with its source, whatever the chunks it arrives in', async () => {
    const source = 'export default class { eval() { return "naïve 🦊" } }'
    const rule = { policyRuleURI: 'p:1-a', name: 'p', version: '1', releaseTag: 'a', description: '', tags: [], codeType: 'js_module_v1' as const, settings: {}, parameters: {}, inputSchema: {}, outputSchema: {}, managementCommands: {}, author: identity.peer }
    await catalogue.publishPolicy(rule, source)
    assert.equal((await catalogue.policy('p:latest')).source, source)
    assert.equal((await catalogue.policy('p:1-a')).rule.policyRuleURI, 'p:1-a')
    await assert.rejects(catalogue.publishPolicy({ ...rule, policyRuleURI: 'p:2-a' }, 'x'.repeat(1_048_577)), hasCode('SPEC_INVALID'))
    const { cid } = await content.add((async function* () {
      yield Uint8Array.of(0xff, 0xfe)
    })())
    const broken = await content.putRecord({ ...rule, policyRuleURI: 'bad:1-a', code: cid })
    await registries.open('policies', { parse: value => value }).put('bad:1-a', { cid: broken })
    await assert.rejects(catalogue.policy('bad:1-a'), /not UTF-8/)
    assert.ok(utf8(source).byteLength > source.length)
  })

  it('keeps assets, and blocks that change and go', async () => {
    await catalogue.publishAsset({ assetURI: 'data:1-a', name: 'data', version: '1', releaseTag: 'a', content: 'bafyfile', size: 3, mediaType: 'text/csv', metadata: {}, tags: [], author: identity.peer })
    assert.equal((await catalogue.asset('data')).content, 'bafyfile')
    const heard: (string | undefined)[] = []
    catalogue.onBlock((id, block) => heard.push(`${id}@${block?.revision ?? 'gone'}`))
    const block = blockRecord.parse({ blockId: 'eye', componentURI: 'model.eye:1-a', component: 'bafymanifest', runtime: { name: 'onnx' }, minInstances: 1, maxInstances: 2, needs: {}, owner: identity.peer, revision: 1 })
    await catalogue.putBlock(block)
    await catalogue.putBlock({ ...block, revision: 2 })
    assert.deepEqual(await catalogue.blocks(), [{ ...block, revision: 2 }])
    await catalogue.withdrawBlock('eye')
    assert.equal(await catalogue.block('eye'), undefined)
    await assert.rejects(catalogue.withdrawBlock('never'), hasCode('NOT_FOUND'))
    assert.deepEqual(heard, ['eye@1', 'eye@2', 'eye@gone'])
  })

  it('finds a served model by its service, by its URI and by its name alone', async () => {
    const manifest = { ...modelManifest.parse(samples['model manifest']?.value), author: identity.peer }
    const { cid } = await catalogue.publishModel(manifest)
    assert.deepEqual((await catalogue.model('tiny')).manifest, manifest)
    await assert.rejects(catalogue.publishModel({ ...manifest, generation: {} }), hasCode('IMMUTABLE'))
    const stage = { block: 'tiny-s0', first: 0, end: 1, componentURI: 'llm.tiny-l0-1:1.0.0-stable', component: cid }
    const served: ServedModel = { service: 'chat', modelURI: 'tiny:1.0.0-stable', model: cid, stages: [stage], contextTokens: 512, sessions: 4, standbys: 1, owner: identity.peer, revision: 0 }
    const heard: (number | undefined)[] = []
    catalogue.onService((_, now) => heard.push(now?.revision))
    await catalogue.putService(served)
    for (const name of ['chat', 'tiny:1.0.0-stable', 'tiny', 'tiny:latest']) assert.deepEqual(await catalogue.served(name), served)
    assert.equal(await catalogue.served('tiny:2.0.0-stable'), undefined)
    await catalogue.withdrawService('chat')
    assert.equal(await catalogue.served('tiny'), undefined)
    assert.deepEqual(heard, [0, undefined])
  })
})

describe('the latest version', () => {
  it('compares numbers as numbers, longer as newer and tags last', () => {
    assert.ok(compareVersions('1.10.0-a', '1.9.0-b') > 0)
    assert.ok(compareVersions('1.0.1-a', '1.0-a') > 0)
    assert.ok(compareVersions('1.0-beta', '1.0-stable') < 0)
    assert.equal(compareVersions('2.0-x', '2.0-x'), 0)
    assert.equal(latest(['a:1-x', 'a:10-x', 'a:9-x']), 'a:10-x')
    assert.equal(latest([]), undefined)
  })
})
