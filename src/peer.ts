import type { Verdict } from '../protocols/errors.ts'
import type { Millis, PeerId } from '../protocols/ids.ts'
import type { Right } from '../protocols/membership.ts'
import type { RegistryName } from '../protocols/registry.ts'
import { Actions } from './actions.ts'
import { Assets } from './assets/assets.ts'
import { Replicas, type ReplicaConfig } from './assets/replicas.ts'
import { Calls } from './blocks/calls.ts'
import { composeBlockLife, type BlockLife } from './blocks/block-life.ts'
import { Instances } from './blocks/instances.ts'
import { BlockInvoker } from './blocks/invoker.ts'
import type { Outside } from './blocks/sayings.ts'
import { Belonging } from './clusters/belonging.ts'
import { BlockGovernance } from './clusters/block-governance.ts'
import { ClusterBook } from './clusters/cluster-book.ts'
import { Clusters } from './clusters/clusters.ts'
import { ClusterGroups } from './clusters/groups.ts'
import { NetworkBook } from './clusters/network-book.ts'
import { Prechecks } from './clusters/prechecks.ts'
import { Stability } from './clusters/stability.ts'
import { Capacity, CAPACITY, type CapacityConfig } from './capacity/capacity.ts'
import { Controllers } from './controllers/controllers.ts'
import { Gate } from './controllers/gate.ts'
import { Reviews } from './controllers/reviews.ts'
import { HealthWatch } from './controllers/health-watch.ts'
import { Inference } from './inference/inference.ts'
import { ServerQuota } from './inference/server-quota.ts'
import { ModelServing } from './llm/serve/serving.ts'
import { SplitPlacement } from './llm/serve/split-placement.ts'
import { Inventory } from './inventory.ts'
import { HostMetrics } from './metrics/host-metrics.ts'
import { MeshMetrics } from './metrics/mesh-metrics.ts'
import { ruleSettings } from './metrics/rule-settings.ts'
import type { Answers } from './llm/answer.ts'
import { SplitGenerations, type GenerationConfig } from './llm/generations.ts'
import { ModelTexts } from './llm/text/model-texts.ts'
import { TextAnswers } from './llm/text/text-answers.ts'
import { Parser } from './parser.ts'
import { AdhocAllocation } from './placement/adhoc-allocation.ts'
import { Placement, PLACEMENT, type PlacementConfig } from './placement/placement.ts'
import { Policies } from './policies/calls.ts'
import { Executors } from './policies/executors.ts'
import { Functions } from './policies/functions.ts'
import { Graphs } from './policies/graphs.ts'
import { Jobs } from './policies/jobs.ts'
import type { Ports } from './ports.ts'
import { ThirdParty } from './blocks/third-party.ts'
import { ArtefactCatalogue } from './registries/catalogue.ts'
import { mayOperateKey, mayWriteKey } from './registries/rights.ts'
import { compatible } from './specs/template.ts'
import { Library } from './stores/library.ts'
import { openShelves, type Shelves } from './stores/shelves.ts'
import { Templates } from './stores/templates.ts'
import { Caretaker } from './tasks/caretaker.ts'
import { Keys } from './tasks/keys.ts'
import { TaskBook } from './tasks/task-book.ts'
import { Admission } from './trust/admission.ts'
import { readGenesis, type Membership } from './trust/invitation.ts'
import { RunEngine, type RunConfig } from './vdag/engine.ts'

export type PeerConfig = {
  readonly membership: Membership
  /** The one-time key of the invite this peer enters by. */
  readonly bearerKey: Uint8Array | undefined
  /** Keeps the membership this peer was granted; durable when it resolves. */
  readonly onGranted: (membership: Membership) => Promise<void>
  readonly clusterId: string
  readonly labels: Readonly<Record<string, string>>
  readonly capacity?: Partial<Omit<CapacityConfig, 'isMember' | 'resolve'>>
  readonly placement?: Partial<Omit<PlacementConfig, 'maySteward'>>
  readonly runs?: Partial<RunConfig>
  readonly generations?: Partial<GenerationConfig>
  readonly replicas?: Partial<ReplicaConfig>
  /** How messages to side-cars leave the mesh; none do without. */
  readonly outside?: Outside
  /** Where this peer's HTTP door is. */
  readonly door?: () => string | undefined
  /** What turns logits into tokens and text. */
  readonly answers?: Answers
}

export type Peer = {
  readonly ports: Ports
  readonly admission: Admission
  readonly view: Capacity
  readonly catalogue: ArtefactCatalogue
  readonly policies: Policies
  /** AIOS's other kinds of execution: rules evaluated elsewhere, once and long, kept running, and in graphs. */
  readonly executors: Executors
  readonly jobs: Jobs
  readonly functions: Functions
  readonly graphs: Graphs
  readonly instances: Instances
  readonly invoker: BlockInvoker
  readonly placement: Placement
  /** What is asked of running blocks, who brings it to their steward, and what is done when something fails. */
  readonly blocks: BlockLife['actions']
  readonly control: BlockLife['control']
  readonly failures: BlockLife['failures']
  readonly runs: RunEngine
  readonly generations: SplitGenerations
  readonly actions: Actions
  readonly models: ModelServing
  /** Stages of models on nodes that somebody, or a rule, chose. */
  readonly splits: SplitPlacement
  readonly parser: Parser
  readonly inference: Inference
  readonly gate: Gate
  /** What waits for a person. */
  readonly reviews: Reviews
  readonly controllers: Controllers
  readonly health: HealthWatch
  readonly inventory: Inventory
  readonly assets: Assets
  readonly thirdParty: ThirdParty
  readonly metrics: MeshMetrics
  readonly clusters: Clusters
  readonly groups: ClusterGroups
  /** The network's document, and the rules it sets for everybody. */
  readonly network: NetworkBook
  readonly prechecks: Prechecks
  readonly stability: Stability
  readonly library: Library
  readonly shelves: Shelves
  readonly templates: Templates
  readonly tasks: TaskBook
  /** Who does what must be done once. */
  readonly keys: Keys
  readonly allocator: AdhocAllocation
  /** Tokenizers and chat templates of the network's models. */
  readonly texts: ModelTexts
  /** The right a registry asks of its writers. */
  mayWrite(writer: PeerId, registry: RegistryName, key: string): Verdict<true>
  /** May it change a key that another peer claimed? */
  mayOperate(writer: PeerId, registry: RegistryName, key: string): Verdict<true>
  /** Takes part: advertises, bids, stewards, resumes what it had before a crash. Admission is started before. */
  start(): Promise<void>
  /** Says goodbye, drains its instances, stops. */
  stop(drainMs: Millis): Promise<void>
}

/** The whole peer, minus the outside world. The daemon and the simulator call this and nothing else. */
export function createPeer(ports: Ports, config: PeerConfig): Peer {
  const admission = new Admission(ports, config.membership, config.bearerKey, config.onGranted)
  const may = (peer: PeerId, right: Right): Verdict<true> => admission.may(peer, right)
  const isMember = (peer: PeerId): boolean => admission.rights(peer).length > 0
  const self = ports.identity.peer
  const founded = readGenesis(ports.identity, config.membership.genesis)
  const book = new ClusterBook(ports.registries)
  const network = new NetworkBook(ports.registries, { id: config.membership.network, name: founded.name, owner: founded.owner, self })
  const belonging = new Belonging(ports, book, config.clusterId)
  const capacity = new Capacity(ports, { ...CAPACITY, ...config.capacity, isMember, resolve: ad => book.resolve(ad), advertiser: { ...CAPACITY.advertiser, ...config.capacity?.advertiser, cluster: config.clusterId, labels: config.labels } })
  admission.onProved(peer => capacity.proved(peer))
  const keys = new Keys(ports, capacity, () => capacity.settled())
  const catalogue = new ArtefactCatalogue(ports.registries, ports.content)
  const texts = new ModelTexts(catalogue, ports.content, ports.clock)
  const policies = new Policies(ports, catalogue)
  const executors = new Executors(ports, { view: capacity, policies, may })
  const jobs = new Jobs(ports, { view: capacity, catalogue, policies, executors, may })
  const functions = new Functions(ports, { view: capacity, catalogue, executors, may })
  const own = (): string => (book.lists(belonging.cluster, self) ? belonging.cluster : self)
  const instances = new Instances(ports, catalogue, policies, own)
  const metrics = new MeshMetrics(ports, capacity, new HostMetrics(ports, { instances, vdags: { measured: () => gate.measured() } }, own))
  policies.lendFrom((wanted, input, given) => ruleSettings(wanted, input, given, { metrics, blocks: () => catalogue.blocks(), cluster: id => book.document(id, capacity.ads().filter(ad => ad.cluster === id)) }))
  const prechecks = new Prechecks(policies, { network: action => network.rule(action), cluster: (cluster, action) => book.get(cluster)?.rules[action] })
  const stability = new Stability(ports, { view: capacity, book, policies, own })
  const governed = new BlockGovernance({ view: capacity, clusters: book, prechecks, metrics, own })
  const clusters = new Clusters(ports, config.membership.network, { admission, view: capacity, catalogue, book, belonging, prechecks, stability, metrics })
  const placement = new Placement(ports, { view: capacity, catalogue, policies, instances, metrics, governance: { clusters: book, prechecks, bids: () => stability.bids() }, knowsMost: () => capacity.knowsMost() }, { ...PLACEMENT, ...config.placement, maySteward: peer => admission.may(peer, 'host') })
  const calls = new Calls(ports, instances, placement, (peer, right) => admission.may(peer, right), (block, command) => governed.command(block, command))
  const invoker = new BlockInvoker(ports, capacity, calls, catalogue, policies, metrics)
  const runs = new RunEngine(ports, { view: capacity, invoker, policies, catalogue, compatible, settled: () => capacity.settled() }, config.runs)
  const generations = new SplitGenerations(ports, { view: capacity, models: catalogue, instances: { stage: (...asked) => instances.stage(...asked), onExit: hear => instances.onExit(hear) }, book: placement, answers: config.answers ?? new TextAnswers(texts), may: peer => admission.may(peer, 'join') }, config.generations)
  const library = new Library(ports)
  const graphs = new Graphs(ports, { view: capacity, artefacts: library.graphs, functions, may })
  const inventory = new Inventory(capacity, catalogue, policies, { library, metrics, clusters: book })
  inventory.lookThrough({ policyFunctions: () => functions.list(), policyGraphs: () => library.documents.graphs.documents() })
  const reviews = new Reviews(ports, { view: capacity, keys, may })
  const gate = new Gate(ports, { view: capacity, catalogue, policies, reviews })
  const blockLife = composeBlockLife(ports, { view: capacity, catalogue, policies, instances, invoker, placement, metrics, governed, clusters: book, network, runs, reviews, may: (peer, right) => admission.may(peer, right), outside: config.outside, door: config.door ?? (() => undefined) })
  const controllers = new Controllers(ports, { admission, view: capacity, catalogue, gate, clusters: book, prechecks, metrics })
  const health = new HealthWatch(ports, { controllers, catalogue, policies, gate, assign: spec => runs.assignment(spec) })
  const thirdParty = new ThirdParty(ports, { view: capacity, catalogue, policies })
  const actions = new Actions(ports, { thirdParty, admission, gate, controllers, view: capacity, catalogue, placement, runs, governed })
  const models = new ModelServing(ports, { view: capacity, catalogue, placement, may: (peer, right) => admission.may(peer, right) })
  const splits = new SplitPlacement({ view: capacity, models, inventory, policies, metrics })
  const replicas = new Replicas(ports, { view: capacity, catalogue }, config.replicas)
  const assets = new Assets(ports, { catalogue, replicas, may })
  const templates = new Templates(ports.clock, library.templates, policies)
  const tasks = new TaskBook(ports)
  const caretaker = new Caretaker(ports, { book: tasks, view: capacity, mayClose: peer => admission.may(peer, 'operate').ok })
  const parser = new Parser(ports, { actions, clusters, blocks: blockLife.actions, invoker, inventory, models, catalogue, templates, specs: library.specs, tasks, keys })
  const allocator = new AdhocAllocation(ports, { view: capacity, inventory, policies, metrics, catalogue, placement })
  const shelves = openShelves(ports, { library, view: capacity, actions, inventory, catalogue, graphs, stages: () => parser.stages() })
  const inference = new Inference(ports, { actions, invoker, inventory, runs, catalogue, gate, quota: new ServerQuota(ports, policies) })
  return {
    ports, admission, view: capacity, catalogue, policies, executors, jobs, functions, graphs, instances, invoker, placement, blocks: blockLife.actions, control: blockLife.control, failures: blockLife.failures, runs, generations, actions, models, splits, parser, inference, inventory, assets, thirdParty, texts, gate, reviews, controllers, health, metrics, clusters, groups: new ClusterGroups(ports, may), network, prechecks, stability, library, shelves, templates, tasks, keys, allocator,
    mayWrite(writer, registry, key) {
      const verdict = mayWriteKey(may, writer, registry, key)
      return verdict.ok && registry === 'networks' ? network.mayWrite(writer, key) : verdict
    },
    mayOperate: (writer, registry, key) => (registry === 'networks' ? network.mayWrite(writer, key) : mayOperateKey(may, writer, registry, key)),
    async start() {
      await Promise.all([book.open(), network.open(), placement.open()])
      await belonging.open(() => placement.contracts().length)
      book.onChange(() => capacity.reviewed())
      belonging.onChange(() => capacity.changed())
      clusters.start()
      stability.start()
      health.start()
      placement.onChange(() => capacity.changed())
      await metrics.start()
      calls.start()
      blockLife.start()
      gate.start()
      models.start()
      executors.start()
      await functions.start()
      await capacity.start({ free: () => placement.uncontracted(), instances: () => placement.instances(), holds: () => placement.holds(), stewards: () => placement.stewards(), cluster: () => belonging.cluster, labels: () => belonging.labels() })
      await placement.start()
      await runs.start()
      await runs.resume()
      await generations.open()
      await jobs.start()
      replicas.start()
      thirdParty.start()
      await keys.start()
      await caretaker.start(id => parser.resume(id))
    },
    async stop(drainMs) {
      caretaker.stop()
      replicas.stop()
      health.stop()
      stability.stop()
      belonging.stop()
      runs.stop()
      await generations.stop()
      blockLife.stop()
      placement.stop()
      jobs.stop()
      functions.stop()
      await instances.stopAll(drainMs)
      policies.close()
      await capacity.stop()
      admission.stop()
    },
  }
}
