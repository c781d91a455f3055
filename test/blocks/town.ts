import assert from 'node:assert/strict'
import { MeshError, refused } from '../../protocols/errors.ts'
import type { BlockId, InstanceId, Json } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import { componentManifest, type ComponentManifest } from '../../protocols/specs.ts'
import { NOTHING_TO_SEE } from '../../simulations/checkers.ts'
import type { SimulatedHost } from '../../simulations/host.ts'
import { keepConnected } from '../../simulations/overlay.ts'
import { SeededRandom } from '../../simulations/random.ts'
import { foundMesh } from '../../simulations/scenarios/mesh.ts'
import { World, type SimPeer } from '../../simulations/world.ts'
import { createPeer, type Peer, type PeerConfig } from '../../src/peer.ts'
import type { Clock, InstanceStart, Ports, RunningInstance } from '../../src/ports.ts'
import type { Membership } from '../../src/trust/invitation.ts'

export const COMPONENT = 'node.answers:1.0.0-stable'

/** How the code of every instance of a town behaves; a test changes it as it goes. */
export type Manners = {
  startMs: number
  serviceMs: number
  /** Every call is refused by the component. */
  refuses: boolean
  /** What `health()` says of an instance. */
  health: (instance: InstanceId, block: BlockId) => { readonly healthy: boolean; readonly detail: Json } | 'silent'
  /** `on_update`. */
  update: (parameters: Json, instance: InstanceId) => Json
  /** How long an instance lives; undefined: for ever. */
  livesMs: (instance: InstanceId, block: BlockId) => number | undefined
}

export class Townsman implements SimPeer {
  readonly peer: Peer

  constructor(peer: Peer) {
    this.peer = peer
  }

  inspect(): typeof NOTHING_TO_SEE {
    return NOTHING_TO_SEE
  }

  stop(): Promise<void> {
    return this.peer.stop(1_000)
  }
}

/** Whole peers, as the daemon composes them, whose instances run what the test says. */
export class Town {
  readonly world: World<Townsman>
  readonly manners: Manners = { startMs: 100, serviceMs: 20, refuses: false, health: () => ({ healthy: true, detail: { status: 'healthy' } }), update: parameters => parameters, livesMs: () => undefined }
  /** Parameters and init data each instance was started with, and what it was told later. */
  readonly told: { readonly instance: InstanceId; readonly what: 'started' | 'updated'; readonly parameters: Json; readonly initData?: Json }[] = []
  readonly emitters = new Map<InstanceId, NonNullable<InstanceStart['emit']>>()
  /** Ends an instance as a crash would. */
  readonly crash = new Map<InstanceId, () => void>()
  readonly answered: { readonly block: BlockId; readonly data: Json }[] = []
  #members: readonly Membership[] = []

  constructor(peers: number, options: { readonly seed?: number; readonly config?: Partial<PeerConfig>; readonly labels?: (index: number) => Readonly<Record<string, string>> } = {}) {
    const { seed = 11, config = {}, labels = () => ({}) } = options
    this.world = new World<Townsman>({
      seed, peers,
      factory: async (given, host) => {
        const membership = this.#members[host.index]
        assert(membership)
        const ports: Ports = { ...given, backend: { runtimes: () => ['node'], start: (request, signal) => this.#start(given.clock, request, signal) } }
        host.rights = { mayWrite: () => refused('the peer is still starting', true) }
        const peer = createPeer(ports, { membership, bearerKey: undefined, onGranted: async () => {}, clusterId: ports.identity.peer, labels: labels(host.index), ...config })
        host.rights = { mayWrite: (writer, registry, key) => peer.mayWrite(writer, registry, key), mayOperate: (writer, registry, key) => peer.mayOperate(writer, registry, key) }
        await peer.admission.start()
        keepConnected({ clock: ports.clock, network: ports.network, random: ports.random.fork('overlay') }, { addresses: this.world.hosts.map(({ address }) => address), degree: 6, everyMs: 1_000 })
        await peer.start()
        return new Townsman(peer)
      },
    })
    this.#members = foundMesh(this.world.hosts, new SeededRandom(`town ${seed}`), this.world.kernel.clock().unix())
  }

  /** Starts everybody, publishes the component, and lets everybody hear of it. */
  async open(manifest: Partial<ComponentManifest> = {}): Promise<this> {
    await this.world.startAll()
    const { catalogue, ports } = this.at(0)
    await this.world.drive(catalogue.publishComponent(componentManifest.parse({
      componentURI: COMPONENT, componentId: { name: 'answers', version: '1.0.0', releaseTag: 'stable' }, componentType: 'node', runtime: { name: 'node', entry: 'main.ts' }, files: [], needs: { cpuMilli: 100, memoryMb: 64 }, author: ports.identity.peer, ...manifest,
    })))
    await this.world.run(this.world.now + 2_000)
    return this
  }

  at(index: number): Peer {
    const host = this.world.hosts[index]
    const resident = host === undefined ? undefined : this.world.peers.get(host.peer)
    assert(resident !== undefined, `nobody is at home at ${index}`)
    return resident.peer
  }

  anybody(): Peer {
    const [first] = this.world.peers.values()
    assert(first)
    return first.peer
  }

  host(peer: string | undefined): SimulatedHost {
    const host = this.world.hosts.find(one => one.peer === peer)
    assert(host)
    return host
  }

  /** A peer that is not the steward of a block. */
  bystander(block: BlockId): Peer {
    const other = [...this.world.peers.values()].map(({ peer }) => peer).find(peer => peer.placement.stewardOf(block) !== peer.view.self)
    assert(other)
    return other
  }

  async rule(uri: string, source: string): Promise<void> {
    const [name = '', rest = ''] = uri.split(':')
    const [version = '', releaseTag = ''] = rest.split('-')
    const { catalogue, view } = this.anybody()
    await this.world.drive(catalogue.publishPolicy({ policyRuleURI: uri, name, version, releaseTag, codeType: 'js_module_v1', author: view.self, description: '', tags: [], settings: {}, parameters: {}, inputSchema: {}, outputSchema: {}, managementCommands: {} }, source))
  }

  async block(spec: { readonly [key: string]: Json }): Promise<void> {
    const { actions } = this.anybody()
    await this.world.drive(actions.createBlock({ blockComponentURI: COMPONENT, minInstances: 1, maxInstances: 1, ...spec }))
  }

  ready(block: BlockId): readonly InstanceId[] {
    return this.anybody().view.instancesOf(block).filter(({ ad }) => ad.state === 'ready').map(({ ad }) => ad.instance)
  }

  async until(what: string, reached: () => boolean, limitMs = 60_000): Promise<number> {
    const from = this.world.now
    while (!reached()) {
      if (this.world.now - from > limitMs) throw new Error(`after ${limitMs} ms not yet: ${what}`)
      await this.world.run(this.world.now + 50)
    }
    return this.world.now - from
  }

  untilReady(block: BlockId, count: number, limitMs?: number): Promise<number> {
    return this.until(`${count} of ${block} ready`, () => this.ready(block).length === count, limitMs)
  }

  later(ms: number): Promise<void> {
    return this.world.run(this.world.now + ms)
  }

  /** What all peers together counted. */
  counted(metric: string, labels: Readonly<Record<string, string>>): number {
    return this.world.telemetry.counters.get(`${metric}{${Object.entries(labels).map(([name, value]) => `${name}=${value}`).join(',')}}`) ?? 0
  }

  /** One call from a peer; what it answers, or the error. */
  async call(peer: Peer, block: BlockId, data: Json, deadlineMs = 30_000): Promise<Json> {
    let last: Json = null
    for await (const answer of peer.invoker.infer(block, packet(data), { deadlineMs })) last = answer.data
    return last
  }

  async #start(clock: Clock, { instance, block, emit }: InstanceStart, signal: AbortSignal): Promise<RunningInstance> {
    await clock.sleep(this.manners.startMs, signal)
    this.told.push({ instance, what: 'started', parameters: block.parameters, initData: block.initData })
    if (emit !== undefined) this.emitters.set(instance, emit)
    const { promise: exited, resolve } = Promise.withResolvers<{ readonly because: string; readonly crashed: boolean }>()
    let gone = false
    const leave = (because: string, crashed: boolean): void => {
      gone = true
      resolve({ because, crashed })
    }
    this.crash.set(instance, () => leave('it was killed', true))
    const lives = this.manners.livesMs(instance, block.blockId)
    if (lives !== undefined) clock.after(lives, () => leave('it crashed', true))
    const mustRun = (): void => {
      if (gone) throw new MeshError('INSTANCE_FAILED', `${instance} is gone`)
    }
    const { manners, told, answered } = this
    return {
      async * infer(asked, life) {
        await clock.sleep(manners.serviceMs, life)
        mustRun()
        if (manners.refuses) throw new MeshError('COMPONENT_ERROR', 'it refuses')
        answered.push({ block: block.blockId, data: asked.data })
        yield { ...asked, data: { asked: asked.data, by: instance }, files: [] }
      },
      health: async life => {
        mustRun()
        const said = manners.health(instance, block.blockId)
        if (said === 'silent') return new Promise((_, reject) => life.addEventListener('abort', () => reject(life.reason), { once: true }))
        return said
      },
      management: async (action, data) => ({ action, data, by: instance }),
      update: async parameters => {
        const kept = manners.update(parameters, instance)
        told.push({ instance, what: 'updated', parameters })
        return kept
      },
      logs: tail => ['one', 'two', 'three'].slice(-tail),
      logsFrom: from => ({ next: 3, lines: ['one', 'two', 'three'].slice(from) }),
      usage: () => ({ memoryMb: 1, cpuMs: 1 }),
      metrics: () => ({}),
      exited,
      async [Symbol.asyncDispose]() {
        leave('it was stopped', false)
      },
    }
  }
}

export function packet(data: Json, sessionId = ''): Packet {
  return { sessionId, seqNo: 0, ts: 0, data, files: [] }
}
