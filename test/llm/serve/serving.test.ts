import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { granted, MeshError, refused } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import type { ModelManifest } from '../../../protocols/model.ts'
import { importModel } from '../../../node/authoring/model-import.ts'
import { ModelServing } from '../../../src/llm/serve/serving.ts'
import { createLlm, joinLlm } from '../../../src/parser/models.ts'
import { SplitPlacement } from '../../../src/llm/serve/split-placement.ts'
import { clusterDocument } from '../../../src/placement/cluster-document.ts'
import { PLACEMENT } from '../../../src/placement/placement.ts'
import { Policies } from '../../../src/policies/calls.ts'
import type { ContentStore } from '../../../src/ports.ts'
import { World } from '../../../simulations/world.ts'
import { makeModel } from '../../fixtures/llm/make-model.ts'
import { cells } from '../../node/cells.ts'
import { HostingPeer } from '../../placement/mesh.ts'

const CID = 'bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy'

/** A real model read from disk, as a manifest whose files are in memory under their paths. */
async function readModel(): Promise<{ readonly manifest: ModelManifest; readonly files: ReadonlyMap<string, Uint8Array> }> {
  const dir = await mkdtemp(join(tmpdir(), 'serving-'))
  const stored: Uint8Array[] = []
  const content: Pick<ContentStore, 'add' | 'has' | 'pin'> = {
    has: async () => false,
    async add(bytes) {
      const chunks: Uint8Array[] = []
      for await (const chunk of bytes) chunks.push(chunk)
      stored.push(Uint8Array.from(Buffer.concat(chunks)))
      return { cid: CID, size: stored.at(-1)!.byteLength }
    },
    pin: async () => {},
  }
  const manifests: ModelManifest[] = []
  try {
    makeModel(join(dir, 'tiny'), { variant: 'fused' })
    await importModel({
      content, journal: cells(), author: 'author-peer',
      catalogue: { publishModel: async manifest => { manifests.push(manifest); return { uri: manifest.modelURI, cid: CID } }, publishComponent: () => assert.fail('a decoder is no component') },
    }, join(dir, 'tiny'))
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
  const [manifest] = manifests
  assert(manifest)
  const order = [manifest.skeleton, ...manifest.pieces, ...manifest.files]
  return { manifest, files: new Map(order.map(({ path }, at) => [path, stored[at]!])) }
}

describe('serving a model in a mesh where hosts may refuse', () => {
  let model: Awaited<ReturnType<typeof readModel>>
  before(async () => { model = await readModel() })

  /** Hosts whose index is among `refusing` take awards from nobody. */
  async function mesh(peers: number, refusing: readonly number[]): Promise<{ readonly world: World<HostingPeer>; readonly peer: HostingPeer; readonly serving: ModelServing; readonly promised: () => number }> {
    const world: World<HostingPeer> = new World({
      seed: 3, peers, weather: { delayMs: [1, 10], loss: 0, duplicate: 0 }, checkEveryMs: 20, checkers: [],
      factory: async (ports, host) => {
        const peer = new HostingPeer(ports, { ...PLACEMENT, maySteward: () => (refusing.includes(host.index) ? refused('it takes nothing today', true) : granted(true)) })
        await peer.start(world.hosts.filter(({ index }) => index !== host.index).map(({ address }) => address))
        return peer
      },
    })
    await world.startAll()
    const peer = world.peers.get(world.hosts[0]!.peer)!
    await world.run(world.now + 2_000)
    const add = async (path: string) => world.drive(peer.ports.content.add(once(model.files.get(path)!)))
    const stored = async (files: ModelManifest['pieces']) => {
      const out: ModelManifest['pieces'] = []
      for (const file of files) out.push({ ...file, ...await add(file.path) })
      return out
    }
    const [skeleton] = await stored([model.manifest.skeleton])
    const manifest = { ...model.manifest, skeleton: skeleton!, pieces: await stored(model.manifest.pieces), files: await stored(model.manifest.files), author: peer.ports.identity.peer }
    await world.drive(peer.catalogue.publishModel(manifest))
    const serving = new ModelServing(peer.ports, { view: peer.capacity, catalogue: peer.catalogue, placement: peer.placement, may: () => granted(true) })
    return { world, peer, serving, promised: () => [...world.peers.values()].reduce((sum, { placement }) => sum + placement.promised().length, 0) }
  }

  it('plans around who refuses, and says so', async () => {
    const { world, serving, peer } = await mesh(4, [1])
    const { served, plan, refusals } = await world.drive(serving.serve('tiny', { shards: 3, contextTokens: 64, sessions: 1, standbys: 0 }))
    const refuser = world.hosts[1]!.peer
    assert(plan.stages.every(({ peer: host }) => host !== refuser))
    assert.deepEqual(refusals.map(({ host }) => host), [refuser])
    assert.deepEqual(served.stages.map(({ first, end }) => [first, end]), plan.stages.map(({ first, end }) => [first, end]))
    assert.deepEqual(await world.drive(peer.catalogue.served('tiny')), served)
  })

  it('by AIOS’s llmCreate and llmVDAGCreate, and by llmVDAGCreateManual from blocks that are there', async () => {
    const { world, serving, peer } = await mesh(4, [])
    const { result, blocks } = await world.drive(createLlm(serving, { body: { spec: { values: { model_name: 'tiny', service: 'made', world_size: '2', contextTokens: 64, sessions: 1, standbys: 0 } } } }))
    assert.deepEqual([Object(result).service, Object(result).blocks, blocks.length], ['made', ['made-s0', 'made-s1'], 2])
    const join = (asked: Json) => world.drive(joinLlm(peer.catalogue, peer.ports.clock, peer.ports.identity.peer, asked))
    const joined = await join({ task_data: { model_name: 'tiny' }, service: 'by-hand', blocks: ['made-s0', 'made-s1'] })
    assert.deepEqual(Object(joined).stages, Object(result).stages)
    assert.equal((await world.drive(peer.catalogue.served('by-hand')))?.owner, peer.ports.identity.peer)
    for (const [asked, because] of [[{ model: 'tiny', service: 'x', blocks: ['made-s1', 'made-s0'] }, /blocks\[0\]: made-s1 has the layers from \d+ on, and 0 come next/], [{ model: 'tiny', service: 'x', blocks: ['made-s0'] }, /blocks: they end at layer/], [{ model: 'tiny', service: 'x', blocks: ['none'] }, /no block is called none/], [{ model: 'tiny', service: 'by-hand', blocks: ['made-s0', 'made-s1'] }, /served already/], [{ blocks: ['a'] }, /model: /]] as const) {
      await assert.rejects(join(asked), because)
    }
  })

  it('hook model-split placement: a rule chooses the node of each rank among the clusters; one that gives nothing leaves it to the planner, within them', async () => {
    const { world, serving, peer } = await mesh(4, [])
    const nodes = world.hosts.map(host => host.peer)
    const clusters = peer.capacity.ads().map(ad => clusterDocument([ad]))
    const policies = new Policies(peer.ports, peer.catalogue)
    const splits = new SplitPlacement({ view: peer.capacity, models: serving, inventory: { clusters: () => clusters, filter: async () => clusters.slice(0, 2) }, policies, metrics: peer.metrics })
    const publish = async (name: string, source: string): Promise<string> => {
      await world.drive(peer.catalogue.publishPolicy({ policyRuleURI: `${name}:1-stable`, name, version: '1', releaseTag: 'stable', description: '', tags: [], codeType: 'js_module_v1', settings: {}, parameters: {}, inputSchema: {}, outputSchema: {}, managementCommands: {}, author: peer.ports.identity.peer }, source))
      return `${name}:1-stable`
    }
    const rule = await publish('by-hand', `export default class AIOSv1PolicyRule {
      constructor(id, settings) { this.settings = settings }
      eval(parameters, { selected_clusters, extra_input }) {
        const nodes = parameters.nodes.filter(node => selected_clusters.some(({ id }) => id === node) && this.settings.get_cluster_metrics[node].nodes.length === 1)
        return { deployment_name: 'ranks', nnodes: nodes.length, common_params: { model_name: extra_input.model_name }, per_rank_params: nodes.map((node_id, rank) => ({ rank, node_id })) }
      }
    }`)
    const inputs = { model_name: 'tiny', contextTokens: 64, sessions: 1, standbys: 0 }
    const made = await world.drive(splits.createWithPolicy({ policy: { policyRuleURI: rule, parameters: { nodes: [nodes[2]!, nodes[1]!, nodes[3]!] }, settings: {} }, clustersSelector: { ids: [nodes[1]!, nodes[2]!] }, inputs }))
    assert.deepEqual(Object(made['per_rank_params']).map((one: { rank: number; node_id: string }) => [one.rank, one.node_id]), [[0, nodes[2]], [1, nodes[1]]])
    assert.deepEqual([made['deployment_name'], made['nnodes'], made['rank_0_cluster_id'], made['multi_cluster']], ['ranks', 2, nodes[2], true])
    assert.deepEqual((await world.drive(peer.catalogue.served('ranks')))?.stages.length, 2)

    const silent = await publish('silent', 'export default () => ({ per_rank_params: [{ rank: 0, node_id: "nowhere" }] })')
    const within = clusters.slice(0, 2).map(({ id }) => id)
    const planned = await world.drive(splits.createWithPolicy({ policy: silent, clustersSelector: { filter: { clusterQuery: { variable: 'status', operator: '==', value: 'live' } } }, inputs: { ...inputs, deployment_name: 'planned' } }))
    assert.ok(Object(planned['per_rank_params']).every(({ node_id }: { node_id: string }) => within.includes(node_id)))
    assert.match(JSON.stringify(planned['metadata']), /fallback.*nowhere is not alive, or not in the clusters/)

    await assert.rejects(world.drive(splits.create({ deployment_name: 'twice', nnodes: 2, common_params: { model_name: 'tiny' }, per_rank_params: [{ rank: 0, node_id: nodes[0]! }, { rank: 0, node_id: nodes[1]! }] })), /ranks must be 0 to 1, each once/)
    const explicit = await world.drive(splits.create({ deployment_name: 'named', common_params: { model_name: 'tiny' }, metadata: { contextTokens: 64, sessions: 1, standbys: 0 }, per_rank_params: [{ rank: 1, node_id: nodes[0]! }, { rank: 0, node_id: nodes[3]! }] }))
    assert.deepEqual(Object(explicit['per_rank_params']).map((one: { node_id: string }) => one.node_id), [nodes[3], nodes[0]])
  })

  it('places no stage at all when too many refuse, and leaves nothing promised, registered or named', async () => {
    const { world, serving, peer, promised } = await mesh(4, [1, 2])
    await assert.rejects(world.drive(serving.serve('tiny', { shards: 3, contextTokens: 64, sessions: 1 })), (error: unknown) => error instanceof MeshError && error.code === 'NO_CAPACITY' && /it takes nothing today/.test(error.message))
    await world.run(world.now + 1_000)
    assert.equal(promised(), 0)
    assert.deepEqual(await world.drive(peer.catalogue.blocks()), [])
    assert.deepEqual(await world.drive(peer.catalogue.services()), [])
  })
})

async function * once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
