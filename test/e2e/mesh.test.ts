import assert from 'node:assert/strict'
import { execFile, spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile, mkdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { create, toBinary } from '@bufbuild/protobuf'
import { base64url } from 'multiformats/bases/base64'
import { z } from 'zod'
import { encode } from '../../protocols/codec.ts'
import { asMeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { ModelProtoSchema } from '../../src/llm/onnx/onnx-pb.js'
import { readInvite } from '../../src/trust/invitation.ts'
import { Devnet, type DevPeer } from '../../node/devnet/devnet.ts'
import { EXAMPLE, publishTriage, type Triage } from '../../node/demo/triage.ts'
import { lastWords } from './last-words.ts'

const CLI = fileURLToPath(new URL('../../node/cli/main.ts', import.meta.url))
const START_MS = 120_000
const shown = z.object({ instances: z.array(z.object({ instance: z.string(), host: z.string(), state: z.string(), epoch: z.int() })) }).loose()
const answered = z.object({ run: z.string(), data: z.record(z.string(), z.json()) }).loose()

function aios(...args: readonly string[]): { readonly code: number | null; readonly out: string; readonly err: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...args], { encoding: 'utf8' })
  return { code: status, out: stdout, err: stderr }
}

/** The same, beside others. */
function aside(...args: readonly string[]): Promise<{ readonly code: number; readonly err: string }> {
  return new Promise(resolve => {
    const child = execFile(process.execPath, [CLI, ...args], (_, __, err) => resolve({ code: child.exitCode ?? -1, err }))
  })
}

async function until(reached: () => Promise<boolean>, what: string, limitMs = 30_000): Promise<void> {
  const ends = performance.now() + limitMs
  while (!(await reached().catch(() => false))) {
    assert(performance.now() < ends, `${what} did not happen within ${limitMs} ms`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

async function refusal(work: Promise<Json>): Promise<{ readonly code: string; readonly message: string }> {
  try {
    assert.fail(`expected a refusal, got ${JSON.stringify(await work)}`)
  } catch (error) {
    const { code, message } = asMeshError(error)
    return { code, message }
  }
}

describe('a mesh of three real peers', function () {
  this.timeout(START_MS)
  let dir: string
  let net: Devnet
  let triage: Triage

  const instances = async (peer: DevPeer, block: string) => shown.parse(await peer.client.get(`/mesh/blocks/${block}`)).instances
  const ask = (peer: DevPeer, key: string): Promise<z.infer<typeof answered>> => peer.client.send('POST', '/v1/infer', { model: triage.vdag, data: { record: triage.records[0]?.record ?? {} }, key }).then(body => answered.parse(body))

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-e2e-'))
    net = await Devnet.start(dir, 3, index => ({ region: index === 2 ? 'us' : 'eu' }))
    triage = await publishTriage(net.running(), () => undefined)
  })
  afterEach(async function () {
    await lastWords(this, net?.running() ?? [])
  })
  after(async () => {
    await net?.[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })

  it('every peer knows every other and what it has', async () => {
    for (const peer of net.running()) {
      await until(async () => {
        const rows = z.array(z.object({ peer: z.string(), state: z.string(), ad: z.object({}).loose().nullable() })).parse(await peer.client.get('/mesh/peers'))
        return rows.length === 3 && rows.every(row => row.state === 'alive' && row.ad !== null)
      }, `peer ${peer.index} knows all three`)
    }
  })

  it('the same key gives the same run and the same answer from each peer', async () => {
    const answers = await Promise.all(net.running().map(peer => ask(peer, 'shared-key')))
    assert.equal(new Set(answers.map(({ run }) => run)).size, 1)
    for (const { data } of answers) assert.deepEqual(data, answers[0]?.data)
  })

  it('a dry run explains itself and changes nothing', async () => {
    const spec = { blockId: 'only-explained', blockComponentURI: 'model.tumour-classifier:1.0.0-stable', minInstances: 1, maxInstances: 1, labels: { region: 'nowhere' } }
    const components = z.array(z.object({ uri: z.string() }).loose()).parse(await net.peer(0).client.get('/mesh/components'))
    const classify = components.find(({ uri }) => uri.includes('classif'))
    assert(classify)
    const body = z.object({ dryRun: z.literal(true), explanation: z.object({ candidates: z.array(z.object({ ok: z.boolean(), because: z.string() }).loose()) }).loose() }).loose()
      .parse(await net.peer(0).client.send('POST', '/mesh/blocks', { spec: { ...spec, blockComponentURI: classify.uri }, dryRun: true }))
    assert(body.explanation.candidates.some(({ ok, because }) => !ok && /region/.test(because)), JSON.stringify(body.explanation))
    assert.equal((await refusal(net.peer(0).client.get('/mesh/blocks/only-explained'))).code, 'NOT_FOUND')
  })

  it('bad input is refused with a code and a reason, and the daemon lives', async () => {
    const { client } = net.peer(1)
    const component = z.array(z.object({ uri: z.string() }).loose()).parse(await client.get('/mesh/components'))[0]?.uri ?? ''
    const node = (nodeLabel: string): Json => ({ nodeLabel, nodeType: 'block', manualBlockId: triage.blocks[0] ?? '' })
    const vdag = (nodes: readonly string[], connections: Json): Json => ({ vdagName: 'bad', vdagVersion: { version: '1.0', 'release-tag': 'x' }, nodes: nodes.map(node), graph: { connections, inputs: [{ nodeLabel: nodes[0] ?? '' }], outputs: [{ nodeLabel: nodes.at(-1) ?? '' }] } })
    const cases: readonly (readonly [string, Promise<Json>, RegExp, RegExp])[] = [
      ['no such component', client.send('POST', '/mesh/blocks', { spec: { blockComponentURI: 'model.none:1.0-x', minInstances: 1, maxInstances: 1 } }), /NOT_FOUND/, /model\.none/],
      ['min above max', client.send('POST', '/mesh/blocks', { spec: { blockComponentURI: component, minInstances: 3, maxInstances: 1 } }), /SPEC_INVALID/, /maxInstances|minInstances/],
      ['a bad block id', client.send('POST', '/mesh/blocks', { spec: { blockId: 'Not Ok', blockComponentURI: component, minInstances: 1, maxInstances: 1 } }), /SPEC_INVALID/, /blockId/],
      ['a cycle', client.send('POST', '/mesh/vdags', { spec: vdag(['a', 'b'], [{ nodeLabel: 'b', inputs: [{ nodeLabel: 'a' }] }, { nodeLabel: 'a', inputs: [{ nodeLabel: 'b' }] }]) }), /GRAPH_INVALID/, /cycle|circle|a/],
      ['an unknown label', client.send('POST', '/mesh/vdags', { spec: vdag(['a', 'b'], [{ nodeLabel: 'b', inputs: [{ nodeLabel: 'ghost' }] }]) }), /GRAPH_INVALID|SPEC_INVALID/, /ghost/],
      ['an unknown vDAG', client.send('POST', '/mesh/runs', { vdag: 'none:1.0-x', input: {} }), /NOT_FOUND/, /none/],
      ['an unknown block', client.send('POST', '/v1/infer', { model: 'none', data: {} }), /NOT_FOUND/, /none/],
      ['the logs of an unknown block', client.get('/mesh/blocks/none/logs'), /NOT_FOUND/, /none/],
      ['an unknown action', client.send('POST', '/api/frobnicate', {}), /NOT_FOUND/, /frobnicate/],
      ['a field there is not', client.send('POST', '/mesh/blocks', { spec: { blockComponentURI: component, minInstances: 1, maxInstances: 1, maxInstance: 2 } }), /SPEC_INVALID/, /maxInstance.*did you mean "maxInstances"/],
      ['a template', client.send('POST', '/api/createvDAG', { header: { templateUri: 'mine:1-x' }, body: { spec: { values: vdag(['a'], []) } } }), /NOT_FOUND/, /template is called mine:1-x/],
      ['a graph to try on a block that is not there', client.send('POST', '/api/createvDAG', { vdagName: 'tried', mode: 'dryRun', nodes: [{ nodeLabel: 'a', manualBlockId: 'nowhere' }] }), /GRAPH_INVALID/, /node "a".*nowhere/],
      ['a request with an unknown field', client.send('POST', '/v1/infer', { model: 'triage-report', data: {}, sesion: 'x' }), /BAD_INPUT/, /sesion/],
      ['a graph made up for one request whose edges are no lists', client.send('POST', '/v1/infer', { model: 'triage-report', data: {}, graph: { 'triage-report': 'triage-rules' } }), /SPEC_INVALID/, /graph.*first-block/],
      ['no JSON object', client.send('POST', '/mesh/blocks', [1, 2]), /BAD_INPUT|SPEC_INVALID/, /./],
      ['traversal in a bundle path', published(client, join(dir, 'nowhere', '..', '..', 'etc')), /SPEC_INVALID|BAD_INPUT|NOT_FOUND/, /./],
    ]
    const all = await Promise.all(cases.map(([, work]) => refusal(work)))
    for (const [at, [name, , code, message]] of cases.entries()) {
      const said = all[at]!
      assert.match(said.code, code, `${name}: ${said.code}: ${said.message}`)
      assert.match(said.message, message, name)
    }
    const garbage = await fetch(`${net.peer(1).http}/mesh/blocks`, { method: 'POST', body: '{"spec": ', headers: { 'content-type': 'application/json' } })
    assert.equal(garbage.status, 400)
    const deep = '['.repeat(50_000) + ']'.repeat(50_000)
    for (const [path, text] of [['/v1/infer', `{"model":"triage-rules","data":${deep}}`], ['/v1/infer', `{"model":"triage-rules","data":${JSON.stringify(deep)}}`], ['/api/createBlock', `{"body":{"spec":{"values":${deep}}}}`], ['/v1/chat/completions', `{"model":"triage-rules","messages":${deep}}`], ['/v2/models/triage-classify/infer', `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":${deep}}]}`]] as const) {
      const response = await fetch(`${net.peer(1).http}${path}`, { method: 'POST', body: text, headers: { 'content-type': 'application/json' } })
      assert.deepEqual([path, response.status, /nested deeper than 200 levels/.test(await response.text())], [path, 400, true])
    }
    await client.get('/healthz')
    await ask(net.peer(1), 'after-bad-input')
  })

  it('a graph is only checked, or tried on the blocks there are, when its mode says so', async () => {
    const { client } = net.peer(2)
    const spec = { vdagName: 'only-tried', nodes: [{ nodeLabel: 'a', manualBlockId: 'triage-report' }] }
    const tried = z.object({ result: z.object({ cid: z.null(), assignment: z.record(z.string(), z.array(z.string())) }) }).parse(await client.send('POST', '/api/createvDAG', { ...spec, mode: 'dryRunAssignment' }))
    assert.deepEqual(tried.result.assignment, { a: ['triage-report'] })
    z.object({ result: z.object({ cid: z.null() }) }).parse(await client.send('POST', '/api/createvDAG', { ...spec, mode: 'validateGraph' }))
    assert.doesNotMatch(JSON.stringify(await client.get('/mesh/vdags')), /only-tried/)
  })

  it('infer takes AIOS\'s names, and data as JSON text', async () => {
    const { client } = net.peer(0)
    const record = { record: triage.records[0]?.record ?? {} }
    const data = async (body: Json): Promise<Json> => z.object({ data: z.json() }).parse(await client.send('POST', '/v1/infer', body)).data
    const plain = await data({ model: 'triage-normalise', session_id: '7', data: record })
    assert.deepEqual(await data({ block_id: 'triage-normalise', session_id: 7, seq_no: '3', ts: 1.5, data: JSON.stringify(record) }), plain)
  })

  it('a key used again for another input is a conflict', async () => {
    const body = (age: number): Json => ({ vdag: triage.vdag, key: 'twice', input: { record: triage.records[0]?.record ?? {}, age } })
    await net.peer(0).client.send('POST', '/mesh/runs', body(1))
    const said = await refusal(net.peer(1).client.send('POST', '/mesh/runs', body(2)))
    assert.equal(said.code, 'CONFLICT')
    assert.match(said.message, /twice.*another input/)
  })

  it('a web page somewhere else may not use the door', async () => {
    const { http } = net.peer(0)
    assert.equal((await fetch(`${http}/mesh/status`, { headers: { origin: 'https://evil.example' } })).status, 403)
    // An image or a link of a page says no Origin, but browsers say that it is of another site.
    assert.equal((await fetch(`${http}/mesh/status`, { headers: { 'sec-fetch-site': 'cross-site' } })).status, 403)
    assert.equal((await fetch(`${http}/mesh/status`)).status, 200)
  })

  it('an invite with another secret, and text that is none, are refused and say so', async () => {
    const read = readInvite(await net.invite(net.peer(0)))
    const forged = `aios1${base64url.baseEncode(encode({ ...read, secret: new Uint8Array(32).fill(7) }))}`
    const stolen = `aios1${base64url.baseEncode(encode({ ...read, bearerKey: new Uint8Array(32).fill(7) }))}`
    await writeFile(join(dir, 'stolen'), `${stolen}\n`)
    const [wrong, taken, none, nowhere] = await Promise.all([
      aside('up', '--data', join(dir, 'stranger'), '--listen', '/ip4/127.0.0.1/tcp/0', '--no-mdns', '--join', forged),
      aside('up', '--data', join(dir, 'stranger-4'), '--listen', '/ip4/127.0.0.1/tcp/0', '--no-mdns', '--join', `@${join(dir, 'stolen')}`),
      aside('up', '--data', join(dir, 'stranger-2'), '--join', 'hello'),
      aside('up', '--data', join(dir, 'stranger-3'), '--listen', 'nowhere', '--no-mdns', '--detach', '--json'),
    ])
    assert.equal(wrong.code, 1)
    assert.match(wrong.err, /NETWORK_REFUSED|PEER_UNREACHABLE/)
    assert.match(wrong.err, /invite|secret|network/)
    assert.match(taken.err, /NETWORK_REFUSED.*refused us: .*was not signed by it|FORBIDDEN.*was not signed by it/)
    assert.deepEqual([none.code, /BAD_INPUT/.test(none.err)], [1, true])
    assert.deepEqual([nowhere.code, /BAD_INPUT.*nowhere is no address/.test(nowhere.err)], [1, true])
  })

  it('the command line answers 0, 1 and 2, and JSON when asked', () => {
    const data = ['--data', net.peer(0).dataDir]
    assert.equal(aios('status', ...data).code, 0)
    assert.equal(JSON.parse(aios('status', '--json', ...data).out).peer, net.peer(0).peer)
    assert.equal(aios('block', 'show', 'none', ...data).code, 1)
    assert.equal(JSON.parse(aios('block', 'show', 'none', '--json', ...data).err).error.code, 'NOT_FOUND')
    assert.equal(aios('block', 'scale', 'x', ...data).code, 2)
    assert.equal(aios('nonsense').code, 2)
    assert.equal(aios('status', '--data', join(dir, 'nobody')).code, 1)
    assert.match(aios('--help').out, /component publish/)
    assert.match(z.object({ error: z.object({ code: z.literal('USAGE'), message: z.string() }) }).parse(JSON.parse(aios('frobnicate', '--json').err)).error.message, /frobnicate/)
  })

  it('the same published again from another peer is no news, and other content under its name is refused', async () => {
    const same = await net.peer(2).client.send('POST', '/mesh/vdags', { spec: JSON.parse(await readFile(join(EXAMPLE, 'vdag.json'), 'utf8')) })
    assert.ok((await net.peer(0).client.get('/mesh/vdags') as readonly Json[]).some(row => JSON.stringify(row).includes(z.object({ cid: z.string() }).loose().parse(same).cid)))
    for (const peer of net.running()) assert.deepEqual(z.object({ result: z.object({ existing: z.literal(true) }).loose() }).loose().parse(await published(peer.client, join(EXAMPLE, 'rules'))).result.existing, true)
    const spec = { vdagName: 'tumour-triage', vdagVersion: { version: '1.0.0', 'release-tag': 'stable' }, nodes: [{ nodeLabel: 'a', manualBlockId: 'triage-rules' }] }
    assert.equal((await refusal(net.peer(1).client.send('POST', '/mesh/vdags', { spec }))).code, 'IMMUTABLE')
  })

  it('an asset of one peer is read on another, whole', async () => {
    await mkdir(join(dir, 'files'), { recursive: true })
    const content = Buffer.alloc(3_500_000, 'asset ')
    await writeFile(join(dir, 'files', 'big.bin'), content)
    const added = aios('asset', 'add', join(dir, 'files', 'big.bin'), '--json', '--data', net.peer(0).dataDir)
    assert.equal(added.code, 0, added.err)
    const { uri } = JSON.parse(added.out)
    await until(async () => JSON.stringify(await net.peer(2).client.get('/mesh/assets')).includes(uri), 'the asset is known elsewhere')
    const got = aios('asset', 'get', uri, '-o', join(dir, 'files', 'copy.bin'), '--data', net.peer(2).dataDir)
    assert.equal(got.code, 0, got.err)
    const { readFile } = await import('node:fs/promises')
    assert(content.equals(await readFile(join(dir, 'files', 'copy.bin'))))
  })

  it('AIOS\'s own door: filter finds blocks, metrics are exposed', async () => {
    const found = z.object({ success: z.literal(true), task_id: z.string(), result: z.array(z.object({ id: z.string() }).loose()) })
      .parse(await net.peer(2).client.send('POST', '/api/filter', { body: { values: { matchType: 'block', filter: { blockQuery: { variable: 'id', operator: 'LIKE', value: 'triage-c*' } } } } }))
    assert.deepEqual(found.result.map(({ id }) => id), ['triage-classify'])
    const metrics = await (await net.peer(0).client.fetch('GET', '/metrics')).text()
    assert.match(metrics, /^aios_peers_live 3$/m)
  })

  it('AIOS\'s parser makes clusters, adds nodes, registers images, sends commands, and searches by a published policy', async () => {
    const { client } = net.peer(1)
    const act = async (action: string, values: Json): Promise<Json> => z.object({ success: z.literal(true), task_id: z.string(), result: z.json() }).parse(await client.send('POST', `/api/${action}`, { header: { templateUri: 'Parser/V1', parameters: {} }, body: { spec: { values } } })).result as Json
    await published(client, fileURLToPath(new URL('../fixtures/policies/newest-first', import.meta.url)), 'policies')
    await act('createCluster', { id: 'lab-1', regionId: 'eu', nodes: { count: 1, nodeData: [{ nodeId: 'n1', status: 'active', memory: '1000', vcpus: { count: 8 } }] } })
    const grown = z.object({ memory: z.number(), nodes: z.object({ count: z.number() }) }).parse(await act('addNode', { clusterId: 'lab-1', nodeData: { id: 'n2', memory: 500 } }))
    assert.deepEqual([grown.memory, grown.nodes.count], [1_500, 2])
    // As AIOS's gateway documents them.
    await client.send('POST', '/nodes/add-node-to-cluster/lab-1', { id: 'n3', memory: 1 })
    await client.get('/nodes/remove-node-from-cluster/lab-1/n3')
    const changed = z.object({ data: z.looseObject({ regionId: z.string(), tags: z.array(z.string()), clusterMetadata: z.record(z.string(), z.json()), nodes: z.looseObject({ count: z.number() }), metrics: z.looseObject({ clusterId: z.string() }) }) })
    await client.send('PUT', '/clusters/update/lab-1', { 'clusterMetadata.creator': 'me', regionId: 'eu-2' })
    const { data: now } = changed.parse(await client.send('PUT', '/clusters/update/lab-1', { $set: { tags: ['gpu'] } }))
    assert.deepEqual([now.regionId, now.tags, now.clusterMetadata, now.nodes.count, now.metrics.clusterId], ['eu-2', ['gpu'], { creator: 'me' }, 2, 'lab-1'])
    await assert.rejects(client.send('POST', '/create-cluster-infra', { cluster_id: 'lab-1', kube_config_data: {} }), { code: 'RUNTIME_UNAVAILABLE', message: /no infrastructure to create by a kubeconfig.*aios up --join/ })
    await assert.rejects(client.send('POST', '/cluster/mgmt', { cluster_id: 'lab-1', service: 'stability_checker', action: 'x', payload: {} }), { code: 'NO_INSTANCE', message: /no host of cluster lab-1 is alive/ })
    await assert.rejects(client.send('POST', '/mgmt', { block_id: '', service: 'stability_checker', mgmt_action: 'x', mgmt_data: {} }), { code: 'NOT_FOUND', message: /no stability checker to manage/ })
    assert.match(JSON.stringify(await act('addComponent', { componentId: { name: 'yolo', version: '1.0.0', releaseTag: 'stable' }, componentType: 'model', containerRegistryInfo: { containerImage: 'registry/yolo:1', componentMode: 'aios' } })), /model\.yolo:1\.0\.0-stable/)
    const answers = z.record(z.string(), z.object({ error: z.object({ message: z.string() }).loose() })).parse(await act('executeMgmtCommand', { blockId: 'triage-report', service: 'instances', mgmtCommand: 'stats', mgmtData: {} }))
    assert.match(Object.values(answers)[0]?.error.message ?? '', /no management commands/)
    const found = z.array(z.object({ blockId: z.string() }).loose()).parse(await act('search', { matchType: 'block', rankingPolicyRule: { values: { policyRuleURI: 'newest-first:1.0-stable', parameters: { filterRule: { matchType: 'block', filter: { blockQuery: { variable: 'minInstances', operator: '>=', value: '2' } } } } } } }))
    assert.deepEqual(found.map(({ blockId }) => blockId), ['triage-classify'])
  })

  it('a host enters a cluster by an invite and leaves it again, and the network\'s rules are set by its owner, over AIOS\'s paths and the command line', async () => {
    const [owner, other] = [net.peer(1), net.peer(2)]
    const say = (at: number, ...words: string[]): ReturnType<typeof aios> => aios(...words, '--data', net.peer(at).dataDir)
    assert.equal(say(1, 'cluster', 'create', 'duo', '--region', 'eu', '--countries', 'DE,FR').code, 0)
    const invite = say(1, 'cluster', 'invite', 'duo').out.trim()
    assert.equal(say(2, 'cluster', 'join', invite).code, 0)
    const read = async (peer: typeof owner, path: string): Promise<unknown> => z.object({ success: z.literal(true), data: z.json() }).parse(await peer.client.get(path)).data
    const document = z.object({ nodes: z.object({ count: z.int() }).loose(), labels: z.record(z.string(), z.string()), owner: z.string() }).loose()
    for (const peer of [owner, other]) await until(async () => document.safeParse(await read(peer, '/clusters/read/duo').catch(() => undefined)).data?.nodes.count === 2, 'both are in it')
    const shown = document.parse(await read(owner, '/clusters/read/duo'))
    assert.deepEqual([shown.labels, shown.owner], [{ region: 'eu', country: 'DE,FR' }, owner.peer])
    assert.equal(z.array(z.object({ status: z.literal('healthy') }).loose()).parse(await read(owner, '/healthy_nodes')).length, 2)
    assert.equal(z.object({ is_stable: z.boolean() }).loose().parse(await read(other, '/check_stability')).is_stable, true)
    assert.equal(z.object({ clusterId: z.string() }).loose().parse(await read(other, '/cluster-metrics/duo')).clusterId, 'duo')
    assert.deepEqual(z.array(z.object({ id: z.string() }).loose()).parse(z.object({ data: z.json() }).loose().parse(await other.client.send('POST', '/clusters/query', { query: { regionId: { $regex: '^e' }, 'nodes.count': { $gte: 2 }, id: { $ne: 'lab-1' } } })).data).map(({ id }) => id), ['duo'])

    await published(net.peer(0).client, fileURLToPath(new URL('../fixtures/policies/newest-first', import.meta.url)), 'policies')
    assert.equal(say(0, 'network', 'policy', 'remove_node', 'newest-first:1.0-stable').code, 0)
    // The rule is one for searches: it answers nothing that a pre-check could use, and that is a no.
    const node = { cluster_id: 'duo', node_id: other.peer }
    const allowed = async (): Promise<boolean> => z.object({ data: z.object({ allowed: z.boolean() }).loose() }).loose().parse(await owner.client.send('POST', '/pre-check-policies/remove_node/dry_run', node)).data.allowed
    await until(async () => !await allowed(), 'the rule is known')
    assert.match(say(1, 'cluster', 'remove-node', 'duo', other.peer).err, /POLICY_DENIED: the remove_node policy of the network/)
    await assert.rejects(owner.client.send('POST', '/pre-check-policies/update', { remove_node: '' }), /only the owner of the network and its admins/)
    await net.peer(0).client.send('POST', '/pre-check-policies/update', { remove_node: '' })
    await until(allowed, 'the rule is gone')
    await owner.client.send('POST', '/remove-node', node)
    await owner.client.send('POST', '/clusters/delete', { id: 'duo' })
  })

  it('a block that cannot start, or for which nobody has room, says why within seconds', async function () {
    this.timeout(60_000)
    const { client } = net.peer(1)
    const folder = join(dir, 'broken')
    await mkdir(folder, { recursive: true })
    await writeFile(join(folder, 'component.json'), JSON.stringify({ componentId: { name: 'broken', version: '1', releaseTag: 'x' }, componentType: 'model', needs: { memoryMb: 128 } }))
    // Whole, so that it can be published, and of an operator that no runtime has.
    const type = { value: { case: 'tensorType', value: { elemType: 1 } } } as const
    const model = create(ModelProtoSchema, { irVersion: 8n, opsetImport: [{ domain: '', version: 17n }], graph: { name: 'g', node: [{ opType: 'Tumourize', input: ['x'], output: ['y'] }], input: [{ name: 'x', type }], output: [{ name: 'y', type }] } })
    await writeFile(join(folder, 'model.onnx'), toBinary(ModelProtoSchema, model))
    await published(client, folder)
    const broken = await refusal(client.send('POST', '/mesh/blocks', { spec: { blockId: 'broken', blockComponentURI: 'model.broken:1-x', minInstances: 1, maxInstances: 1 } }))
    assert.equal(broken.code, 'INSTANCE_FAILED')
    assert.match(broken.message, /onnx.*Tumourize/s)
    await client.send('DELETE', '/mesh/blocks/broken')
    const large = await refusal(client.send('POST', '/mesh/blocks', { spec: { blockId: 'large', blockComponentURI: 'model.broken:1-x', minInstances: 1, maxInstances: 1, resources: { memory: '900Ti' } } }))
    assert.equal(large.code, 'NO_CAPACITY')
    assert.match(large.message, /memory/)
    await client.send('DELETE', '/mesh/blocks/large')
  })

  it('a changed block answers all the while, and then as it was changed to', async function () {
    this.timeout(90_000)
    const { client } = net.peer(1)
    const spec = { blockId: 'triage-rules', blockComponentURI: 'service.tumour-rules:1.0.0-stable', minInstances: 1, maxInstances: 1 }
    const decide = async (): Promise<string> => {
      const data: Json = { inputs: [{ id: 'x', probability: 0.6 }, { novelty: 0.1 }] }
      return z.object({ data: z.object({ decision: z.string() }) }).parse(await net.peer(2).client.send('POST', '/v1/infer', { model: 'triage-rules', data })).data.decision
    }
    assert.equal(await decide(), 'refer-urgent')
    const [before] = await instances(net.peer(0), 'triage-rules')
    let done = false
    let calls = 0
    const asking = (async () => {
      for (; !done; calls += 1) await decide()
    })()
    const changed = z.object({ replaces: z.boolean(), ready: z.int() }).parse(await client.send('PUT', '/mesh/blocks', { spec: { ...spec, parameters: { urgentFrom: 0.9 } } }))
    assert.deepEqual(changed, { replaces: true, ready: 1 })
    await until(async () => (await instances(net.peer(2), 'triage-rules')).every(({ instance }) => instance !== before?.instance), 'the old instance is gone')
    done = true
    await asking
    assert.ok(calls > 0)
    assert.equal(await decide(), 'review')
    assert.equal((await refusal(client.send('PUT', '/mesh/blocks', { spec: { ...spec, blockId: 'nowhere' } }))).code, 'NOT_FOUND')
    assert.equal((await refusal(client.send('PUT', '/mesh/blocks', { spec: { ...spec, parameters: { urgentFrom: 7 } } }))).code, 'SPEC_INVALID')
    // Changed back in the middle of another change: both instances there are then of an earlier record.
    const [then] = await instances(net.peer(0), 'triage-rules')
    await client.send('PUT', '/mesh/blocks', { spec: { ...spec, parameters: { urgentFrom: 0.8 } }, wait: false })
    await until(async () => (await instances(net.peer(0), 'triage-rules')).some(({ instance }) => instance !== then?.instance), 'the second change is under way')
    await client.send('PUT', '/mesh/blocks', { spec })
    // Peer 1 has seen the last change ready; peer 2 hears of it a moment later.
    await until(async () => await decide() === 'refer-urgent', 'the last change answers whoever asks')
  })

  it('kill -9 of a peer: its instances come up elsewhere, runs go on; restarted it is the same peer with what it had', async function () {
    this.timeout(90_000)
    const block = 'triage-normalise'
    const [before] = await instances(net.peer(0), block)
    const victim = net.running().find(({ peer }) => peer === before?.host)
    assert(victim)
    const survivor = net.running().find(({ peer }) => peer !== victim.peer)
    assert(survivor)
    const done = await ask(victim, 'acknowledged')
    await net.kill(victim.index)
    await until(async () => (await instances(survivor, block)).some(({ host, state }) => host !== victim.peer && state === 'ready'), 'the replacement')
    await ask(survivor, 'while-dead')
    const back = await net.up(victim.index)
    assert.equal(back.peer, victim.peer)
    const again = await ask(back, 'acknowledged')
    assert.equal(again.run, done.run)
    assert.deepEqual(again.data, done.data)
    await until(async () => (await instances(back, block)).filter(({ state }) => state === 'ready').length === 1, 'no surplus instance after the host came back', 60_000)
  })

  it('kill -9 of all at once: started again they are one mesh, and every block runs and answers', async function () {
    this.timeout(120_000)
    const done = await ask(net.peer(0), 'before-the-end')
    await Promise.all([0, 1, 2].map(index => net.kill(index)))
    await Promise.all([0, 1, 2].map(index => net.up(index)))
    for (const peer of net.running()) await until(async () => z.array(z.object({ state: z.string() })).parse(await peer.client.get('/mesh/peers')).filter(({ state }) => state === 'alive').length === 3, `peer ${peer.index} knows all three`)
    for (const block of triage.blocks) await until(async () => (await instances(net.peer(1), block)).some(({ state }) => state === 'ready'), `${block} runs again`, 60_000)
    const again = await ask(net.peer(2), 'before-the-end')
    assert.deepEqual([again.run, again.data], [done.run, done.data])
    await ask(net.peer(1), 'after-the-end')
  })

  it('scale changes how many run; remove ends them', async function () {
    this.timeout(60_000)
    const { client } = net.peer(0)
    await client.send('POST', '/mesh/blocks/triage-novelty/scale', { instances: 2 })
    await until(async () => (await instances(net.peer(1), 'triage-novelty')).filter(({ state }) => state === 'ready').length === 2, 'two instances')
    await client.send('POST', '/mesh/blocks/triage-novelty/scale', { instances: 1 })
    await until(async () => (await instances(net.peer(1), 'triage-novelty')).filter(({ state }) => state === 'ready').length === 1, 'one instance again')
    await client.send('DELETE', '/mesh/blocks/triage-novelty')
    await until(async () => (await refusal(net.peer(1).client.get('/mesh/blocks/triage-novelty'))).code === 'NOT_FOUND', 'the block is forgotten')
  })
})

async function published(client: DevPeer['client'], directory: string, kind = 'components'): Promise<Json> {
  let last: Json = null
  for await (const line of client.lines('POST', `/mesh/${kind}`, { directory })) last = line
  return last
}
