import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtemp, mkdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { WebSocket } from 'ws'
import { z } from 'zod'
import type { Json } from '../../protocols/ids.ts'
import { Devnet } from '../../node/devnet/devnet.ts'

const CLI = fileURLToPath(new URL('../../node/cli/main.ts', import.meta.url))
const COMPONENT = 'node.doubler:1.0.0-stable'
const CODE = `import { defineBlock } from 'aios-mesh/sdk'
export default defineBlock({ async data({ data }) { return { value: data.value * 2 } }, async management(action, data) { return { action, data } } })
`

describe("AIOS's parser, stores, tasks and registries over HTTP", function () {
  this.timeout(180_000)
  let dir: string
  let net: Devnet

  /** What a door answers: its status and its body, whatever the status. */
  const call = async (at: number, method: string, path: string, body?: Json, headers: Readonly<Record<string, string>> = {}): Promise<{ readonly status: number; readonly body: Json }> => {
    const response = await fetch(`${net.peer(at).http}${path}`, { method, headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers }, ...(body === undefined ? {} : { body: JSON.stringify(body) }) })
    return { status: response.status, body: z.json().parse(await response.json()) }
  }
  const data = async (at: number, method: string, path: string, body?: Json): Promise<Json> => {
    const answer = await call(at, method, path, body)
    assert(answer.status < 300, JSON.stringify(answer))
    return z.looseObject({ success: z.literal(true), data: z.json() }).parse(answer.body).data
  }
  const act = async (at: number, path: string, body: Json, headers = {}): Promise<z.infer<typeof performed>> => {
    const answer = await call(at, 'POST', path, body, headers)
    assert(answer.status < 300, JSON.stringify(answer))
    return performed.parse(answer.body)
  }
  const performed = z.looseObject({ success: z.literal(true), task_id: z.string(), status: z.string(), result: z.json() })
  const failure = async (at: number, method: string, path: string, body?: Json): Promise<string> => {
    const { status, body: answer } = await call(at, method, path, body)
    const { code, message } = z.looseObject({ success: z.literal(false), error: z.looseObject({ code: z.string(), message: z.string() }) }).parse(answer).error
    return `${status} ${code}: ${message}`
  }
  const until = async (what: string, holds: () => Promise<boolean>): Promise<void> => {
    for (let tries = 0; tries < 100; tries += 1) {
      if (await holds()) return
      await new Promise(resolve => setTimeout(resolve, 100))
    }
    throw new Error(`not within ten seconds: ${what}`)
  }
  const aios = (at: number, ...args: readonly string[]): { readonly code: number | null; readonly out: string } => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...args, '--data', net.peer(at).dataDir], { encoding: 'utf8' })
    return { code: status, out: `${stdout}${stderr}` }
  }
  const publish = async (path: string, folder: string, files: Readonly<Record<string, string>>): Promise<void> => {
    for (const [name, text] of Object.entries(files)) {
      await mkdir(join(dir, folder, name, '..'), { recursive: true })
      await writeFile(join(dir, folder, name), text)
    }
    for await (const line of net.peer(0).client.lines('POST', path, { directory: join(dir, folder) })) assert(Object(line).error === undefined, JSON.stringify(line))
  }

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-parser-'))
    net = await Devnet.start(dir, 2)
    const { invite } = z.looseObject({ invite: z.string() }).parse(await net.peer(0).client.send('POST', '/mesh/invite', { rights: ['join', 'host', 'publish'] }))
    await net.up(2, { join: invite })
    await publish('/mesh/components', 'doubler', {
      'index.ts': CODE,
      'component.json': JSON.stringify({ componentId: { name: 'doubler', version: '1.0.0', releaseTag: 'stable' }, componentType: 'node', componentMetadata: { usecase: 'doubling' }, componentInputProtocol: { value: { type: 'number', required: true } }, componentManagementCommandsTemplate: { note: { description: 'keeps a note', args: { text: { type: 'string', required: true } } } } }),
    })
  })
  after(async () => {
    await net?.[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })

  it('keeps specs and runs actions with them; the same key is one task on every peer', async () => {
    const spec = { header: { templateUri: 'Parser/V1', parameters: {} }, body: { spec: { values: { blockComponentURI: COMPONENT, minInstances: 1, maxInstances: 1 } } } }
    assert.deepEqual(await data(0, 'POST', '/spec', { specName: 'doubler', specType: 'block', specVersion: { version: '1.0', tag: 'stable' }, specTags: ['math'], specData: JSON.stringify(spec) }), { message: 'created', specUri: 'doubler:1.0-stable' })
    await until('peer 1 knows the spec', async () => Array.isArray(await data(1, 'POST', '/specs', { specTags: 'math' })) && JSON.stringify(await data(1, 'POST', '/specs', { specTags: 'math' })).includes('doubler:1.0-stable'))
    const made = await act(1, '/api/with-spec/createBlock?specUri=doubler:1.0-stable', { blockId: 'twice' }, { 'idempotency-key': 'make-twice' })
    assert.deepEqual([made.status, Object(made.result).blockId], ['completed', 'twice'])
    await until('peer 0 knows the task', async () => (await call(0, 'GET', `/task/${made.task_id}`)).status === 200)
    const again = await act(0, '/api/createBlock', Object(await data(0, 'GET', `/task/${made.task_id}`)).task_data, { 'idempotency-key': 'make-twice' })
    assert.deepEqual([again.task_id, again.existing], [made.task_id, true])
    const answer = await net.peer(0).client.send('POST', '/v1/infer', { model: 'twice', data: { value: 21 } })
    assert.deepEqual(Object(answer).data, { value: 42 })
  })

  it('tells tasks to every peer: by type, status and time, with lineage, and does them again', async () => {
    const now = Date.now()
    const listed = z.array(z.looseObject({ task_id: z.string(), input: z.string(), output: z.string() })).parse(await data(0, 'GET', `/tasks?task_type=block_allocation&task_status=completed&end_time=${now}`))
    assert.equal(listed.length, 1)
    assert.deepEqual(Object((await call(0, 'GET', `/api/tasks?action=createBlock&status=completed&start_time=${now + 60_000}`)).body).result, [])
    assert.equal(Object(await data(1, 'GET', `/task/${listed[0]!.task_id}/output`)).blockId, 'twice')
    const found = await act(1, '/api/filter', { matchType: 'block', filter: { blockQuery: { variable: 'id', operator: '==', value: 'twice' } } })
    assert.equal(Object((await act(1, `/api/reinitiate/${found.task_id}`, {})).result).length, 1)
    const later = await act(1, '/api/createBlock?wait=false', { blockId: 'later', blockComponentURI: COMPONENT, minInstances: 0, maxInstances: 1 })
    assert.equal(later.status, 'pending')
    await until('it is done', async () => Object(await data(1, 'GET', `/task/${later.task_id}`)).status === 'completed')
    assert.match(await failure(1, 'POST', '/api/createBlock', { blockComponentURI: COMPONENT }), /^400 SPEC_INVALID: block spec: minInstances/)
    // Tasks of others, AIOS's splitter among them.
    const { task_id: own } = Object(await data(0, 'POST', '/task', { task_type: 'model_splits', task_data: { model: 'x' } }))
    await data(0, 'POST', '/task_update', { task_id: own, status: 'complete', task_status_data: { parts: 2 } })
    assert.deepEqual([Object(await data(0, 'GET', `/task/${own}`)).status, Object(await data(0, 'GET', `/task/${own}`)).task_status_data], ['completed', { parts: 2 }])
    await until('the least of peers knows it, and may not change it', async () => (await call(2, 'GET', `/task/${own}`)).status === 200)
    assert.match(await failure(2, 'POST', '/task_update', { task_id: own, status: 'failed' }), /^403 FORBIDDEN/)
    await data(0, 'DELETE', `/task/${own}`)
    assert.match(await failure(0, 'GET', `/task/${own}`), /^404 NOT_FOUND/)
  })

  it('makes specs of documents that name a template, by a rule in its sandbox', async () => {
    await publish('/mesh/policies', 'many', { 'policy.json': JSON.stringify({ name: 'many', version: '1.0', release_tag: 'stable' }), 'code/function.js': 'class AIOSv1PolicyRule { eval(parameters, { spec, template_data }) { if (!template_data.id) throw new Error("no template"); return { blockId: spec.id, blockComponentURI: spec.component, minInstances: 0, maxInstances: parameters.most } } }' })
    await data(0, 'POST', '/template', { templateName: 'quiet', templateVersion: { templateVersion: '1.0', tag: 'stable' }, templatePolicyRuleUri: 'many:1.0-stable', templateData: { id: { type: 'string', required: true, pattern: '^[a-z-]+$' }, component: { type: 'string', default: COMPONENT } } })
    assert.deepEqual(await data(0, 'POST', '/template/execute', { template_uri: 'quiet:1.0-stable', input_data: { id: 'q' }, parameters: { most: 2 } }), { blockId: 'q', blockComponentURI: COMPONENT, minInstances: 0, maxInstances: 2 })
    assert.match(await failure(0, 'POST', '/template/execute', { template_uri: 'quiet:1.0-stable', input_data: { id: 'Q1' } }), /^400 SPEC_INVALID: values of template quiet:1\.0-stable: values\.id: "Q1" must be text that matches/)
    const made = await act(0, '/api/createBlock', { header: { templateUri: 'quiet:1.0-stable', parameters: { most: 3 } }, body: { spec: { values: { id: 'by-template' } } } })
    assert.deepEqual([Object(made.result).block.maxInstances, Object(made.result).block.minInstances], [3, 0])
  })

  it("the component registry answers on AIOS's paths; what is another's is refused", async () => {
    assert.deepEqual(z.array(z.looseObject({ componentURI: z.string() })).parse(await data(1, 'POST', '/api/getByURI', { uriString: COMPONENT })).map(({ componentURI }) => componentURI), [COMPONENT])
    assert.equal(Object(await data(1, 'POST', '/api/getByType', { typeString: '^no.e$' })).length, 1)
    assert.equal(Object(await data(1, 'POST', '/api/query', { query: { 'componentMetadata.usecase': { $regex: 'doub' } } })).length, 1)
    assert.deepEqual((await call(1, 'POST', '/gql', { query: '{ componentMany(filter: { componentType: "node" }) { componentURI } }' })).body, { data: { componentMany: [{ componentURI: COMPONENT }] } })
    const { componentURI } = Object(await data(2, 'POST', '/api/registerComponent', { componentId: { name: 'proxy', version: '1', releaseTag: 'x' }, componentType: 'model', containerRegistryInfo: { containerImage: 'registry/proxy:1' } }))
    assert.equal(componentURI, 'model.proxy:1-x')
    await until('peer 0 knows it', async () => Object(await data(0, 'POST', '/api/getByURI', { uriString: componentURI })).length === 1)
    assert.match(await failure(0, 'POST', '/api/updateComponent', { uri: componentURI, data: { $set: { 'componentMetadata.x': 1 } } }), /^403 FORBIDDEN: .*published by/)
    assert.match(await failure(0, 'POST', '/api/unregisterComponent', { uri: componentURI }), /^403 FORBIDDEN/)
    assert.match(await failure(2, 'POST', '/api/updateComponent', { uri: componentURI, data: { $set: { componentType: 'node' } } }), /^409 IMMUTABLE/)
    await data(2, 'POST', '/api/addMetadata', { uri: componentURI, data: { author: 'lab' } })
    assert.deepEqual(Object(await data(2, 'POST', '/api/updateMetadata', { uri: componentURI, data: { $set: { 'metadata.build': 'v2' } } })).componentMetadata, { author: 'lab', build: 'v2' })
    await data(2, 'POST', '/api/unregisterComponent', { uri: componentURI })
    await until('nobody finds it', async () => Object(await data(0, 'POST', '/api/getByURI', { uriString: componentURI })).length === 0)
    assert.deepEqual(Object(await data(0, 'POST', '/api/validate', { uri: COMPONENT, data: { value: 3 } })).problems, [])
    const held = Object((await call(0, 'POST', '/api/validate', { template: { size: { type: 'int', min: 1 }, tags: 'array(2,string)' }, data: { size: 0, tags: ['a'] } })).body)
    assert.deepEqual([held.success, held.data.problems.length], [false, 2], "the registry's own notation, too")
  })

  it('blocks, vDAGs, inference servers, layers and split runners are found, changed and removed', async () => {
    assert.deepEqual(z.array(z.looseObject({ id: z.string() })).parse(await data(0, 'POST', '/blocks/query', { query: { 'component.componentMetadata.usecase': 'doubling', minInstances: { $gte: 1 } }, options: { sort: { id: 1 }, limit: 1 } })).map(({ id }) => id), ['twice'])
    assert.deepEqual(Object(await data(0, 'PUT', '/block/update/later', { $set: { maxInstances: 2 }, $push: { tags: 'slow' } })).tags, ['slow'])
    assert.match(await failure(2, 'DELETE', '/blocks/later'), /^403 FORBIDDEN/)
    await data(0, 'DELETE', '/blocks/later')
    const own = { matchType: 'block', filter: { blockQuery: { variable: 'id', operator: '==', value: 'twice' } } }
    for (const path of ['/api/filter-data', '/api/no-ir/filter']) assert.equal(Object(await data(1, 'POST', path, own)).length, 1)
    assert.equal(Object(await data(1, 'POST', '/api/no-ir/similarity-search', { rankingPolicyRule: { policyRuleURI: 'none:1-s', parameters: { filterRule: own } } })).length, 1, "AIOS's search server answers beside the parser")
    await act(0, '/api/createvDAG', { vdagName: 'chain', vdagVersion: { version: '1', 'release-tag': 's' }, nodes: [{ nodeLabel: 'a', manualBlockId: 'twice' }] })
    const { assignment_info, compiled_graph_data, status } = Object(await data(0, 'GET', '/vdag/chain:1-s'))
    assert.deepEqual([assignment_info, compiled_graph_data.t2_graph, compiled_graph_data.rev_mapping, status], [{ a: 'twice' }, { twice: [] }, { twice: 'a' }, 'active'])
    assert.equal(Object(await data(0, 'POST', '/vdags', { vdag_name: 'chain' })).length, 1)
    const { id } = Object(await data(0, 'POST', '/inference_server', { inference_server_name: 'here', inference_server_public_url: net.peer(0).http, inference_server_tags: ['a'] }))
    await until('peer 1 lists it', async () => Object(await data(1, 'POST', '/inference_servers', { inference_server_tags: { $in: ['a'] } })).length === 1)
    assert.match(await failure(1, 'DELETE', `/inference_server/${id}`), /^403 FORBIDDEN/)
    assert.deepEqual(Object(await data(0, 'PUT', `/inference_server/${id}`, { $addToSet: { inference_server_tags: 'b' } })).inference_server_tags, ['a', 'b'])
    await data(0, 'DELETE', `/inference_server/${id}`)
    await data(0, 'POST', '/model-layer', { model_layer_hash: 'h1', model_layer_rank: 1 })
    assert.equal(Object(await data(0, 'POST', '/model-layers', { model_layer_rank: 1 })).length, 1)
    await data(0, 'POST', '/split-runner', { split_runner_id: 'r' })
    assert.equal(Object(await data(0, 'GET', '/split-runner/r')).split_runner_id, 'r')
    const controller = Object(await data(0, 'POST', '/vdag-controller', { action: 'create_controller', payload: { vdag_controller_id: 'chain-1', vdag_uri: 'chain:1-s' } }))
    assert.deepEqual(Object(await data(0, 'PUT', '/vdag-controller/chain-1', { $push: { search_tags: 'mine' } })).search_tags, [...controller.search_tags, 'mine'])
    assert.equal(Object(await data(0, 'POST', '/vdag-controllers', { search_tags: 'mine' })).length, 1)
  })

  it('commands are checked against the component, and answered by each instance', async () => {
    assert.match(await failure(0, 'POST', '/api/executeMgmtCommand', { blockId: 'twice', service: 'instances', mgmtCommand: 'note', mgmtData: { txt: 'x' } }), /^400 SPEC_INVALID: .*did you mean "text"\?/)
    const { result } = await act(1, '/api/executeMgmtCommand', { blockId: 'twice', service: 'instances', mgmtCommand: 'note', mgmtData: { text: 'x' } })
    assert.deepEqual(Object.values(Object(result)), [{ action: 'note', data: { text: 'x' } }])
  })

  it('says where something would fit, over HTTP and a WebSocket, by a rule in its sandbox', async () => {
    await publish('/mesh/policies', 'where', { 'policy.json': JSON.stringify({ name: 'where', version: '1.0', release_tag: 'stable' }), 'code/function.js': 'class AIOSv1PolicyRule { constructor(id, settings) { this.settings = settings } eval(parameters, { cluster_data, inputs }) { const id = Object.keys(cluster_data).sort()[0]; if (this.settings.cluster_client.get_cluster(id).id !== id) throw new Error("no client"); return { cluster_id: id } } }' })
    const fit = Object(await data(0, 'POST', '/allocate', { adhoc: true, policy_rule_uri: 'where:1.0-stable', clusters: [net.peer(1).peer], inputs: { componentURI: COMPONENT }, reserve: true, parameters: {}, settings: {} }))
    assert.deepEqual([fit.by, fit.cluster_id, fit.fits, typeof fit.reservation.id], ['policy', net.peer(1).peer, true, 'string'])
    await data(0, 'DELETE', `/allocate/${fit.reservation.id}`)
    const socket = new WebSocket(`${net.peer(0).http.replace('http', 'ws')}/allocate`)
    const answers = new Promise<readonly string[]>((resolve, reject) => {
      const said: string[] = []
      socket.on('error', reject)
      socket.on('message', text => {
        if (said.push(String(text)) === 2) resolve(said)
      })
    })
    await new Promise(resolve => socket.once('open', resolve))
    for (const message of [{ id: 1, clusters: [net.peer(1).peer], inputs: { needs: { cpuMilli: 10 } } }, { id: 2, clusters: ['nowhere'] }]) socket.send(JSON.stringify(message))
    const byId = Object.fromEntries((await answers).map(text => [Object(JSON.parse(text)).id, Object(JSON.parse(text))]))
    socket.close()
    assert.deepEqual([byId[1].success, byId[1].data.cluster_id, byId[2].error.code], [true, net.peer(1).peer, 'NOT_FOUND'])
  })

  it('the command line has them all', async () => {
    await writeFile(join(dir, 'spec.json'), JSON.stringify({ matchType: 'block', filter: { blockQuery: { variable: 'id', operator: '==', value: 'twice' } } }))
    assert.match(aios(0, 'spec', 'publish', join(dir, 'spec.json'), '--type', 'filter', '--name', 'find-twice').out, /published find-twice:1\.0\.0-stable/)
    assert.match(aios(0, 'spec', 'run', 'filter', 'find-twice').out, /task-[0-9a-f]+: completed[^]*"twice"/)
    assert.match(aios(0, 'spec', 'list').out, /doubler:1\.0-stable +block/)
    assert.match(aios(0, 'template', 'list').out, /quiet:1\.0-stable +many:1\.0-stable/)
    assert.match(aios(0, 'tasks', '--type', 'block_allocation', '--status', 'failed').out, /SPEC_INVALID: block spec: minInstances/)
    assert.match(aios(1, 'allocate', '--component', COMPONENT).out, /it would fit on/)
    await writeFile(join(dir, 'quiet.json'), JSON.stringify({ header: { templateUri: 'quiet:1.0-stable', parameters: { most: 1 } }, body: { spec: { values: { id: 'by-hand' } } } }))
    assert.match(aios(1, 'block', 'create', join(dir, 'quiet.json')).out, /block by-hand: 0 instance/)
    await writeFile(join(dir, 'soon.json'), JSON.stringify({ blockId: 'by-and-by', blockComponentURI: COMPONENT, minInstances: 1, maxInstances: 1 }))
    const soon = z.looseObject({ blockId: z.literal('by-and-by'), ready: z.literal(0), task: z.string() }).parse(JSON.parse(aios(1, 'block', 'create', join(dir, 'soon.json'), '--no-wait', '--json').out))
    assert.match(aios(1, 'block', 'create', join(dir, 'soon.json'), '--no-wait').out, /ALREADY_EXISTS/, 'what cannot be is said at once')
    await writeFile(join(dir, 'graph.json'), JSON.stringify({ vdagName: 'by-hand', nodes: [{ nodeLabel: 'a', manualBlockId: 'by-and-by' }] }))
    assert.match(aios(1, 'vdag', 'create', join(dir, 'graph.json'), '--dry-run').out, /valid by-hand:/)
    assert.match(aios(1, 'vdag', 'create', join(dir, 'graph.json')).out, /published by-hand:/)
    await writeFile(join(dir, 'unruled.json'), JSON.stringify({ blockId: 'unruled', blockComponentURI: COMPONENT, minInstances: 0, maxInstances: 1, policyRulesSpec: { loadBalancer: 'unseen:1-x' } }))
    const warning = 'loadBalancer: nobody has published unseen:1-x'
    assert.match(aios(1, 'block', 'create', join(dir, 'unruled.json'), '--dry-run').out, new RegExp(`warning: ${warning}`))
    assert.match(aios(1, 'block', 'create', join(dir, 'unruled.json')).out, new RegExp(`block unruled: 0 instance\\(s\\) ready\nwarning: ${warning}`))
    assert.match(aios(1, 'block', 'show', 'unruled').out, new RegExp(`warning: ${warning}`))
    assert.equal(z.looseObject({ warnings: z.array(z.string()) }).parse(JSON.parse(aios(1, 'block', 'show', 'unruled', '--json').out)).warnings[0]?.startsWith(warning), true)
    await writeFile(join(dir, 'unruled-graph.json'), JSON.stringify({ vdagName: 'unruled', nodes: [{ nodeLabel: 'a', manualBlockId: 'by-and-by', assignmentPolicyRule: 'unseen:1-x' }] }))
    assert.match(aios(1, 'vdag', 'create', join(dir, 'unruled-graph.json')).out, /published unruled:[^]*warning: node "a"\.assignmentPolicyRule: nobody has published unseen:1-x/)
    await until('what the command line asked for is a task that any peer tells', async () => {
      const told = aios(0, 'tasks', '--limit', '50').out
      return told.includes(soon.task) && /completed[^\n]*vdag_creation|vdag_creation[^\n]*completed/.test(told)
    })
    assert.match(aios(1, 'registry', 'query', 'blocks', '--limit', '5').out, /"id": "by-hand"/)
    const missing = aios(0, 'tasks', 'show', 'none')
    assert.deepEqual([missing.code, /NOT_FOUND.*no task is called none/.test(missing.out)], [1, true])
  })
})
