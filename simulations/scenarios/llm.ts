import { MeshError, refused } from '../../protocols/errors.ts'
import type { Json, Millis } from '../../protocols/ids.ts'
import { modelManifest, type ServedStage } from '../../protocols/model.ts'
import { componentManifest } from '../../protocols/specs.ts'
import { createPeer, type Peer } from '../../src/peer.ts'
import type { Ports } from '../../src/ports.ts'
import { simulatedAnswers } from '../answers.ts'
import { NOTHING_TO_SEE, queuesBounded, viewsConverge, type Checker, type Inspection } from '../checkers.ts'
import { drawFaults, type FaultPlan } from '../faults.ts'
import type { SimulatedHost } from '../host.ts'
import { keepConnected } from '../overlay.ts'
import { SeededRandom } from '../random.ts'
import type { Scenario, ScenarioOptions } from '../scenario.ts'
import { type SimPeer, World } from '../world.ts'
import { Clients, type Door, type Model } from './llm-clients.ts'
import { foundMesh } from './mesh.ts'
import { PLANTED_IN_STAGES, plantedInStages } from './planted-stages.ts'

export const SERVICE = 'simulated'
const DRAFT = 'draft'
const MODEL = 'simulated:1.0.0-stable'
const DEGREE = 8
const READY_MS: Millis = 20_000
const SEATS = 4_096
const SESSIONS = 'sessions at '

export type LlmShape = { readonly stages: number; readonly standbys: number; readonly model: Model; readonly askEveryMs: Millis; readonly prompt: number; readonly tokens: number; /** A small model on every host that guesses ahead, and how often it is wrong. */ readonly draft?: { readonly astray: number; readonly layerMs: number } }

/** A whole peer that serves stages of a model, answers clients, and mirrors. */
export class LlmPeer implements SimPeer {
  readonly peer: Peer
  readonly #host: SimulatedHost

  constructor(peer: Peer, host: SimulatedHost) {
    this.peer = peer
    this.#host = host
  }

  inspect(): Inspection {
    const { view, generations, instances } = this.peer
    const { stages, logs } = generations.inspect()
    return {
      ...NOTHING_TO_SEE,
      live: view.live(),
      queues: [
        { name: 'the disk', size: this.#host.disk.backlog, limit: 4_096 },
        { name: 'boundary logs', size: stages.logBytes, limit: stages.logLimit },
        { name: 'seats', size: stages.seats.length, limit: SEATS },
        ...instances.running().map(({ instance, inFlight }) => ({ name: `${SESSIONS}${instance}`, size: inFlight, limit: SEATS })),
        { name: 'token logs', size: logs.length, limit: 8_192 },
        ...stages.seats.map(({ session, stage, waiting }) => ({ name: `steps of ${session} at stage ${stage}`, size: waiting, limit: 4_096 })),
      ],
      // A host that has died remembers nothing of its seats.
      epochs: new Map(stages.seats.map(({ session, stage, epoch }) => [`${session}/${stage} in life ${this.#host.lives}`, epoch])),
    }
  }

  stop(): Promise<void> {
    return this.peer.stop(1_000)
  }
}

/** A mesh that serves one split model, with clients that ask and follow, under faults. */
export type LlmWorld = { readonly world: World<LlmPeer>; readonly clients: Clients; readonly shape: LlmShape; readonly prepare: () => Promise<void>; readonly random: SeededRandom }

export function drawShape(random: SeededRandom, stages = 2 + random.below(3)): LlmShape {
  const layers = stages * (1 + random.below(3))
  const model: Model = { layers, vocab: 64 + random.below(64), contextTokens: 1_024, kvTokens: 16_384, layerMs: 1 + random.below(4), positionMs: 0.05, astray: 0 }
  return { stages, standbys: 1 + random.below(2), model, askEveryMs: 150 + random.below(500), prompt: 1 + random.below(300), tokens: 16 + random.below(100) }
}

export function llmWorld({ seed, peers, bug, corrupt }: Pick<ScenarioOptions, 'seed' | 'peers' | 'bug'> & { /** Of every host. What fails then may end a generation, when it says why. */ readonly corrupt?: (ports: Ports) => Ports }, shape: LlmShape, faults: Pick<FaultPlan, 'weather'>): LlmWorld {
  const random = new SeededRandom(`llm ${seed}`)
  const planted = plantedInStages(bug)
  let members: ReturnType<typeof foundMesh> = []
  let clients: Clients | undefined
  const world: World<LlmPeer> = new World<LlmPeer>({
    seed,
    peers,
    weather: faults.weather,
    checkEveryMs: 100,
    checkers: [viewsConverge(), queuesBounded(), epochsOnlyRise(), { name: 'tokens are those of an unfailed run', safety: observed => clients?.checker().safety(observed), pending: observed => clients?.checker().pending(observed) }, seatsAreGivenBack(() => clients)],
    ...(planted === undefined ? corrupt === undefined ? {} : { corrupt } : { corrupt: PLANTED_IN_STAGES[planted] }),
    factory: async (ports, host) => {
      const membership = members[host.index]
      if (membership === undefined) throw new Error(`host ${host.index} is no member`)
      host.rights = { mayWrite: () => refused('the peer is still starting', true) }
      const peer = createPeer(ports, { membership, bearerKey: undefined, onGranted: async () => {}, clusterId: ports.identity.peer, labels: {}, answers: simulatedAnswers })
      host.rights = { mayWrite: (...asked) => peer.mayWrite(...asked), mayOperate: (...asked) => peer.mayOperate(...asked) }
      await peer.admission.start()
      keepConnected({ clock: ports.clock, network: ports.network, random: ports.random.fork('overlay') }, { addresses: world.hosts.map(({ address }) => address), degree: DEGREE, everyMs: 1_000 })
      await peer.start()
      return new LlmPeer(peer, host)
    },
  })
  members = foundMesh(world.hosts, random.fork('network'), world.kernel.clock().unix())
  const doors = (): readonly Door[] => [...world.peers].map(([peer, { peer: { generations } }]) => ({ peer, generations, alive: () => world.peers.get(peer)?.peer.generations === generations }))
  clients = new Clients(world.kernel, random.fork('clients'), shape.model, SERVICE, doors, corrupt !== undefined)
  return { world, clients, shape, random, prepare: () => serve(world, shape) }
}

export function drawLlm({ seed, peers, seconds, loss, churn, cuts = true, bug }: ScenarioOptions): Scenario<LlmPeer> & { readonly clients: Clients } {
  const random = new SeededRandom(`llm scenario ${seed}`)
  const spanMs = seconds * 1_000
  const drawn = drawFaults(random.fork('faults'), peers, { ...(loss === undefined ? {} : { loss }), ...(churn === undefined ? {} : { churn }) })
  const faults: FaultPlan = { ...drawn, firstPartitionMs: cuts ? Math.round(spanMs * (0.1 + random.float() * 0.4)) : Infinity, partitionEveryMs: spanMs, partitionMs: [500, Math.min(4_000, Math.round(spanMs / 2))], downMs: [200, Math.min(4_000, Math.round(spanMs / 2))], instanceCrash: drawn.instanceCrash / 10 }
  const shape = drawShape(random.fork('shape'))
  const { world, clients, prepare } = llmWorld({ seed, peers, ...(bug === undefined ? {} : { bug }) }, shape, faults)
  return {
    drawn: { faults, shape },
    world,
    clients,
    prepare,
    work: () => employ(world, clients, shape, random.fork('work'), spanMs),
    runs: () => clients.stories.filter(({ end }) => end !== undefined).length,
    settleMs: 120_000,
  }
}

function employ(world: World<LlmPeer>, clients: Clients, shape: LlmShape, random: SeededRandom, spanMs: Millis): void {
  const clock = world.kernel.clock()
  const end = clock.monotonic() + spanMs
  const again = (): void => {
    if (clock.monotonic() >= end) return
    void clients.ask({ prompt: 1 + random.below(shape.prompt), tokens: 1 + random.below(shape.tokens), temperature: random.below(2) })
    clock.after(shape.askEveryMs, again)
  }
  again()
}

async function serve(world: World<LlmPeer>, { stages, standbys, model, draft }: LlmShape): Promise<void> {
  const [first] = world.peers.values()
  if (first === undefined) return
  const { catalogue, actions, ports } = first.peer
  const author = ports.identity.peer
  const cost = { weightBytes: 1, readBytes: 1, flops: 1 }
  const skeleton = await ports.content.putRecord('no graph: the arithmetic is simulated')
  const file = { path: 'skeleton.onnx', cid: skeleton, size: 1 }
  const { cid } = await catalogue.publishModel(modelManifest.parse({
    modelURI: MODEL, modelId: { name: 'simulated', version: '1.0.0', releaseTag: 'stable' },
    facts: { architecture: 'simulated', hidden: 2, vocab: model.vocab, contextTokens: model.contextTokens, heads: 1, kvHeads: 1, headDim: 1, weights: 'float32', activations: 'float32', parameters: 1, endTokens: [] },
    skeleton: file, pieces: [file], layers: Array.from({ length: model.layers }, () => ({ ...cost, kvBytes: 8, boundaryBytes: 8, piece: 'skeleton.onnx' })), embedding: cost, head: cost, files: [], generation: {}, author,
  }))
  const stage = async (block: string, instances: number, from: number, end: number, of: Model): Promise<ServedStage> => {
    const componentURI = `llm.${block}:1.0.0-stable`
    const parameters: Json = { ...of, first: from, end }
    const { cid: component } = await catalogue.publishComponent(componentManifest.parse({
      componentURI, componentId: { name: block, version: '1.0.0', releaseTag: 'stable' }, componentType: 'llm', runtime: { name: 'llm', model: 'stage.onnx', format: 'onnx' }, files: [],
      needs: { cpuMilli: 500, memoryMb: 256 }, componentParameters: parameters, author,
    }))
    await actions.createBlock({ blockId: block, blockComponentURI: componentURI, minInstances: instances, maxInstances: instances + 1 })
    return { block, first: from, end, componentURI, component }
  }
  const served: ServedStage[] = []
  for (let at = 0; at < stages; at += 1) served.push(await stage(`${SERVICE}-s${at}`, 1 + standbys, Math.round((at * model.layers) / stages), Math.round(((at + 1) * model.layers) / stages), model))
  const record = { modelURI: MODEL, model: cid, contextTokens: model.contextTokens, sessions: 16, owner: author, revision: 0 }
  if (draft !== undefined) await catalogue.putService({ ...record, service: DRAFT, standbys: world.hosts.length - 1, stages: [await stage(`${DRAFT}-s0`, world.hosts.length, 0, model.layers, { ...model, ...draft })] })
  await catalogue.putService({ ...record, service: SERVICE, standbys, stages: served, ...(draft === undefined ? {} : { draft: DRAFT }) })
  const until = ports.clock.deadline(READY_MS)
  try {
    for (const { peer } of world.peers.values()) {
      while (await peer.catalogue.served(SERVICE) === undefined) await ports.clock.sleep(50, until)
      while (draft !== undefined && !peer.view.instancesOf(`${DRAFT}-s0`).some(({ host, ad }) => host === peer.view.self && ad.state === 'ready')) await ports.clock.sleep(50, until)
      for (const { block } of served) while (peer.view.instancesOf(block).filter(({ ad }) => ad.state === 'ready').length <= standbys) await ports.clock.sleep(50, until)
    }
  } catch (error) {
    // What does not come up now must once the faults have stopped.
    if (!(error instanceof MeshError)) throw error
  }
}

/** Invariant 2 at the stages: what a seat obeys only rises for as long as its host lives. */
function epochsOnlyRise(): Checker {
  const highest = new Map<string, number>()
  return {
    name: 'highest epoch obeyed',
    safety: ({ running }) => {
      for (const [peer, { epochs }] of running) {
        for (const [seat, epoch] of epochs) {
          const known = highest.get(`${peer} ${seat}`) ?? 0
          if (epoch < known) return `${peer} obeys epoch ${epoch} at ${seat} after ${known}`
          highest.set(`${peer} ${seat}`, epoch)
        }
      }
      return undefined
    },
    pending: () => undefined,
  }
}

/** Invariant 10: when all generations have ended nobody holds anything for them any more. */
function seatsAreGivenBack(clients: () => Clients | undefined): Checker {
  return {
    name: 'seats are given back',
    safety: () => undefined,
    pending: ({ running }) => {
      if (clients()?.stories.some(({ session, end }) => session !== undefined && end === undefined) === true) return undefined
      for (const [peer, { epochs, queues }] of running) {
        if (epochs.size > 0) return `${peer} still has ${epochs.size} seats, ${[...epochs.keys()][0]} among them`
        const kept = queues.find(({ name, size }) => name.startsWith(SESSIONS) && size > 0)
        if (kept !== undefined) return `${peer} still has ${kept.size} ${kept.name}`
      }
      return undefined
    },
  }
}
