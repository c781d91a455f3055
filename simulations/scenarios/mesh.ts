import { MeshError, refused } from '../../protocols/errors.ts'
import type { BlockId, Json, Millis } from '../../protocols/ids.ts'
import { componentManifest, type BlockRecord } from '../../protocols/specs.ts'
import { createPeer, type Peer } from '../../src/peer.ts'
import { ALL_RIGHTS, issue } from '../../src/trust/capability.ts'
import { foundNetwork, type Membership } from '../../src/trust/invitation.ts'
import { acknowledgedSurvives, blocksReachTheirLeast, highestEpochObeyed, type Inspection, ledgerNeverOverPromised, noCompletedNodeRunAgain, oneResultPerRun, queuesBounded, viewsConverge } from '../checkers.ts'
import { drawFaults, type FaultPlan } from '../faults.ts'
import type { SimulatedHost } from '../host.ts'
import { keepConnected } from '../overlay.ts'
import { SeededRandom } from '../random.ts'
import type { Scenario, ScenarioOptions } from '../scenario.ts'
import { type SimPeer, World } from '../world.ts'
import { Evidence } from './evidence.ts'
import { MeshInspection } from './mesh-inspection.ts'
import { PLANTED, plantedBug } from './planted.ts'

const YEAR = 365 * 86_400_000
const DEGREE = 6
const COMPONENT = 'node.simulated:1.0.0-stable'
const VDAG = 'simulated:1.0.0-stable'

/** How long the first instances are waited for. */
const READY_MS = 5_000
/** Part of the runs that somebody asks for again, elsewhere. */
const ASKED_AGAIN = 0.3

type Work = { readonly blocks: number; readonly instances: number; readonly cpuMilli: number; readonly runEveryMs: number }

/** The peer itself, whole, as the daemon composes it. */
export class MeshPeer implements SimPeer {
  readonly peer: Peer
  readonly #host: SimulatedHost
  readonly #least: number
  readonly #evidence: Evidence

  constructor(peer: Peer, host: SimulatedHost, least: number, evidence: Evidence) {
    this.peer = peer
    this.#evidence = evidence
    this.#host = host
    this.#least = least
  }

  inspect(): Inspection {
    return new MeshInspection(this.peer, this.#host, this.#least, this.#evidence)
  }

  stop(): Promise<void> {
    return this.peer.stop(1_000)
  }
}

/** Members of one network that publish, place, keep and use blocks, under faults. `bug`: a mistake made on every host, for the checkers to find. */
export function drawMesh({ seed, peers, seconds, loss, churn, cuts = true, changeEveryMs, bug }: ScenarioOptions): Scenario<MeshPeer> {
  const random = new SeededRandom(`mesh ${seed}`)
  const drawn = drawFaults(random.fork('faults'), peers, { ...(loss === undefined ? {} : { loss }), ...(churn === undefined ? {} : { churn }) })
  const spanMs = seconds * 1_000
  // Whatever the span, something happens in it: a cut in its first half, and time for the crashed to come back.
  const faults: FaultPlan = { ...drawn, firstPartitionMs: cuts ? Math.round(spanMs * (0.1 + random.float() * 0.4)) : Infinity, partitionEveryMs: spanMs, partitionMs: [500, Math.min(4_000, Math.round(spanMs / 2))], downMs: [200, Math.min(4_000, Math.round(spanMs / 2))] }
  const work: Work = { blocks: 1 + random.below(4), instances: 1 + random.below(3), cpuMilli: 500 * (1 + random.below(4)), runEveryMs: 100 + random.below(400) }
  const blocks = Array.from({ length: work.blocks }, (_, at) => `block-${at}`)
  const evidence = new Evidence(() => world.now, () => world.network.links.whole)
  const planted = plantedBug(bug)
  let members: readonly Membership[] = []
  const world: World<MeshPeer> = new World<MeshPeer>({
    seed,
    peers,
    weather: faults.weather,
    checkEveryMs: 250,
    checkers: [
      ledgerNeverOverPromised(), highestEpochObeyed(), viewsConverge(), evidence.acknowledgedBlocksAreKept(), blocksReachTheirLeast(), oneResultPerRun(run => evidence.apart(run)),
      noCompletedNodeRunAgain(execution => evidence.node(execution), execution => evidence.completedAt(execution)), acknowledgedSurvives(), evidence.acknowledgedRunsEnd(), queuesBounded(),
    ],
    ...(planted === undefined ? {} : { corrupt: PLANTED[planted] }),
    factory: async (given, host) => {
      const membership = members[host.index]
      if (membership === undefined) throw new Error(`host ${host.index} is no member`)
      const ports = { ...given, journal: evidence.watch(given.journal, host) }
      host.rights = { mayWrite: () => refused('the peer is still starting', true) }
      const peer = createPeer(ports, { membership, bearerKey: undefined, onGranted: async () => {}, clusterId: ports.identity.peer, labels: {} })
      host.rights = { mayWrite: (...asked) => peer.mayWrite(...asked), mayOperate: (...asked) => peer.mayOperate(...asked) }
      await peer.admission.start()
      keepConnected({ clock: ports.clock, network: ports.network, random: ports.random.fork('overlay') }, { addresses: world.hosts.map(({ address }) => address), degree: DEGREE, everyMs: 1_000 })
      await peer.start()
      return new MeshPeer(peer, host, work.instances, evidence)
    },
  })
  members = foundMesh(world.hosts, random.fork('network'), world.kernel.clock().unix())
  return {
    drawn: { faults, work },
    world,
    prepare: () => publish(world, blocks, work, evidence),
    work: () => {
      employ(world, work, evidence, random.fork('work'), spanMs)
      if (changeEveryMs !== undefined) change(world, blocks, work, random.fork('changes'), { spanMs, everyMs: changeEveryMs })
    },
    runs: () => evidence.runs,
    settleMs: 60_000,
  }
}

/** The first host founded the network and signed everybody's capability before the story begins. */
export function foundMesh(hosts: readonly SimulatedHost[], random: SeededRandom, now: Millis): readonly Membership[] {
  const [founder] = hosts
  if (founder === undefined) return []
  const root = foundNetwork(founder.identity, random, 'simulated', now)
  return hosts.map(host => {
    if (host === founder) return root
    const link = issue(founder.identity, { network: root.network, subject: host.peer, rights: [...ALL_RIGHTS], notBefore: now, expires: now + YEAR, nonce: `${host.index}` })
    return { ...root, chain: [link, ...root.chain] }
  })
}

/** For `spanMs`, asks anybody for a run now and then, and somebody else for the same run again. */
function employ(world: World<MeshPeer>, work: Work, evidence: Evidence, random: SeededRandom, spanMs: Millis): void {
  const clock = world.kernel.clock()
  const end = clock.monotonic() + spanMs
  const ask = (at: number): Promise<void> => anybody(world, random, async ({ actions }) => {
    const { run } = await actions.submit(VDAG, { at }, { key: `key-${at}` })
    evidence.runAcknowledged(run)
  })
  const again = (at: number): void => {
    if (clock.monotonic() >= end) return
    void ask(at)
    if (random.float() < ASKED_AGAIN) clock.after(random.below(Math.min(2_000, end - clock.monotonic())), () => void ask(at))
    clock.after(work.runEveryMs, () => again(at + 1))
  }
  again(0)
}

/** For `spanMs`, has anybody change what one of the blocks is started with, now and then in the middle of the last change. */
function change(world: World<MeshPeer>, blocks: readonly BlockId[], work: Work, random: SeededRandom, { spanMs, everyMs }: { readonly spanMs: Millis; readonly everyMs: Millis }): void {
  const clock = world.kernel.clock()
  const end = clock.monotonic() + spanMs
  const again = (at: number): void => {
    if (clock.monotonic() >= end) return
    void anybody(world, random, async ({ actions }) => void await actions.changeBlock({ ...documentOf(random.pick(blocks), work), parameters: { at } }))
    clock.after(1 + random.below(2 * everyMs), () => again(at + 1))
  }
  again(1)
}

/** Has one of those who run do something. Refused and unreachable is everyday; anything else surfaces. */
async function anybody(world: World<MeshPeer>, random: SeededRandom, work: (peer: Peer) => Promise<void>): Promise<void> {
  const running = [...world.peers.values()]
  if (running.length === 0) return
  try {
    await work(random.pick(running).peer)
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
  }
}

function documentOf(blockId: BlockId, { instances }: Work): { readonly [field: string]: Json } {
  return { blockId, blockComponentURI: COMPONENT, minInstances: instances, maxInstances: instances + 2 }
}

async function publish(world: World<MeshPeer>, blocks: readonly string[], work: Work, evidence: Evidence): Promise<void> {
  const [first] = world.peers.values()
  if (first === undefined) return
  const { catalogue, actions, ports } = first.peer
  await catalogue.publishComponent(componentManifest.parse({
    componentURI: COMPONENT, componentId: { name: 'simulated', version: '1.0.0', releaseTag: 'stable' }, componentType: 'node', runtime: { name: 'node', entry: 'main.ts' }, files: [],
    needs: { cpuMilli: work.cpuMilli, memoryMb: 256 }, author: ports.identity.peer,
  }))
  const records: BlockRecord[] = []
  for (const blockId of blocks) {
    records.push((await actions.createBlock(documentOf(blockId, work))).block)
    evidence.blockAcknowledged(blockId)
  }
  const nodes = blocks.map(blockId => ({ label: blockId, nodeType: 'block', assignmentPolicyRule: {}, manualBlockId: blockId }))
  const connections = blocks.slice(1).map((blockId, at) => ({ nodeLabel: blockId, inputs: [{ nodeLabel: blocks[at] ?? '' }] }))
  const ready = Promise.all(records.map(record => actions.waitReady(record, work.instances, ports.clock.deadline(READY_MS))))
  await actions.createVdag({ vdagName: 'simulated', vdagVersion: { version: '1.0.0', releaseTag: 'stable' }, nodes, graph: { connections } })
  // What does not come up now must once the faults have stopped.
  await ready.catch(error => {
    if (!(error instanceof MeshError)) throw error
  })
}
