import { granted } from '../../protocols/errors.ts'
import type { Json, PeerId } from '../../protocols/ids.ts'
import type { PolicyRule } from '../../protocols/specs.ts'
import { NOTHING_TO_SEE } from '../../simulations/checkers.ts'
import type { Weather } from '../../simulations/links.ts'
import { World, type SimPeer } from '../../simulations/world.ts'
import { Capacity, CAPACITY } from '../../src/capacity/capacity.ts'
import { Policies } from '../../src/policies/calls.ts'
import { Executors } from '../../src/policies/executors.ts'
import { Functions } from '../../src/policies/functions.ts'
import { Graphs } from '../../src/policies/graphs.ts'
import { Jobs } from '../../src/policies/jobs.ts'
import type { Ports, Sandbox } from '../../src/ports.ts'
import { ArtefactCatalogue } from '../../src/registries/catalogue.ts'
import { Library } from '../../src/stores/library.ts'
import { parsePolicyRule } from '../../src/specs/policy.ts'
import { enter } from '../placement/mesh.ts'

/** The parts of a peer that know one another and run rules; what `createPeer` composes, without the rest. */
export class PolicyPeer implements SimPeer {
  readonly ports: Ports
  readonly capacity: Capacity
  readonly catalogue: ArtefactCatalogue
  readonly policies: Policies
  readonly executors: Executors
  readonly jobs: Jobs
  readonly functions: Functions
  readonly graphs: Graphs

  constructor(ports: Ports, labels: Readonly<Record<string, string>>) {
    this.ports = ports
    this.capacity = new Capacity(ports, { ...CAPACITY, advertiser: { ...CAPACITY.advertiser, labels } })
    this.catalogue = new ArtefactCatalogue(ports.registries, ports.content)
    this.policies = new Policies(ports, this.catalogue)
    const may = () => granted(true as const)
    const parts = { view: this.capacity, catalogue: this.catalogue, policies: this.policies, may }
    this.executors = new Executors(ports, parts)
    this.jobs = new Jobs(ports, { ...parts, executors: this.executors })
    this.functions = new Functions(ports, { ...parts, executors: this.executors })
    this.graphs = new Graphs(ports, { ...parts, artefacts: new Library(ports).graphs, functions: this.functions })
  }

  get peer(): PeerId {
    return this.ports.identity.peer
  }

  async start(neighbours: readonly string[]): Promise<void> {
    enter(this.ports, neighbours)
    await this.capacity.start({ free: () => ({ cpuMilli: 1_000, memoryMb: 1_000, diskMb: 1_000, gpus: [] }), instances: () => [], holds: () => [], stewards: () => true })
    this.executors.start()
    await this.functions.start()
    await this.jobs.start()
  }

  inspect(): typeof NOTHING_TO_SEE {
    return NOTHING_TO_SEE
  }

  async stop(): Promise<void> {
    this.jobs.stop()
    this.functions.stop()
    await this.capacity.stop()
  }
}

/** A mesh whose peers know one another. A sandbox of the test's own stands in where it wants to see what runs. */
export async function policyMesh({ peers, seed = 1, weather = { delayMs: [1, 10], loss: 0, duplicate: 0 }, labels = () => ({}), sandbox = given => given }: {
  readonly peers: number; readonly seed?: number; readonly weather?: Weather; readonly labels?: (index: number) => Readonly<Record<string, string>>; readonly sandbox?: (given: Sandbox, ports: Ports) => Sandbox
}): Promise<World<PolicyPeer>> {
  const world: World<PolicyPeer> = new World({
    seed, peers, weather,
    factory: async (ports, host) => {
      host.rights = { mayWrite: () => granted(true), mayOperate: () => granted(true) }
      const peer = new PolicyPeer({ ...ports, sandbox: sandbox(ports.sandbox, ports) }, labels(host.index))
      await peer.start(world.hosts.filter(({ index }) => index !== host.index).map(({ address }) => address))
      return peer
    },
  })
  await world.startAll()
  await world.run(world.now + 4_000)
  return world
}

export function at(world: World<PolicyPeer>, index: number): PolicyPeer {
  const peer = world.peers.get(world.hosts[index]!.peer)
  if (peer === undefined) throw new Error(`host ${index} is down`)
  return peer
}

export async function publish(world: World<PolicyPeer>, name: string, source: string, more: Readonly<Record<string, Json>> = {}): Promise<string> {
  const author = [...world.peers.values()][0]!
  const { code: _, ...rule }: PolicyRule = parsePolicyRule({ name, version: '1', release_tag: 'stable', ...more }, { author: author.peer, code: 'bafkreiabcdefgh' })
  await world.drive(author.catalogue.publishPolicy(rule, source))
  await world.run(world.now + 1_000)
  return rule.policyRuleURI
}
