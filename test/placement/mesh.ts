import { MeshError } from '../../protocols/errors.ts'
import { hello } from '../../protocols/membership.ts'
import { blockRecord, componentManifest, type BlockRecord } from '../../protocols/specs.ts'
import { Instances } from '../../src/blocks/instances.ts'
import { HostMetrics } from '../../src/metrics/host-metrics.ts'
import { MeshMetrics } from '../../src/metrics/mesh-metrics.ts'
import { Capacity, CAPACITY } from '../../src/capacity/capacity.ts'
import { retry } from '../../src/lib/backoff.ts'
import { Placement, PLACEMENT, type PlacementConfig } from '../../src/placement/placement.ts'
import { Policies } from '../../src/policies/calls.ts'
import type { Ports } from '../../src/ports.ts'
import { ArtefactCatalogue } from '../../src/registries/catalogue.ts'
import { seal } from '../../src/trust/seal.ts'
import { blocksReachTheirLeast, highestEpochObeyed, ledgerNeverOverPromised, NOTHING_TO_SEE, viewsConverge, type Checker, type Inspection } from '../../simulations/checkers.ts'
import type { Weather } from '../../simulations/links.ts'
import { World, type SimPeer } from '../../simulations/world.ts'

/** Lets everybody in who says hello, and keeps dialling the neighbours: the least that stands for membership here. */
export function enter(ports: Ports, neighbours: readonly string[]): void {
  const { clock, identity, network, random } = ports
  const background = (work: Promise<unknown>): void => {
    work.catch(error => {
      if (!(error instanceof MeshError)) throw error
    })
  }
  network.handle(hello, async (_, from) => {
    network.admit(from)
    return {}
  })
  network.onConnection((peer, direction) => {
    if (direction !== 'outbound') return
    background(retry({ clock, random }, { firstMs: 100, maxMs: 1_000, retries: 10 }, () => network.request(peer, hello, seal(identity, 'hello', { to: peer }), clock.deadline(600))).then(() => network.admit(peer)))
  })
  const reach = (address: string): void => background(retry({ clock, random }, { firstMs: 200, maxMs: 2_000, retries: 30 }, () => network.dial([address], clock.deadline(5_000))))
  for (const address of neighbours) reach(address)
  network.onPeer((peer, state) => {
    const lost = state === 'gone' ? neighbours.find(address => address.endsWith(peer)) : undefined
    if (lost !== undefined) reach(lost)
  })
}

/** The parts of a peer that know, place and run; what `createPeer` composes, without the rest. */
export class HostingPeer implements SimPeer {
  readonly ports: Ports
  readonly capacity: Capacity
  readonly catalogue: ArtefactCatalogue
  readonly instances: Instances
  readonly placement: Placement
  readonly metrics: MeshMetrics

  constructor(ports: Ports, config: PlacementConfig) {
    this.ports = ports
    this.capacity = new Capacity(ports, CAPACITY)
    this.catalogue = new ArtefactCatalogue(ports.registries, ports.content)
    const policies = new Policies(ports, this.catalogue)
    this.instances = new Instances(ports, this.catalogue, policies, () => ports.identity.peer)
    this.metrics = new MeshMetrics(ports, this.capacity, new HostMetrics(ports, { instances: this.instances, vdags: { measured: () => [] } }, () => ports.identity.peer))
    this.placement = new Placement(ports, { view: this.capacity, catalogue: this.catalogue, policies, instances: this.instances, metrics: this.metrics, knowsMost: () => this.capacity.knowsMost() }, config)
  }

  async start(neighbours: readonly string[]): Promise<void> {
    await this.placement.open()
    await this.metrics.start()
    enter(this.ports, neighbours)
    this.placement.onChange(() => this.capacity.changed())
    await this.capacity.start({ free: () => this.placement.uncontracted(), instances: () => this.placement.instances(), holds: () => this.placement.holds(), stewards: () => this.placement.stewards() })
    await this.placement.start()
  }

  inspect(): Inspection {
    return {
      ...NOTHING_TO_SEE,
      total: this.placement.total(),
      promised: this.placement.promised(),
      contracts: this.placement.contracts().map(({ contract: { id, block, instance, epoch, steward } }) => ({ id, block, instance, epoch, steward })),
      epochs: this.placement.epochs(),
      live: this.capacity.live(),
      stewarded: this.placement.stewarded(),
    }
  }

  async stop(): Promise<void> {
    this.placement.stop()
    await this.capacity.stop()
  }
}

export type MeshOptions = { readonly peers: number; readonly seed?: number; readonly weather?: Weather; readonly config?: PlacementConfig; readonly checkers?: readonly Checker[] }

export function mesh({ peers, seed = 1, weather = { delayMs: [1, 10], loss: 0, duplicate: 0 }, config = PLACEMENT, checkers = [] }: MeshOptions): World<HostingPeer> {
  const world: World<HostingPeer> = new World({
    seed,
    peers,
    weather,
    checkEveryMs: 20,
    checkers: [ledgerNeverOverPromised(), highestEpochObeyed(), viewsConverge(), blocksReachTheirLeast(), ...checkers],
    factory: async (ports, host) => {
      const peer = new HostingPeer(ports, config)
      await peer.start(world.hosts.filter(({ index }) => index !== host.index).slice(0, 12).map(({ address }) => address))
      return peer
    },
  })
  return world
}

/** Starts the mesh, publishes a component with no files, and lets everybody hear of everybody. */
export async function started(options: MeshOptions): Promise<{ readonly world: World<HostingPeer>; readonly block: (over?: Partial<BlockRecord>) => BlockRecord }> {
  const world = mesh(options)
  await world.startAll()
  const author = world.peers.get(world.hosts[0]!.peer)!
  const manifest = componentManifest.parse({ componentURI: 'node.sample:1-stable', componentId: { name: 'sample', version: '1', releaseTag: 'stable' }, componentType: 'node', runtime: { name: 'node' }, files: [], needs: {}, author: author.ports.identity.peer })
  const { cid } = await world.drive(author.catalogue.publishComponent(manifest))
  await world.run(world.now + 2_000)
  return {
    world,
    block: over => ({ ...blockRecord.parse({ blockId: 'b', componentURI: manifest.componentURI, component: cid, runtime: { name: 'node' }, minInstances: 1, maxInstances: 4, needs: {}, owner: author.ports.identity.peer, revision: 0 }), ...over }),
  }
}

/** Where the instances of a block really run, by what each living host says itself. */
export function running(world: World<HostingPeer>, block: string): readonly { readonly host: string; readonly instance: string; readonly epoch: number; readonly state: string }[] {
  return [...world.peers].flatMap(([host, peer]) => peer.placement.instances().filter(ad => ad.block === block).map(({ instance, epoch, state }) => ({ host, instance, epoch, state }))).sort((a, b) => (a.instance < b.instance ? -1 : 1))
}

export function ready(world: World<HostingPeer>, block: string): number {
  return running(world, block).filter(({ state }) => state === 'ready').length
}

/** Virtual milliseconds until `count` instances are ready. */
export async function untilReady(world: World<HostingPeer>, block: string, count: number, limit = 20_000): Promise<number> {
  const from = world.now
  while (ready(world, block) !== count) {
    if (world.now - from > limit) throw new Error(`after ${limit} ms ${ready(world, block)} of ${count} instances are ready: ${JSON.stringify(running(world, block))}`)
    await world.run(world.now + 10)
  }
  return world.now - from
}
