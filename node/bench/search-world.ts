import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { check, encode, recordCid, type Schema } from '../../protocols/codec.ts'
import type { CapacityAd, InstanceAd } from '../../protocols/capacity.ts'
import { granted } from '../../protocols/errors.ts'
import type { Cid, PeerId } from '../../protocols/ids.ts'
import { blockRecord, componentManifest } from '../../protocols/specs.ts'
import { Inventory, type Measured } from '../../src/inventory.ts'
import type { JsonObject } from '../../src/lib/json.ts'
import { clusterDocument } from '../../src/placement/cluster-document.ts'
import type { ContentStore } from '../../src/ports.ts'
import { ArtefactCatalogue } from '../../src/registries/catalogue.ts'
import { Registries } from '../../src/registries/store.ts'
import { MemoryView } from '../../src/registries/view.ts'
import type { MeshView, PolicyCalls } from '../../src/roles.ts'
import { Library } from '../../src/stores/library.ts'
import { openIdentity } from '../adapters/identity.ts'
import { SystemClock } from '../adapters/system.ts'

const HOSTS = 500
const COMPONENTS = 1_000
const REGIONS = ['eu-west', 'eu-north', 'us-east', 'ap-south'] as const

/** What a peer holds of a mesh of so many blocks: their records signed in a registry, their components in a content store, 500 hosts' ads. Only its disk and its network are in memory. */
export async function searchWorld(blocks: number): Promise<{ readonly inventory: Inventory; readonly speak: (at: number) => void }> {
  const clock = new SystemClock()
  const home = mkdtempSync(join(tmpdir(), 'aios-search-'))
  const identity = openIdentity(join(home, 'peer.key'))
  rmSync(home, { recursive: true })
  const telemetry = { count() {}, gauge() {}, observe() {}, event() {} }
  const registries = new Registries(new MemoryView(), { identity, mayWrite: () => granted(true) }, { clock, telemetry })
  const content = recordsInMemory()
  const catalogue = new ArtefactCatalogue(registries, content)
  const library = new Library({ clock, registries, content })

  const cids: Cid[] = []
  for (let at = 0; at < COMPONENTS; at += 1) {
    const { cid } = await catalogue.publishComponent(componentManifest.parse({
      componentURI: `model.detector-${at}:1.0.0-stable`, componentId: { name: `detector-${at}`, version: '1.0.0', releaseTag: 'stable' }, componentType: at % 3 === 0 ? 'model' : 'node', runtime: { name: 'node' }, files: [], needs: {},
      componentMetadata: { framework: at % 2 === 0 ? 'onnx' : 'tfjs', task: `task-${at % 20}`, accuracy: (at % 100) / 100, hardware: { memory: 256 + (at % 8) * 256 } }, tags: ['bench', `team-${at % 10}`], author: identity.peer,
    }))
    cids.push(cid)
  }
  const running = new Map<string, { readonly host: PeerId; readonly ad: InstanceAd }[]>()
  const onHost = new Map<number, InstanceAd[]>()
  await Promise.all(Array.from({ length: blocks }, async (_, at) => {
    const blockId = `block-${at}`
    const instances = Array.from({ length: 1 + at % 3 }, (_, nth): { readonly host: PeerId; readonly ad: InstanceAd } => {
      const host = (at * 7 + nth * 31) % HOSTS
      const ad: InstanceAd = { block: blockId, instance: `in-${at}-${nth}`, contract: `c-${at}-${nth}`, component: `model.detector-${at % COMPONENTS}:1.0.0-stable`, epoch: 1, steward: identity.peer, state: 'ready', inFlight: at % 5, queued: at % 11, latencyMs: (at % 90) + nth }
      onHost.set(host, [...onHost.get(host) ?? [], ad])
      return { host: peerOf(host), ad }
    })
    running.set(blockId, instances)
    await catalogue.putBlock(blockRecord.parse({
      blockId, componentURI: `model.detector-${at % COMPONENTS}:1.0.0-stable`, component: cids[at % COMPONENTS], runtime: { name: 'node' }, minInstances: 1 + at % 3, maxInstances: 4, needs: {},
      parameters: { threshold: (at % 10) / 10 }, policies: at % 4 === 0 ? { loadBalancer: { policyRuleURI: 'sticky:1.0-stable' } } : {}, tags: [`tenant-${at % 50}`], owner: identity.peer, revision: 0,
    }))
  }))

  const ads = new Map(Array.from({ length: HOSTS }, (_, at) => [peerOf(at), adOf(at, onHost.get(at) ?? [])] as const))
  const hearers = new Set<(peer: PeerId, what: 'ad') => void>()
  const view: MeshView = {
    self: peerOf(0), ads: () => [...ads.values()], ad: peer => ads.get(peer), live: () => [...ads.keys()], state: () => 'alive', instancesOf: block => running.get(block) ?? [],
    onChange(hear) {
      hearers.add(hear)
      return () => hearers.delete(hear)
    },
    onLife: () => () => undefined,
  }
  const known = (id: string): JsonObject => ({ blockId: id, instances: view.instancesOf(id).map(({ host, ad }) => ({ instanceId: ad.instance, nodeId: host, latency: ad.latencyMs, queue_length: ad.queued })) })
  const metrics: Measured = {
    knownBlock: known,
    blocks: async ids => ids.map(known),
    clusters: async () => view.ads().map(ad => ({ clusterId: ad.cluster, cluster: { vcpu: { load15m: ad.cpuLoad }, memory: { freeMem: ad.free.memoryMb } } })),
    vdags: async () => [],
  }
  // A ranking rule runs in its sandbox, whose own bench is another; here the filter's order stands.
  const policies: PolicyCalls = { decide: async call => ({ value: call.fallback(), by: 'default', because: 'no rule' }) }
  const inventory = new Inventory(view, catalogue, policies, { library, metrics, clusters: { ids: () => [], document: (_, members) => clusterDocument(members), onChange: () => () => {} } })
  const speak = (at: number): void => {
    const host = at % HOSTS
    const before = ads.get(peerOf(host))
    if (before !== undefined) ads.set(peerOf(host), { ...before, sequence: before.sequence + 1, cpuLoad: (at % 100) / 100 })
    for (const hear of hearers) hear(peerOf(host), 'ad')
  }
  return { inventory, speak }
}

function peerOf(at: number): PeerId {
  return `12D3KooWBench${String(at).padStart(6, '0')}`
}

function adOf(at: number, instances: readonly InstanceAd[]): CapacityAd {
  const amount = { cpuMilli: 16_000, memoryMb: 65_536 + (at % 4) * 65_536, diskMb: 1_000_000, gpus: [] }
  return {
    peer: peerOf(at), cluster: peerOf(at), incarnation: 1, sequence: 1, issuedAt: 0, ttlMs: 60_000, protocolMajor: 1, labels: { region: REGIONS[at % REGIONS.length] ?? '' }, total: amount, free: { ...amount, memoryMb: amount.memoryMb / 2 },
    runtimes: [], memoryGBs: 20, cpuLoad: (at % 100) / 100, instances: [...instances], holds: [],
  }
}

function recordsInMemory(): ContentStore {
  const records = new Map<Cid, unknown>()
  const none = (): never => {
    throw new Error('the search bench holds no files')
  }
  return {
    add: none, cat: none, fetch: none,
    async putRecord(value) {
      const cid = recordCid(encode(value))
      records.set(cid, value)
      return cid
    },
    getRecord: async <T>(cid: Cid, schema: Schema<T>) => check(schema, records.get(cid), cid),
    has: async cid => records.has(cid), pin: async () => {}, unpin: async () => {},
  }
}
