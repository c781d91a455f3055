import { MeshError, refused } from '../../protocols/errors.ts'
import type { Json, Millis } from '../../protocols/ids.ts'
import { componentManifest } from '../../protocols/specs.ts'
import { createPeer, type Peer } from '../../src/peer.ts'
import { ALL_RIGHTS, issue } from '../../src/trust/capability.ts'
import { foundNetwork, type Membership } from '../../src/trust/invitation.ts'
import { acknowledgedSurvives, blocksReachTheirLeast, highestEpochObeyed, type Inspection, ledgerNeverOverPromised, NOTHING_TO_SEE, oneResultPerRun, queuesBounded, viewsConverge } from '../checkers.ts'
import { drawFaults } from '../faults.ts'
import type { SimulatedHost } from '../host.ts'
import { keepConnected } from '../overlay.ts'
import { SeededRandom } from '../random.ts'
import type { Scenario, ScenarioOptions } from '../scenario.ts'
import { type SimPeer, World } from '../world.ts'

const YEAR = 365 * 86_400_000
const DEGREE = 6
const COMPONENT = 'node.simulated:1.0.0-stable'

type Work = { readonly blocks: number; readonly instances: number; readonly runEveryMs: number }

/** The peer itself, whole, as the daemon composes it. */
class MeshPeer implements SimPeer {
  readonly peer: Peer
  readonly #blocks: readonly string[]
  readonly #instances: number

  constructor(peer: Peer, blocks: readonly string[], instances: number) {
    this.peer = peer
    this.#blocks = blocks
    this.#instances = instances
  }

  inspect(): Inspection {
    const { view, placement, runs } = this.peer
    const contracts = placement.contracts()
    const mine = this.#blocks.filter(block => placement.stewardOf(block) === view.self)
    return {
      ...NOTHING_TO_SEE,
      total: placement.total(),
      promised: placement.promised(),
      epochs: placement.epochs(),
      contracts: contracts.map(({ contract: { id, block, instance, epoch, steward } }) => ({ id, block, instance, epoch, steward })),
      runs: runs.inspect(),
      live: view.live(),
      stewarded: mine.map(block => ({ block, ready: view.instancesOf(block).filter(({ ad }) => ad.state === 'ready').length, least: this.#instances })),
    }
  }

  stop(): Promise<void> {
    return this.peer.stop(1_000)
  }
}

/** Members of one network that publish, place, keep and use blocks, under faults. */
export function drawMesh({ seed, peers, loss, churn }: ScenarioOptions): Scenario<MeshPeer> {
  const random = new SeededRandom(`mesh ${seed}`)
  const faults = drawFaults(random.fork('faults'), peers, { ...(loss === undefined ? {} : { loss }), ...(churn === undefined ? {} : { churn }) })
  const work: Work = { blocks: 1 + random.below(4), instances: 1 + random.below(3), runEveryMs: 500 + random.below(1_500) }
  const blocks = Array.from({ length: work.blocks }, (_, at) => `block-${at}`)
  let members: readonly Membership[] = []
  const world: World<MeshPeer> = new World<MeshPeer>({
    seed,
    peers,
    weather: faults.weather,
    checkEveryMs: peers > 50 ? 250 : 50,
    checkers: [ledgerNeverOverPromised(), highestEpochObeyed(), oneResultPerRun(), acknowledgedSurvives(), queuesBounded(), viewsConverge(), blocksReachTheirLeast()],
    factory: async (ports, host) => {
      const membership = members[host.index]
      if (membership === undefined) throw new Error(`host ${host.index} is no member`)
      host.rights = { mayWrite: () => refused('the peer is still starting', true) }
      const peer = createPeer(ports, { membership, bearerKey: undefined, onGranted: async () => {}, clusterId: ports.identity.peer, labels: {} })
      host.rights = { mayWrite: (writer, registry) => peer.mayWrite(writer, registry), mayOperate: writer => peer.admission.may(writer, 'operate') }
      await peer.admission.start()
      keepConnected({ clock: ports.clock, network: ports.network, random: ports.random.fork('overlay') }, { addresses: world.hosts.map(({ address }) => address), degree: DEGREE, everyMs: 1_000 })
      await peer.start()
      return new MeshPeer(peer, blocks, work.instances)
    },
  })
  members = foundMesh(world.hosts, random.fork('network'), world.kernel.clock().unix())
  return { drawn: { faults, work }, world, work: () => employ(world, blocks, work, random.fork('work')), settleMs: 120_000 }
}

/** The first host founded the network and signed everybody's capability before the story begins. */
function foundMesh(hosts: readonly SimulatedHost[], random: SeededRandom, now: Millis): readonly Membership[] {
  const [founder] = hosts
  if (founder === undefined) return []
  const root = foundNetwork(founder.identity, random, 'simulated', now)
  return hosts.map(host => {
    if (host === founder) return root
    const link = issue(founder.identity, { network: root.network, subject: host.peer, rights: [...ALL_RIGHTS], notBefore: now, expires: now + YEAR, nonce: `${host.index}` })
    return { ...root, chain: [link, ...root.chain] }
  })
}

function employ(world: World<MeshPeer>, blocks: readonly string[], work: Work, random: SeededRandom): void {
  const clock = world.kernel.clock()
  const anybody = (): Peer | undefined => {
    const running = [...world.peers.values()]
    return running.length === 0 ? undefined : random.pick(running).peer
  }
  /** Refused and unreachable is everyday; anything else surfaces. */
  const attempt = (doing: Promise<unknown>): void => {
    doing.catch(error => {
      if (!(error instanceof MeshError)) throw error
    })
  }
  attempt(publish(world, blocks, work))
  const submit = (at: number): void => {
    attempt(anybody()?.actions.submit('simulated:1.0.0-stable', { at }, { key: `key-${at}` }) ?? Promise.resolve())
    clock.after(work.runEveryMs, () => submit(at + 1))
  }
  clock.after(3_000, () => submit(0))
}

async function publish(world: World<MeshPeer>, blocks: readonly string[], work: Work): Promise<void> {
  const [first] = world.peers.values()
  if (first === undefined) return
  const { catalogue, actions, ports } = first.peer
  await catalogue.publishComponent(componentManifest.parse({
    componentURI: COMPONENT, componentId: { name: 'simulated', version: '1.0.0', releaseTag: 'stable' }, componentType: 'node', runtime: { name: 'node', entry: 'main.ts' }, files: [],
    needs: { cpuMilli: 500, memoryMb: 256 }, author: ports.identity.peer,
  }))
  for (const blockId of blocks) {
    const document: Json = { blockId, blockComponentURI: COMPONENT, minInstances: work.instances, maxInstances: work.instances + 2 }
    await actions.createBlock(document)
  }
  const nodes = blocks.map(blockId => ({ label: blockId, nodeType: 'block', assignmentPolicyRule: {}, manualBlockId: blockId }))
  const connections = blocks.slice(1).map((blockId, at) => ({ nodeLabel: blockId, inputs: [{ nodeLabel: blocks[at] ?? '' }] }))
  await actions.createVdag({ vdagName: 'simulated', vdagVersion: { version: '1.0.0', releaseTag: 'stable' }, nodes, graph: { connections } })
}
