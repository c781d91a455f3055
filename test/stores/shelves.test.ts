import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import type { JsonObject } from '../../src/lib/json.ts'
import { query, type Shelf } from '../../src/stores/shelf.ts'
import { refusal, Town } from '../clusters/town.ts'

const NEVER = new AbortController().signal

describe('the registries, as their users know them', function () {
  this.timeout(60_000)
  let town: Town
  const wait = (): Promise<void> => town.pass(800)
  const shelf = (at: number, name: 'specs' | 'templates' | 'components' | 'vdags' | 'blocks' | 'inferenceServers' | 'splitRunners' | 'layers'): Shelf => town.peer(at).shelves[name]
  const create = (at: number, name: Parameters<typeof shelf>[1], document: Json): Promise<string> => town.do(shelf(at, name).create(document))
  const find = async (at: number, name: Parameters<typeof shelf>[1], asked: Json, field: string): Promise<readonly (Json | undefined)[]> => (await town.do(query(shelf(at, name), asked))).map((document: JsonObject) => document[field])
  const why = async (work: Promise<unknown>): Promise<string> => (await refusal(town.do(work))).code

  before(async () => {
    town = await Town.started(3)
    await town.component()
  })

  describe('the spec store', () => {
    const spec = (version: string, more: JsonObject = {}): Json => ({ specName: 'one-block', specType: 'block', specVersion: { version, tag: 'stable' }, specTags: ['small'], specData: JSON.stringify({ header: { templateUri: 'Parser/V1' }, body: { spec: { values: { blockComponentURI: 'node.sample:1-stable', minInstances: 1, maxInstances: 1 } } } }), ...more })

    it('keeps a spec under a version that never changes, for every peer', async () => {
      assert.equal(await create(0, 'specs', spec('1.0')), 'one-block:1.0-stable')
      assert.equal(await create(0, 'specs', spec('1.1', { specDescription: 'newer' })), 'one-block:1.1-stable')
      await wait()
      const found = await town.do(shelf(2, 'specs').get('one-block:1.0-stable'))
      assert.deepEqual([found['specType'], found['specVersion'], Object(JSON.parse(String(found['specData']))).header], ['block', { version: '1.0', tag: 'stable' }, { templateUri: 'Parser/V1' }])
      assert.equal((await town.do(shelf(2, 'specs').get('one-block')))['specDescription'], 'newer', 'the name alone is the newest')
      assert.equal(await create(1, 'specs', spec('1.0')), 'one-block:1.0-stable', 'the same again is not new')
      assert.equal(await why(shelf(0, 'specs').create(spec('1.0', { specData: { other: true } }))), 'IMMUTABLE')
      assert.match((await refusal(town.do(shelf(0, 'specs').create({ specName: 'x', specType: '', specData: 'no' })))).message, /specType: "" is not usable here; say what it is a spec of: block.*specData: "no" is not usable here; give the spec/)
    })

    it('keeps specs of kinds that the parser does not know, as AIOS documents its store', async () => {
      assert.equal(await create(0, 'specs', { specName: 'MySpec', specType: 'API', specVersion: { version: '1.0', tag: 'stable' }, specDescription: 'This is an API specification.', specMetadata: { author: 'John Doe' }, specTags: ['v1', 'stable'], specData: '{"endpoints": [{"path": "/users", "method": "GET"}]}' }), 'MySpec:1.0-stable')
      await wait()
      assert.deepEqual(await find(2, 'specs', { specType: 'API', 'specVersion.version': { $gte: '1.0' }, specTags: { $in: ['stable'] } }, 'specUri'), ['MySpec:1.0-stable'])
      assert.match((await refusal(town.do(town.peer(2).parser.performStored('createBlock', 'MySpec', {}, NEVER)))).message, /MySpec:1\.0-stable is a API spec, and createBlock takes a block spec/)
      assert.deepEqual((await town.do(shelf(0, 'specs').update('MySpec:1.0-stable', { specDescription: 'Updated', specTags: ['v1', 'updated'] })))['specTags'], ['v1', 'updated'])
      await town.do(shelf(0, 'specs').remove('MySpec:1.0-stable'))
      await wait()
    })

    it('finds specs by Mongo’s filters, sorts and limits', async () => {
      assert.deepEqual(await find(1, 'specs', { specType: 'block', specTags: 'small' }, 'specUri'), ['one-block:1.0-stable', 'one-block:1.1-stable'])
      assert.deepEqual(await find(1, 'specs', { query: { specName: { $regex: '^ONE', $options: 'i' } }, options: { sort: { 'specVersion.version': -1 }, limit: 1 } }, 'specUri'), ['one-block:1.1-stable'])
    })

    it('runs an action with a spec by its URI, with fields of the moment', async () => {
      const { parser } = town.peer(2)
      const { result } = await town.do(parser.performStored('createBlock', 'one-block', { blockId: 'from-store' }, NEVER))
      assert.equal(Object(result).blockId, 'from-store')
      assert.match((await refusal(town.do(parser.performStored('createvDAG', 'one-block', {}, NEVER)))).message, /one-block:1\.1-stable is a block spec, and createvDAG takes a vdag spec: .*use createBlock/)
      assert.equal(await why(parser.performStored('createBlock', 'none:1-x', {}, NEVER)), 'NOT_FOUND')
    })

    it('lets its author alone correct what describes a version, or take it back', async () => {
      assert.equal(await why(shelf(1, 'specs').update('one-block:1.0-stable', { $set: { specDescription: 'mine' } })), 'FORBIDDEN')
      assert.equal(await why(shelf(0, 'specs').update('one-block:1.0-stable', { $set: { specData: '{}' } })), 'IMMUTABLE')
      const changed = await town.do(shelf(0, 'specs').update('one-block:1.0-stable', { $set: { 'specMetadata.team': 'vision' }, $addToSet: { specTags: { $each: ['small', 'old'] } } }))
      assert.deepEqual([changed['specMetadata'], changed['specTags']], [{ team: 'vision' }, ['small', 'old']])
      await wait()
      assert.deepEqual(await find(2, 'specs', { 'specMetadata.team': 'vision' }, 'specUri'), ['one-block:1.0-stable'])
      assert.equal(await why(shelf(1, 'specs').remove('one-block:1.1-stable')), 'FORBIDDEN')
      await town.do(shelf(0, 'specs').remove('one-block:1.1-stable', 'it asks for too little'))
      await wait()
      assert.equal((await town.do(shelf(2, 'specs').get('one-block')))['specUri'], 'one-block:1.0-stable')
      assert.deepEqual(await find(2, 'specs', {}, 'specUri'), ['one-block:1.0-stable'])
      assert.equal(await why(shelf(2, 'specs').get('one-block:1.1-stable')), 'NOT_FOUND')
    })
  })

  describe('the template store', () => {
    it('holds values to the template’s data, and asks its rule for the spec', async () => {
      const { policyRuleURI } = await town.rule('make-block', 'class AIOSv1PolicyRule { eval(parameters, { template_data, spec }) { if (spec.count > 3) throw new Error("too many"); return { blockId: spec.name, blockComponentURI: "node.sample:1-stable", minInstances: spec.count, maxInstances: Object.keys(template_data).length + (parameters.extra ?? 0) } } }')
      assert.equal(await create(0, 'templates', { templateName: 'quick', templateVersion: { templateVersion: '1.0', tag: 'stable' }, templatePolicyRuleUri: policyRuleURI, templateData: JSON.stringify({ name: { type: 'string', required: true }, count: { type: 'number', default: 1, max: 8 } }) }), 'quick:1.0-stable')
      await wait()
      const { templates, parser } = town.peer(2)
      assert.deepEqual(await town.do(templates.run('quick:1.0-stable', { name: 'by-template' }, { extra: 1 })), { blockId: 'by-template', blockComponentURI: 'node.sample:1-stable', minInstances: 1, maxInstances: 3 })
      assert.match((await refusal(town.do(templates.run('quick', { count: 9 }, {})))).message, /name: missing; it is required.*count: 9 must be at most 8/)
      const thrown = await refusal(town.do(templates.run('quick', { name: 'x', count: 4 }, {})))
      assert.deepEqual([thrown.code, /too many/.test(thrown.message)], ['POLICY_FAILED', true])
      const { result } = await town.do(parser.perform('createBlock', { header: { templateUri: 'quick:1.0-stable', parameters: {} }, body: { spec: { values: { name: 'by-template' } } } }, NEVER))
      assert.equal(Object(result).blockId, 'by-template')
      assert.equal((await town.do(shelf(1, 'templates').get('quick')))['templatePolicyRuleUri'], policyRuleURI)
    })

    it('keeps what describes a template to people as it is, and holds nothing against it', async () => {
      const described = async (version: string, templateData: Json): Promise<Json | undefined> => (await town.do(shelf(0, 'templates').get(await create(0, 'templates', { templateName: 'example', templateVersion: { templateVersion: version, tag: 'stable' }, templateMetadata: { author: 'John Doe' }, templateData }))))['templateData']
      assert.deepEqual([await described('1.0', '{"key": "value"}'), await described('1.1', 'replicas: how many, up to 8'), await described('1.2', { key: ['v'] })], ['{"key": "value"}', 'replicas: how many, up to 8', '{"key":["v"]}'])
      assert.deepEqual(await town.do(town.peer(0).templates.run('example:1.0-stable', { anything: 1 }, {})), { anything: 1 })
      assert.match((await refusal(create(0, 'templates', { templateName: 'x', templateData: { size: { type: 'number' }, key: 'value' } }))).message, /templateData\.key: "value" is not a type/, 'one field that says its type makes it a template')
    })

    it('shows a rule the document as AIOS’s documentation has it, and as its code has it', async () => {
      const documented = await town.rule('documented', 'class AIOSv1PolicyRule { eval(parameters, input_data) { const { blockId, service, mgmtCommand } = input_data["body"]["spec"]["values"]; if (input_data["spec"]["body"]["spec"]["values"].blockId !== blockId) throw new Error("two documents"); return { blockId, service, mgmtCommand, mgmtData: { by: input_data.header.templateUri } } } }')
      await create(0, 'templates', { templateUri: 'ExecuteMgmtCommandTemplate:1.0-stable', templatePolicyRuleUri: documented.policyRuleURI, templateMetadata: { author: 'admin' }, templateName: 'ExecuteMgmtCommandTemplate', templateVersion: { templateVersion: '1.0', tag: 'stable' }, templateTags: ['mgmt'], templateData: '{ "blockId": { "type": "string", "pattern": "^[a-zA-Z0-9_-]+$" }, "service": { "type": "string", "choices": ["instances", "executor"] } }' })
      await wait()
      const document = { header: { templateUri: 'ExecuteMgmtCommandTemplate:1.0-stable', parameters: {} }, body: { spec: { values: { blockId: 'by-template', service: 'instances', mgmtCommand: 'stats', mgmtData: {} } } } }
      assert.deepEqual(await town.do(town.peer(2).templates.plain(document)), { blockId: 'by-template', service: 'instances', mgmtCommand: 'stats', mgmtData: { by: 'ExecuteMgmtCommandTemplate:1.0-stable' } })
      assert.equal(Object.keys(Object((await town.do(town.peer(2).parser.perform('executeMgmtCommand', document, NEVER))).result)).length, 1)
      assert.match((await refusal(town.do(town.peer(2).parser.perform('executeMgmtCommand', { ...document, body: { spec: { values: { blockId: 'a b', service: 'scheduler' } } } }, NEVER)))).message, /blockId: "a b" must be text that matches.*service: "scheduler" must be one of/)
    })
  })

  describe('the other registries', () => {
    it('inference servers and split runners are their maker’s to change and delete', async () => {
      const id = await create(0, 'inferenceServers', { inference_server_name: 'lab', inference_server_metadata: { region: 'eu' }, inference_server_tags: ['llm'], inference_server_public_url: 'http://lab:1' })
      assert.equal(await create(1, 'splitRunners', { split_runner_id: 'r-1', split_runner_public_host: 'here' }), 'r-1')
      await wait()
      assert.deepEqual(await find(2, 'inferenceServers', { 'inference_server_metadata.region': { $in: ['eu', 'us'] } }, 'inference_server_id'), [id])
      assert.equal(await why(shelf(1, 'inferenceServers').update(id, { $set: { inference_server_name: 'mine' } })), 'FORBIDDEN')
      assert.equal(await why(shelf(1, 'inferenceServers').remove(id)), 'FORBIDDEN')
      assert.equal(await why(shelf(1, 'inferenceServers').create({ inference_server_id: id })), 'ALREADY_EXISTS')
      assert.equal(await why(shelf(0, 'inferenceServers').update(id, { $set: { inference_server_tags: 'llm' } })), 'SPEC_INVALID')
      assert.deepEqual((await town.do(shelf(0, 'inferenceServers').update(id, { $push: { inference_server_tags: 'gpu' } })))['inference_server_tags'], ['llm', 'gpu'])
      await town.do(shelf(0, 'inferenceServers').remove(id))
      await wait()
      assert.equal(await why(shelf(2, 'inferenceServers').get(id)), 'NOT_FOUND')
      assert.equal(await why(shelf(2, 'layers').create({ model_layer_rank: 1 })), 'SPEC_INVALID', 'a layer is named by its hash')
      assert.equal(await create(2, 'layers', { model_layer_hash: 'abc', model_layer_rank: 1, model_world_size: 2 }), 'abc')
    })

    it('a component’s metadata is its author’s to correct; its version never changes', async () => {
      const uri = 'node.sample:1-stable'
      assert.equal(await why(shelf(1, 'components').update(uri, { $set: { 'componentMetadata.owner': 'me' } })), 'FORBIDDEN')
      assert.equal(await why(shelf(0, 'components').update(uri, { $set: { componentParameters: {} } })), 'IMMUTABLE')
      await town.do(shelf(0, 'components').update(uri, { $set: { 'componentMetadata.owner': 'lab' }, $push: { tags: 'checked' } }))
      await wait()
      assert.deepEqual(await find(2, 'components', { tags: 'checked', 'componentMetadata.owner': 'lab' }, 'componentURI'), [uri])
      const found = await town.do(town.peer(2).inventory.filter({ matchType: 'block', filter: { blockQuery: { variable: 'component.componentMetadata.owner', operator: '==', value: 'lab' } } }))
      assert.deepEqual(found.map(({ id }) => id).sort(), ['by-template', 'from-store'], 'a block’s component is seen as it is now')
      const near = await town.do(town.peer(2).inventory.filter({ matchType: 'block', filter: { blockQuery: { variable: 'cluster.status', operator: '==', value: 'live' } } }))
      assert.deepEqual(near.map(({ id }) => id).sort(), ['by-template', 'from-store'], 'so are the clusters it runs on')
      assert.equal(Object(near[0]?.['cluster'])[0].nodes, undefined)
    })

    it('a block is changed through its document, and the change is carried out', async () => {
      const changed = await town.do(shelf(1, 'blocks').update('from-store', { $set: { minInstances: 2, maxInstances: 2 }, $addToSet: { tags: 'grown' } }))
      assert.deepEqual([changed['minInstances'], changed['tags']], [2, ['grown']])
      await town.until('it has two instances', () => town.hostsOf('from-store').length === 2)
      assert.equal(await why(shelf(1, 'blocks').update('from-store', { $set: { componentUri: 'x' } })), 'IMMUTABLE')
      assert.deepEqual(await find(2, 'blocks', { query: { minInstances: { $gte: 2 } }, options: { limit: 5 } }, 'id'), ['from-store'])
      await town.do(shelf(1, 'blocks').remove('from-store'))
      await wait()
      assert.equal(await why(shelf(2, 'blocks').get('from-store')), 'NOT_FOUND')
    })

    it('vDAGs are told in AIOS’s spelling', async () => {
      assert.equal(await create(0, 'vdags', { vdagName: 'told', vdagVersion: { version: '1', 'release-tag': 's' }, discoveryTags: ['chain'], nodes: [{ nodeLabel: 'a', manualBlockId: 'by-template' }, { nodeLabel: 'b', manualBlockId: 'by-template' }], graph: { connections: [{ nodeLabel: 'b', inputs: [{ nodeLabel: 'a' }] }] } }), 'told:1-s')
      await wait()
      const found = await town.do(shelf(2, 'vdags').get('told:1-s'))
      assert.deepEqual([found['vdag_name'], found['vdag_version'], found['status']], ['told', { version: '1', 'release-tag': 's' }, 'active'])
      assert.deepEqual(Object(found['graph']).connections, [{ nodeLabel: 'b', inputs: [{ nodeLabel: 'a', outputNames: [] }] }])
      assert.equal(await create(1, 'vdags', { vdagName: 'again', vdagVersion: found['vdag_version'] ?? null, nodes: found['nodes'] ?? null, graph: found['graph'] ?? null }), 'again:1-s', 'what is told can be sent back')
    })
  })
})
