import { CALM } from '../../simulations/links.ts'
import { type Inspection, NOTHING_TO_SEE } from '../../simulations/checkers.ts'
import type { SimulatedHost } from '../../simulations/host.ts'
import { World } from '../../simulations/world.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Json, Millis, PeerId, RunId } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import type { RunEvent } from '../../protocols/runs.ts'
import { blockRecord, vdagSpec, type BlockRecord, type VdagSpec } from '../../protocols/specs.ts'
import type { Ports } from '../../src/ports.ts'
import type { CallOptions, Catalogue, Invoker, MeshView, PolicyCalls } from '../../src/roles.ts'
import { compatible } from '../../src/specs/template.ts'
import { RunEngine, type RunConfig } from '../../src/vdag/engine.ts'

type Change = Parameters<Parameters<MeshView['onChange']>[0]>
type Behaviour = (data: Json, call: { readonly count: number; readonly options: CallOptions }) => Json
type NodeSpec = Partial<VdagSpec['nodes'][number]> & { readonly label: string }

/** One call of a block: on purpose nothing is remembered by key, so that every call is a run of the node. */
export type Call = { readonly block: string; readonly label: string; readonly run: string; readonly by: PeerId; readonly at: Millis }

class FakePeer {
  readonly engine: RunEngine
  readonly ports: Ports
  readonly hears = new Set<(...change: Change) => void>()

  constructor(ports: Ports, mesh: FakeMesh) {
    this.ports = ports
    ports.network.onConnection(peer => ports.network.admit(peer))
    this.engine = new RunEngine(ports, { view: mesh.view(ports.network.self, this.hears), invoker: mesh.invoker(ports), policies: mesh.policies, catalogue: mesh.catalogue, compatible }, mesh.config)
  }

  inspect(): Inspection {
    return { ...NOTHING_TO_SEE, runs: this.engine.inspect() }
  }

  async stop(): Promise<void> {
    this.engine.stop()
  }
}

/** A few simulated hosts with a RunEngine each, and blocks that answer without instances. */
export class FakeMesh {
  readonly world: World<FakePeer>
  readonly config: Partial<RunConfig>
  readonly calls: Call[] = []
  readonly vdags = new Map<string, VdagSpec>()
  readonly blocks = new Map<string, BlockRecord>()
  readonly behaviours = new Map<string, Behaviour>()
  readonly rules = new Map<string, (input: Json, settings: Readonly<Record<string, Json>>) => Json>()
  /** Blocks that answer nothing. */
  readonly silent = new Set<string>()
  serviceMs: readonly [Millis, Millis] = [5, 60]
  readonly #dead = new Set<PeerId>()

  constructor(seed = 1, peers = 3, config: Partial<RunConfig> = {}) {
    this.config = config
    this.world = new World<FakePeer>({ seed, peers, weather: CALM, factory: async ports => new FakePeer(ports, this) })
  }

  async up(): Promise<this> {
    await this.world.startAll(0)
    await this.world.drive(Promise.all([...this.world.peers.values()].map(async ({ engine }) => {
      await engine.start()
      await engine.resume()
    })))
    await this.drive(Promise.all([...this.world.peers.values()].flatMap(({ ports }) => this.world.hosts.filter(({ peer }) => peer !== ports.network.self).map(({ address }) => ports.network.dial([address], new AbortController().signal)))))
    return this
  }

  host(index: number): SimulatedHost {
    return this.world.hosts[index]!
  }

  peer(index: number): FakePeer {
    const peer = this.world.peers.get(this.host(index).peer)
    if (peer === undefined) throw new Error(`host ${index} is down`)
    return peer
  }

  engine(index: number): RunEngine {
    return this.peer(index).engine
  }

  drive<T>(work: Promise<T>, limit?: Millis): Promise<T> {
    return this.world.drive(work, limit)
  }

  /** kill -9; the others notice `noticeMs` later. */
  crash(index: number, noticeMs = 1_000): void {
    this.world.crash(this.host(index))
    this.world.kernel.after(noticeMs, () => {
      if (!this.host(index).running) this.believeDead(index)
    })
  }

  /** The others take a peer for dead; it may be on the far side of a partition. */
  believeDead(index: number): void {
    const { peer } = this.host(index)
    this.#dead.add(peer)
    for (const [other, { hears }] of this.world.peers) if (other !== peer) for (const hear of hears) hear(peer, 'dead')
  }

  believeAlive(index: number): void {
    const { peer } = this.host(index)
    this.#dead.delete(peer)
    for (const [other, { hears }] of this.world.peers) if (other !== peer) for (const hear of hears) hear(peer, 'alive')
  }

  async restart(index: number): Promise<void> {
    // The others hear of the reset connections first.
    await this.world.run(this.world.now + 100)
    this.#dead.delete(this.host(index).peer)
    await this.drive(this.world.start(this.host(index)))
    const { engine } = this.peer(index)
    await this.drive(engine.start().then(() => engine.resume()))
    this.believeAlive(index)
  }

  addBlock(id: string, behaviour: Behaviour = data => ({ [id]: data }), record: Partial<BlockRecord> = {}): void {
    this.blocks.set(id, blockRecord.parse({ blockId: id, componentURI: `node.${id}:1.0.0-stable`, component: 'bafyreiabcdefgh', runtime: { name: 'node' }, minInstances: 1, maxInstances: 1, needs: {}, owner: this.host(0).peer, revision: 0, ...record }))
    this.behaviours.set(id, behaviour)
  }

  /** `edges` as `a>b`; nodes are blocks of their own label unless said otherwise. Adds the blocks that are missing. */
  addVdag(uri: string, nodes: readonly (string | NodeSpec)[], edges: readonly string[], ends: { readonly inputs?: string[]; readonly outputs?: string[] } = {}): string {
    this.vdags.set(uri, graphOf(uri, nodes, edges, ends))
    for (const { blockId } of this.vdags.get(uri)!.nodes) if (blockId !== undefined && !this.blocks.has(blockId)) this.addBlock(blockId)
    return uri
  }

  view(self: PeerId, hears: Set<(...change: Change) => void>): MeshView {
    const live = (): PeerId[] => this.world.hosts.map(({ peer }) => peer).filter(peer => !this.#dead.has(peer)).sort()
    return {
      self,
      ads: () => [],
      ad: () => undefined,
      live,
      state: peer => (this.#dead.has(peer) ? 'dead' : 'alive'),
      instancesOf: () => [],
      onChange: hear => {
        hears.add(hear)
        return () => hears.delete(hear)
      },
      onLife: hear => {
        const ear = (...[peer, what]: Change): void => {
          if (what !== 'ad') hear(peer, what)
        }
        hears.add(ear)
        return () => hears.delete(ear)
      },
    }
  }

  invoker(ports: Ports): Invoker {
    const unused = (): never => {
      throw new Error('runs only infer')
    }
    const random = ports.random.fork('blocks')
    return {
      infer: (block, packet, options) => this.#infer(ports, random.float(), block, packet, options),
      management: unused, update: unused, health: unused, logs: unused,
    }
  }

  async * #infer(ports: Ports, draw: number, block: string, packet: Packet, options: CallOptions): AsyncGenerator<Packet> {
    const label = options.vdag?.label ?? ''
    this.calls.push({ block, label, run: options.vdag?.run ?? '', by: ports.network.self, at: ports.clock.unix() })
    options.onInstance?.('in-fake', ports.network.self)
    const [least, most] = this.serviceMs
    await ports.clock.sleep(Math.round(least + draw * (most - least)), options.signal)
    const behaviour = this.behaviours.get(block)
    if (behaviour === undefined) throw new MeshError('NO_INSTANCE', `no instance of ${block}`)
    if (!this.silent.has(block)) yield { ...packet, data: behaviour(packet.data, { count: this.calls.filter(call => call.block === block).length, options }) }
  }

  readonly policies: PolicyCalls = {
    decide: async call => {
      const rule = this.rules.get(call.rule?.policyRuleURI ?? '')
      if (rule === undefined) return { value: call.fallback(), by: 'default', because: 'no rule' }
      try {
        const verdict = call.accept(rule(call.input, call.settings ?? {}))
        if (verdict.ok) return { value: verdict.value, by: 'policy', because: '' }
        return { value: call.fallback(), by: 'fallback', because: verdict.because }
      } catch (error) {
        return { value: call.fallback(), by: 'fallback', because: String(error) }
      }
    },
  }

  readonly catalogue: Catalogue = {
    component: async uri => {
      throw new MeshError('NOT_FOUND', `no component ${uri}`)
    },
    componentByCid: async cid => {
      throw new MeshError('NOT_FOUND', `no component ${cid}`)
    },
    components: async () => [],
    policy: async uri => {
      throw new MeshError('NOT_FOUND', `no policy ${uri}`)
    },
    vdag: async uri => {
      const spec = this.vdags.get(uri)
      if (spec === undefined) throw new MeshError('NOT_FOUND', `no vDAG is called ${uri}`)
      return { spec, cid: 'bafyreiabcdefgh' }
    },
    vdags: async () => [],
    asset: async uri => {
      throw new MeshError('NOT_FOUND', `no asset ${uri}`)
    },
    block: async id => this.blocks.get(id),
    blocks: async () => [...this.blocks.values()].sort((a, b) => (a.blockId < b.blockId ? -1 : 1)),
    onBlock: () => () => {},
  }

  /** All events of a run as `index` reads them, to its end. */
  async events(index: number, run: RunId, limit = 60_000): Promise<RunEvent[]> {
    const engine = this.engine(index)
    const signal = this.world.kernel.clock().deadline(limit)
    const events: RunEvent[] = []
    await this.drive((async () => {
      for await (const event of engine.follow(run, 0, signal)) events.push(event)
    })(), limit + 1_000)
    return events
  }

  /** Calls of nodes by a coordinator who could read that they were done: there must be none. */
  rerun(run: RunId, events: readonly RunEvent[]): readonly Call[] {
    const doneIn = new Map<string, number>()
    const claims: { readonly peer: PeerId; readonly epoch: number; readonly at: Millis }[] = []
    for (const event of events) {
      if (event.type === 'coordinator') claims.push(event)
      if (event.type === 'finished') doneIn.set(event.label, claims.at(-1)?.epoch ?? 0)
    }
    // A peer's call and its events bear the time of one clock.
    const epochOf = (call: Call): number => claims.findLast(({ peer, at }) => peer === call.by && at <= call.at)?.epoch ?? 0
    return this.calls.filter(call => call.run === run && epochOf(call) > (doneIn.get(call.label) ?? Infinity))
  }
}

export function graphOf(uri: string, nodes: readonly (string | NodeSpec)[], edges: readonly string[], ends: { readonly inputs?: string[]; readonly outputs?: string[] } = {}): VdagSpec {
  const [name = '', version = '1.0.0-stable'] = uri.split(':')
  return vdagSpec.parse({
    vdagURI: uri,
    vdagName: name,
    vdagVersion: { version, releaseTag: 'stable' },
    nodes: nodes.map(node => (typeof node === 'string' ? { label: node, type: 'block', blockId: node } : { type: node.vdagURI === undefined ? 'block' : 'vdag', ...(node.vdagURI === undefined && node.componentURI === undefined && node.assignmentPolicyRule === undefined ? { blockId: node.label } : {}), ...node })),
    edges: edges.map(edge => {
      const [from = '', to = ''] = edge.split('>')
      return { from, to }
    }),
    inputs: ends.inputs ?? [],
    outputs: ends.outputs ?? [],
  })
}
