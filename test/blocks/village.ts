import assert from 'node:assert/strict'
import type { InstanceAd } from '../../protocols/capacity.ts'
import { granted, MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import type { BlockId, InstanceId, Json, PeerId } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import type { Right } from '../../protocols/membership.ts'
import type { Contract } from '../../protocols/placement.ts'
import { componentManifest, blockRecord, policyRule, type BlockRecord } from '../../protocols/specs.ts'
import { NOTHING_TO_SEE } from '../../simulations/checkers.ts'
import type { SimulatedHost } from '../../simulations/host.ts'
import { World, type SimPeer } from '../../simulations/world.ts'
import { Calls } from '../../src/blocks/calls.ts'
import { Instances } from '../../src/blocks/instances.ts'
import { BlockInvoker } from '../../src/blocks/invoker.ts'
import { HostMetrics } from '../../src/metrics/host-metrics.ts'
import { MeshMetrics } from '../../src/metrics/mesh-metrics.ts'
import { Policies } from '../../src/policies/calls.ts'
import type { Backend, Clock, InstanceStart, Ports, RunningInstance } from '../../src/ports.ts'
import type { CallOptions, ContractBook, MeshView } from '../../src/roles.ts'

export const BLOCK = 'answers'

/** What the code of an instance does with one packet. */
export type Code = (packet: Packet, at: { readonly instance: InstanceId; readonly clock: Clock; readonly signal: AbortSignal; readonly start: InstanceStart }) => AsyncIterable<Packet>

/** Answers what it was asked, and where. */
export const echo: Code = async function * (packet, { instance }) {
  yield { ...packet, data: { asked: packet.data, by: instance }, files: [] }
}

/** A block whose instances, contracts and ads a test places by hand, on hosts whose every other part is real. */
export class Village {
  readonly world: World<Villager>
  readonly seen = { started: 0, ran: [] as Json[], stopped: [] as InstanceId[], ads: 0 }
  code: Code = echo
  startMs = 10
  /** What each instance says of itself, as its SDK does. */
  reported: Json = {}
  block: BlockRecord
  blocks: readonly BlockRecord[]
  /** Rules by URI: the source of a policy module. */
  readonly rules = new Map<string, string>()
  readonly released: string[] = []
  readonly ads = new Map<InstanceId, { readonly host: PeerId; readonly ad: InstanceAd }>()
  readonly #ears = new Set<Parameters<MeshView['onChange']>[0]>()
  readonly #blockEars = new Set<(id: BlockId, block: BlockRecord | undefined) => void>()

  constructor(peers: number, block: Partial<BlockRecord> = {}) {
    this.block = blockRecord.parse({
      blockId: BLOCK, componentURI: 'node.answers:1.0.0-stable', component: 'bafyreiabcdefgh', runtime: { name: 'node', version: '1' }, minInstances: 1, maxInstances: 9,
      needs: { cpuMilli: 100, memoryMb: 64, gpus: 0, gpuMemoryMb: 0, diskMb: 10 }, owner: '12D3KooWowner', revision: 1, ...block,
    })
    this.blocks = [this.block]
    this.world = new World<Villager>({ seed: 7, peers, factory: async (ports, host) => new Villager(this, ports, host) })
  }

  async open(): Promise<this> {
    await this.world.startAll()
    for (const one of this.world.hosts) for (const other of this.world.hosts) if (one.index < other.index) await this.world.drive(this.at(one.index).ports.network.dial([other.address], new AbortController().signal), 10_000)
    return this
  }

  at(index: number): Villager {
    const host = this.world.hosts[index]
    const villager = host === undefined ? undefined : this.world.peers.get(host.peer)
    assert(villager !== undefined, `nobody is at home at ${index}`)
    return villager
  }

  /** Runs an instance on a host, under a contract of its own, and advertises it. */
  async place(index: number, instance: InstanceId, epoch = 1, load: Partial<InstanceAd> = {}): Promise<void> {
    const villager = this.at(index)
    const contract = villager.promise(instance, epoch, this.block)
    await this.world.drive(villager.instances.start(contract, this.block, new AbortController().signal), 10_000)
    this.advertise(villager.ports.network.self, contract, load)
  }

  advertise(host: PeerId, { instance, id, block, component, epoch, steward }: Contract, load: Partial<InstanceAd> = {}): void {
    this.ads.set(instance, { host, ad: { block, instance, contract: id, component, epoch, steward, state: 'ready', inFlight: 0, queued: 0, latencyMs: 10, ...load } })
    this.tell(host, 'ad')
  }

  tell(peer: PeerId, what: Parameters<Parameters<MeshView['onChange']>[0]>[1]): void {
    for (const hear of this.#ears) hear(peer, what)
  }

  withdraw(id: BlockId): void {
    this.blocks = this.blocks.filter(({ blockId }) => blockId !== id)
    for (const hear of this.#blockEars) hear(id, undefined)
  }

  /** Everybody's view: what the test advertised, of those it has not declared dead. */
  view(self: PeerId): MeshView {
    return {
      self, ads: () => [], ad: () => undefined, live: () => [], state: () => 'alive',
      instancesOf: block => [...this.ads.values()].filter(({ ad }) => ad.block === block).sort((a, b) => (a.ad.instance < b.ad.instance ? -1 : 1)),
      onChange: hear => {
        this.#ears.add(hear)
        return () => this.#ears.delete(hear)
      },
      onLife: hear => {
        const ear = (peer: PeerId, what: Parameters<Parameters<MeshView['onChange']>[0]>[1]): void => {
          if (what !== 'ad') hear(peer, what)
        }
        this.#ears.add(ear)
        return () => this.#ears.delete(ear)
      },
    }
  }

  get listeners(): number {
    return this.#ears.size
  }

  onBlock(hear: (id: BlockId, block: BlockRecord | undefined) => void): () => void {
    this.#blockEars.add(hear)
    return () => this.#blockEars.delete(hear)
  }

  policy(uri: string): ReturnType<ConstructorParameters<typeof Policies>[1]['policy']> {
    const source = this.rules.get(uri)
    if (source === undefined) return Promise.reject(new MeshError('NOT_FOUND', `no policy ${uri}`))
    const [name = '', rest = ''] = uri.split(':')
    const [version = '', releaseTag = ''] = rest.split('-')
    return Promise.resolve({ source, rule: policyRule.parse({ policyRuleURI: uri, name, version, releaseTag, code: 'bafkreiabcdefgh', codeType: 'js_module_v1', author: '12D3KooWauthor' }) })
  }
}

/** One host of the village: instances, calls and invoker over simulated ports. */
export class Villager implements SimPeer, ContractBook {
  readonly ports: Ports
  readonly instances: Instances
  readonly calls: Calls
  readonly invoker: BlockInvoker
  readonly metrics: MeshMetrics
  readonly policies: Policies
  readonly #held = new Map<InstanceId, Contract>()
  /** Members that lack a right. */
  readonly without = new Map<PeerId, readonly Right[]>()

  constructor(village: Village, ports: Ports, host: SimulatedHost) {
    this.ports = { ...ports, backend: backendOf(village, ports.clock) }
    const { network } = ports
    network.onConnection(peer => network.admit(peer))
    const catalogue = {
      policy: (uri: string) => village.policy(uri),
      componentByCid: async () => componentManifest.parse({
        componentURI: village.block.componentURI, componentId: { name: 'answers', version: '1.0.0', releaseTag: 'stable' }, componentType: 'node', runtime: village.block.runtime, files: [], needs: village.block.needs, author: host.peer,
      }),
      block: async (id: BlockId) => village.blocks.find(({ blockId }) => blockId === id),
      onBlock: (hear: (id: BlockId, block: BlockRecord | undefined) => void) => village.onBlock(hear),
    }
    this.policies = new Policies(this.ports, catalogue)
    const policies = {
      decide: this.policies.decide.bind(this.policies),
      release: (scope: string) => {
        village.released.push(scope)
        this.policies.release(scope)
      },
    }
    this.instances = new Instances(this.ports, catalogue, policies, () => 'cluster')
    this.calls = new Calls(this.ports, this.instances, this, (peer, right) => (this.without.get(peer)?.includes(right) === true ? refused(`${peer} lacks ${right}`, right === 'join') : granted(true)))
    this.calls.start()
    this.metrics = new MeshMetrics(this.ports, village.view(network.self), new HostMetrics(this.ports, { instances: this.instances, vdags: { measured: () => [] } }, () => 'cluster'))
    this.invoker = new BlockInvoker(this.ports, village.view(network.self), this.calls, catalogue, policies, this.metrics)
  }

  promise(instance: InstanceId, epoch: number, block: BlockRecord): Contract {
    const self = this.ports.network.self
    const contract: Contract = { id: `ct-${instance}`, block: block.blockId, instance, component: block.componentURI, steward: self, host: self, needs: block.needs, gpus: [], epoch, leaseMs: 30_000, issuedAt: 0 }
    this.#held.set(instance, contract)
    return contract
  }

  contracts(): readonly { readonly contract: Contract; readonly block: BlockRecord; readonly leaseEnds: number }[] {
    return []
  }

  fence(instance: InstanceId, epoch: number): Verdict<Contract> {
    const contract = this.#held.get(instance)
    if (contract === undefined) return refused(`no contract for ${instance}`, true)
    return contract.epoch === epoch ? granted(contract) : refused(`${instance} is under epoch ${contract.epoch}, not ${epoch}`, true)
  }

  inspect(): typeof NOTHING_TO_SEE {
    return NOTHING_TO_SEE
  }

  async stop(): Promise<void> {}
}

function backendOf(village: Village, clock: Clock): Backend {
  return {
    runtimes: () => ['node'],
    async start(start, signal) {
      await clock.sleep(village.startMs, signal)
      village.seen.started += 1
      return scripted(village, clock, start)
    },
  }
}

function scripted(village: Village, clock: Clock, start: InstanceStart): RunningInstance {
  const { promise: exited, resolve } = Promise.withResolvers<{ readonly because: string; readonly crashed: boolean }>()
  const { instance } = start
  return {
    async * infer(packet, signal) {
      village.seen.ran.push(packet.data)
      try {
        yield * village.code(packet, { instance, clock, signal, start })
      } catch (error) {
        if (error instanceof Error && error.message === 'crash') {
          resolve({ because: 'it crashed', crashed: true })
          throw new MeshError('INSTANCE_FAILED', `${instance} crashed`)
        }
        throw error
      }
    },
    health: async () => ({ healthy: true, detail: { status: 'healthy' } }),
    management: async (action, data) => {
      if (action === `fail ${instance}`) throw new MeshError('COMPONENT_ERROR', `${instance} will not`)
      return { action, data }
    },
    update: async parameters => parameters,
    logs: tail => ['one', 'two', 'three'].slice(-tail),
    usage: () => ({ memoryMb: 1, cpuMs: 1 }),
    metrics: () => village.reported,
    exited,
    async [Symbol.asyncDispose]() {
      village.seen.stopped.push(instance)
      resolve({ because: 'it was stopped', crashed: false })
    },
  }
}

export function packet(data: Json, sessionId = 's'): Packet {
  return { sessionId, seqNo: 0, ts: 0, data, files: [] }
}

export async function collect(outputs: AsyncIterable<Packet>): Promise<readonly Json[]> {
  const all: Json[] = []
  for await (const { data } of outputs) all.push(data)
  return all
}

/** Calls the block from a host and gathers what it answers. */
export function ask(village: Village, from: number, data: Json, options: Partial<CallOptions> & { readonly session?: string } = {}): Promise<readonly Json[]> {
  const { session, ...rest } = options
  return village.world.drive(asking(village, from, data, { ...rest, ...(session === undefined ? {} : { session }) }), 600_000)
}

/** The same, for tests that let other things happen meanwhile. */
export function asking(village: Village, from: number, data: Json, options: Partial<CallOptions> & { readonly session?: string } = {}): Promise<readonly Json[]> {
  const { session, ...rest } = options
  return collect(village.at(from).invoker.infer(BLOCK, packet(data, session), { deadlineMs: 10_000, ...rest }))
}
