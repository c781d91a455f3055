import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { modelBlock } from '../../node/instance/model-block.ts'
import { ModelThread } from '../../node/instance/models.ts'
import type { Json } from '../../protocols/ids.ts'
import type { ComponentManifest, Template } from '../../protocols/specs.ts'
import normalise from '../../sdk/examples/tumour-triage/normalise/index.ts'
import report from '../../sdk/examples/tumour-triage/report/index.ts'
import rules from '../../sdk/examples/tumour-triage/rules/index.ts'
import { BlockTester, number, record, text } from '../../sdk/index.ts'
import { parseBlock } from '../../src/specs/block.ts'
import { parseComponent } from '../../src/specs/component.ts'
import { compatible, compatibleFanIn, validate } from '../../src/specs/template.ts'
import { parseVdag } from '../../src/specs/vdag.ts'
import { AUTHOR, CID } from './samples.ts'

const HOME = new URL('../../sdk/examples/tumour-triage/', import.meta.url)
const LABELS = ['normalise', 'classify', 'novelty', 'rules', 'report'] as const
type Label = (typeof LABELS)[number]
type Record30 = { readonly id: string; readonly malignant: boolean; readonly input: Json }

const readJson = async (path: string): Promise<Json> => JSON.parse(await readFile(new URL(path, HOME), 'utf8')) as Json
async function manifestOf(label: Label): Promise<ComponentManifest> {
  const files = (await readdir(new URL(`${label}/`, HOME))).filter(name => name !== 'component.json')
  return { ...parseComponent(await readJson(`${label}/component.json`), { author: AUTHOR, files }), files: [] }
}

async function heldOut(): Promise<readonly Record30[]> {
  return (await readFile(new URL('held-out.jsonl', HOME), 'utf8')).trim().split('\n').map(line => {
    const { id, label, record: measured } = record(JSON.parse(line))
    return { id: text(id, 'id'), malignant: label === 'malignant', input: { id: text(id, 'id'), record: measured ?? null } }
  })
}

describe('example: tumour triage', () => {
  const manifests = new Map<Label, ComponentManifest>()
  before(async () => {
    for (const label of LABELS) manifests.set(label, await manifestOf(label))
  })
  const template = (label: Label, which: 'componentInputProtocol' | 'componentOutputProtocol'): Template => manifests.get(label)![which]

  it('every component is a manifest, with the runtime its files have', () => {
    assert.deepEqual(LABELS.map(label => manifests.get(label)!.runtime), [
      { name: 'node', entry: 'index.ts' }, { name: 'onnx', model: 'model.onnx', format: 'onnx' }, { name: 'tfjs', model: 'model.json', format: 'layers-model' }, { name: 'node', entry: 'index.ts' }, { name: 'node', entry: 'index.ts' },
    ])
  })

  it('every block spec is a block of its component', async () => {
    for (const label of LABELS) {
      const block = parseBlock(await readJson(`blocks/${label}.json`), { manifest: manifests.get(label)!, cid: CID }, { owner: AUTHOR, newId: () => assert.fail() })
      assert.equal(block.blockId, `triage-${label}`)
      assert.equal(block.minInstances, label === 'classify' ? 2 : 1)
    }
  })

  it('every edge of the vDAG fits', async () => {
    const vdag = parseVdag(await readJson('vdag.json'), { author: AUTHOR })
    assert.equal(vdag.vdagURI, 'tumour-triage:1.0.0-stable')
    assert.deepEqual([vdag.inputs, vdag.outputs], [['normalise'], ['report']])
    for (const to of LABELS) {
      const sources = vdag.edges.filter(edge => edge.to === to).map(({ from }) => LABELS.find(label => label === from)!)
      const input = template(to, 'componentInputProtocol')
      if (sources.length === 1) assert.deepEqual(compatible(template(sources[0]!, 'componentOutputProtocol'), input), { ok: true, value: true }, to)
      if (sources.length > 1) assert.deepEqual(compatibleFanIn(sources.map(label => ({ label, output: template(label, 'componentOutputProtocol') })), input), { ok: true, value: true }, to)
    }
    assert.ok(!compatible(template('classify', 'componentOutputProtocol'), template('report', 'componentInputProtocol')).ok)
  })

  it('triages the held-out records as its model card says, every packet within its protocol', async () => {
    const normaliser = new BlockTester(normalise, { parameters: manifests.get('normalise')!.componentParameters, assets: { 'scaling.json': await readFile(new URL('normalise/scaling.json', HOME), 'utf8') } })
    const judge = new BlockTester(rules, { parameters: manifests.get('rules')!.componentParameters })
    const writer = new BlockTester(report)
    const threads: ModelThread[] = []
    const modelOf = (label: 'classify' | 'novelty'): BlockTester => {
      const { runtime, componentInitData } = manifests.get(label)!
      const thread = new ModelThread({ providers: ['cpu'], threads: 1 })
      threads.push(thread)
      return new BlockTester(modelBlock(runtime.model!), { initData: componentInitData, model: (path, mapping) => thread.open(fileURLToPath(new URL(`${label}/${path}`, HOME)), path, { mapping, ...(runtime.format === undefined ? {} : { format: runtime.format }) }) })
    }
    const [classifier, noveltyModel] = [modelOf('classify'), modelOf('novelty')]
    const through = async (label: Label, tester: BlockTester, data: Json): Promise<Json> => {
      assert.deepEqual(validate(template(label, 'componentInputProtocol'), data), [], label)
      const [answer] = await tester.run(data)
      assert.deepEqual(validate(template(label, 'componentOutputProtocol'), answer!), [], label)
      return answer!
    }
    const records = await heldOut()
    assert.equal(records.length, 171)
    const tally = { right: 0, urgent: [0, 0], review: [0, 0], routine: [0, 0] }
    for (const { id, malignant, input } of records) {
      const normalised = await through('normalise', normaliser, input)
      const features = { features: record(normalised)['features']! }
      const classified = await through('classify', classifier, features)
      const decidedBy = [normalised, await through('novelty', noveltyModel, features), classified]
      const decided = await through('rules', judge, { inputs: decidedBy })
      const written = record(await through('report', writer, decided))
      assert.equal(written['id'], id)
      const row = written['decision'] === 'refer-urgent' ? tally.urgent : written['decision'] === 'review' ? tally.review : tally.routine
      row[malignant ? 1 : 0]! += 1
      if (number(record(classified)['probability'], 'probability') >= 0.5 === malignant) tally.right += 1
    }
    for (const thread of threads) await thread.close()
    // The numbers of test/fixtures/models/README.md: [benign, malignant].
    assert.deepEqual(tally, { right: 165, urgent: [0, 58], review: [6, 3], routine: [101, 3] })
  })

  it('a record with gaps is reviewed by a person, one with too many is refused', async () => {
    const [first] = await heldOut()
    const measured = record(record(first!.input)['record'])
    const without = (count: number): Json => ({ record: Object.fromEntries(Object.entries(measured).slice(count)) })
    const normaliser = new BlockTester(normalise, { assets: { 'scaling.json': await readFile(new URL('normalise/scaling.json', HOME), 'utf8') } })
    const [gaps] = await normaliser.run(without(2))
    assert.deepEqual(record(gaps)['imputed'], ['mean_radius', 'mean_texture'])
    const [decided] = await new BlockTester(rules).run({ inputs: [gaps!, { probability: 0.01 }, { novelty: 0.1 }] })
    assert.equal(record(decided)['decision'], 'review')
    await assert.rejects(normaliser.run(without(4)), /4 of 30 measurements are missing/)
    await assert.rejects(normaliser.run({ record: { ...measured, mean_radius: 'wide' } }), /record\.mean_radius must be a number/)
    await assert.rejects(new BlockTester(rules).run({ inputs: [{ probability: 0.5 }, {}] }), /no source gave "novelty"/)
  })
})
