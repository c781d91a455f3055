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
import { PLACEMENT } from '../../../src/placement/placement.ts'
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
