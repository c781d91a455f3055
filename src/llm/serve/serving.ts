import type { CapacityAd } from '../../../protocols/capacity.ts'
import { MeshError, type Verdict } from '../../../protocols/errors.ts'
import { blockId, type Cid, type Json, type Millis, type PeerId } from '../../../protocols/ids.ts'
import type { Right } from '../../../protocols/membership.ts'
import type { ModelManifest, ServedModel, ServedStage } from '../../../protocols/model.ts'
import type { Needs } from '../../../protocols/resources.ts'
import type { BlockRecord, ComponentManifest } from '../../../protocols/specs.ts'
import type { Ports, Random } from '../../ports.ts'
import type { MeshView } from '../../roles.ts'
import type { Placement } from '../../placement/placement.ts'
import type { ArtefactCatalogue } from '../../registries/catalogue.ts'
import { toJson } from '../../lib/json.ts'
import { parseBlock } from '../../specs/block.ts'
import { analyse, type ModelAnalysis } from '../onnx/analyse.ts'
import { decodeModel } from '../onnx/codec.ts'
import type { Skeleton } from '../onnx/skeleton.ts'
import { leastBottleneck } from '../plan/bottleneck.ts'
import type { Distance } from '../plan/plan-hosts.ts'
import { planModel, type ModelPlan, type PlanWish } from '../plan/plan-model.ts'
import { planReplicas, type ReplicaPlan } from '../plan/plan-replicas.ts'
import { stageThreads } from '../plan/stage-needs.ts'
import { Distances } from './distances.ts'
import { stageComponent } from './stage-component.ts'

const FETCH_MS: Millis = 120_000
/** A refusal is planned around this often; then the mesh is too full or too restless. */
const PLANS = 5
/** How long after an award its instance may take to show in the ads; stewards who see it place none of their own. */
const SHOWN_MS: Millis = 3_000
const LOOK_MS: Millis = 50
const SKELETON_BYTES = 268_435_456
const CONTEXT_TOKENS = 4_096
const SESSIONS = 4

/** What a person asks for; what is not said follows from the model and the mesh. */
export type ServeWish = {
  readonly shards?: number | 'auto' | undefined
  readonly aim?: PlanWish['aim'] | undefined
  readonly contextTokens?: number | undefined
  readonly sessions?: number | undefined
  /** Only hosts that carry these, now and whenever a stage is placed anew. */
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** The hosts of its stages, first to last, where somebody else has decided. */
  readonly order?: readonly PeerId[] | undefined
  /** No others are planned with. */
  readonly among?: readonly PeerId[] | undefined
}
export type ServeOptions = ServeWish & { readonly service?: string | undefined; /** Of each stage; by default what its weights keep busy of the hosts' cores. */ readonly threads?: number | undefined; readonly standbys?: number | undefined; /** A small served model of the same vocabulary that guesses ahead, or the service's own name: by what its text repeats. */ readonly draft?: string | undefined }

export type Planned = { readonly model: string; readonly wish: PlanWish; readonly plan: ModelPlan }
export type Serving = { readonly served: ServedModel; readonly plan: ModelPlan; readonly blocks: readonly BlockRecord[]; /** Hosts that would not, and were planned around. */ readonly refusals: readonly { readonly host: PeerId; readonly because: string }[] }

export type StageComponent = { readonly manifest: ComponentManifest; readonly cid: Cid }

export type LayerRange = { readonly first: number; readonly end: number }

/** Plans imported models over the hosts there are, and serves them: every stage placed by negotiation, or none. */
export class ModelServing {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'content' | 'telemetry'>
  readonly #random: Random
  readonly #view: MeshView
  readonly #catalogue: ArtefactCatalogue
  readonly #placement: Pick<Placement, 'placeTogether'>
  readonly #may: (peer: PeerId, right: Right) => Verdict<true>
  readonly #distances: Distances

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'content' | 'network' | 'telemetry'>, parts: { readonly view: MeshView; readonly catalogue: ArtefactCatalogue; readonly placement: Pick<Placement, 'placeTogether'>; readonly may: (peer: PeerId, right: Right) => Verdict<true> }) {
    this.#ports = ports
    this.#random = ports.random.fork('models')
    this.#view = parts.view
    this.#catalogue = parts.catalogue
    this.#placement = parts.placement
    this.#may = parts.may
    this.#distances = new Distances(ports)
  }

  start(): void {
    this.#distances.start()
  }

  /** Who would get which layers now. Throws NOT_FOUND, NO_CAPACITY with what is missing. */
  async plan(uri: string, wish: ServeWish): Promise<Planned> {
    const { manifest } = await this.#catalogue.model(uri, this.#ports.clock.deadline(FETCH_MS))
    return this.#plan(manifest, planWish(manifest, wish), new Map())
  }

  /** Which layers every host would offer if all served the model at once. Throws NOT_FOUND, NO_CAPACITY. */
  async replicas(uri: string, wish: ServeWish): Promise<ReplicaPlan> {
    const { manifest } = await this.#catalogue.model(uri, this.#ports.clock.deadline(FETCH_MS))
    const { ads, distance } = await this.#hosts()
    const verdict = planReplicas(manifest, ads, planWish(manifest, wish), { origin: this.#view.self, distance }, this.#random)
    if (!verdict.ok) throw new MeshError('NO_CAPACITY', verdict.because)
    return verdict.value
  }

  async #hosts(): Promise<{ readonly ads: readonly CapacityAd[]; readonly distance: Distance }> {
    const ads = this.#view.ads().filter(({ peer }) => this.#view.state(peer) === 'alive' || peer === this.#view.self)
    return { ads, distance: await this.#distances.between(ads.map(({ peer }) => peer)) }
  }

  async #plan(manifest: ModelManifest, wish: PlanWish, avoid: ReadonlyMap<PeerId, string>): Promise<Planned> {
    const { ads, distance } = await this.#hosts()
    const verdict = planModel(manifest, ads, wish, { origin: this.#view.self, distance, avoid })
    if (!verdict.ok) throw new MeshError(verdict.retryable ? 'NO_CAPACITY' : 'BAD_INPUT', verdict.because)
    return { model: manifest.modelURI, wish, plan: verdict.value }
  }

  /**
   * Serves a model under a name. Each stage's host is asked and holds the room; only when all have bid is any awarded. Who
   * refuses is planned around, a few times. Throws NOT_FOUND, ALREADY_EXISTS, FORBIDDEN, NO_CAPACITY with the reasons; then nothing
   * was placed. The blocks are in the registry when it resolves: their stewards add the standbys and keep all of them alive.
   */
  async serve(uri: string, options: ServeOptions): Promise<Serving> {
    this.#need('operate')
    this.#need('publish')
    const { clock, identity } = this.#ports
    const signal = clock.deadline(FETCH_MS)
    const { manifest, cid } = await this.#catalogue.model(uri, signal)
    const service = serviceName(options.service ?? manifest.modelId.name)
    if ((await this.#catalogue.served(service))?.service === service) throw new MeshError('ALREADY_EXISTS', `${service} is served already: choose another --service, or stop that one with \`aios model remove ${service}\``)
    const wish = planWish(manifest, options)
    const { among } = options
    const avoid = new Map<PeerId, string>(among === undefined ? [] : this.#view.ads().filter(({ peer }) => !among.includes(peer)).map(({ peer }) => [peer, 'is not among those asked for']))
    const graph = await this.#graph(manifest, signal)
    const refusals: { readonly host: PeerId; readonly because: string }[] = []
    for (let round = 0; round < PLANS; round += 1) {
      const { plan } = await this.#plan(manifest, wish, avoid).catch(error => {
        throw refusals.length === 0 ? error : new MeshError('NO_CAPACITY', `${refusals.map(said).join('; ')}; without them: ${error instanceof MeshError ? error.message : String(error)}`, { cause: error })
      })
      const standbys = options.standbys ?? (this.#view.ads().filter(({ runtimes }) => runtimes.some(({ name }) => name === 'llm')).length > 1 ? 1 : 0)
      const components = await this.#components(manifest, graph, plan.stages)
      const cores = Math.min(...plan.stages.map(({ peer }) => Math.floor((this.#view.ad(peer)?.total.cpuMilli ?? 0) / 1_000)))
      const blocks = plan.stages.map((stage, at) => {
        const threads = options.threads ?? stageThreads(manifest, stage.first, stage.end, cores)
        return stageBlock(service, at, components[at]!, { needs: stage.needs, threads, standbys }, wish, identity.peer)
      })
      // Beyond any epoch of blocks that were served under this name before, which hosts still remember.
      const epoch = Math.floor(clock.unix() / 1_000)
      const { verdict, refusers } = await this.#placement.placeTogether(blocks.map((block, at) => ({ block, host: plan.stages[at]!.peer })), epoch)
      if (!verdict.ok && refusers.length === 0) throw new MeshError('FORBIDDEN', verdict.because)
      if (!verdict.ok) {
        for (const refuser of refusers) {
          refusals.push(refuser)
          avoid.set(refuser.host, `refused: ${refuser.because}`)
        }
        this.#ports.telemetry.event('info', 'model.replanned', { service, because: verdict.because })
        continue
      }
      const stages = plan.stages.map(({ first, end }, at): ServedStage => ({ block: blocks[at]!.blockId, first, end, componentURI: blocks[at]!.componentURI, component: blocks[at]!.component }))
      const served: ServedModel = { service, modelURI: manifest.modelURI, model: cid, stages, contextTokens: wish.contextTokens, sessions: wish.sessions, standbys, ...(options.draft === undefined ? {} : { draft: options.draft }), owner: identity.peer, revision: 0 }
      await this.#register(served, blocks)
      return { served, plan, blocks, refusals }
    }
    throw new MeshError('NO_CAPACITY', `${PLANS} plans for ${manifest.modelURI} found a host that refused: ${refusals.map(said).join('; ')}`)
  }

  /** Into so many parts of about equal cost, by what layers, embedding and head read. Throws NOT_FOUND, SPEC_INVALID. */
  async cut(uri: string, parts: number): Promise<readonly LayerRange[]> {
    const { manifest } = await this.#catalogue.model(uri, this.#ports.clock.deadline(FETCH_MS))
    const { layers, embedding, head } = manifest
    const host = { peer: '', memoryBytes: Infinity, legMs: 0, layerMs: layers.map(({ readBytes }) => readBytes), embeddingMs: embedding.readBytes, headMs: head.readBytes }
    const plan = leastBottleneck({ hosts: Array.from({ length: parts }, () => host), layerBytes: layers.map(() => 0), embeddingBytes: 0, headBytes: 0, stageBytes: 0, hop: () => 0 }, { stages: parts })
    if (plan === undefined) throw new MeshError('SPEC_INVALID', `${manifest.modelURI} has ${layers.length} layers: it cannot be cut into ${parts} parts`)
    return plan.stages
  }

  /** What a splitter has to know of a model. Throws NOT_FOUND. */
  async facts(uri: string): Promise<Json> {
    const { manifest } = await this.#catalogue.model(uri, this.#ports.clock.deadline(FETCH_MS))
    const { facts, layers, embedding, head, modelURI } = manifest
    return toJson({ modelURI, facts, layers, embedding, head })
  }

  /** Publishes the component of each of these ranges, which cover the model in order. Throws NOT_FOUND, SPEC_INVALID, FORBIDDEN. */
  async split(uri: string, ranges: readonly LayerRange[]): Promise<readonly StageComponent[]> {
    this.#need('publish')
    const signal = this.#ports.clock.deadline(FETCH_MS)
    const { manifest } = await this.#catalogue.model(uri, signal)
    const covered = ranges.reduce((at, { first, end }) => (first === at && end > first ? end : NaN), 0)
    if (covered !== manifest.layers.length) throw new MeshError('SPEC_INVALID', `the parts must cover layers 0 to ${manifest.layers.length} one after the other, without gap or overlap`)
    return this.#components(manifest, await this.#graph(manifest, signal), ranges)
  }

  /** Stops serving under a name: the record goes first, so that nobody starts another session. Throws NOT_FOUND, FORBIDDEN. */
  async unserve(service: string): Promise<ServedModel> {
    this.#need('operate')
    const served = (await this.#catalogue.services()).find(one => one.service === service)
    if (served === undefined) throw new MeshError('NOT_FOUND', `nothing is served as ${service}: \`aios model list\` shows what is`)
    await this.#catalogue.withdrawService(service)
    for (const { block } of served.stages) if (await this.#catalogue.block(block) !== undefined) await this.#catalogue.withdrawBlock(block)
    return served
  }

  /** Instances show in the ads before the blocks are known, so that no steward places what is there already. */
  async #register(served: ServedModel, blocks: readonly BlockRecord[]): Promise<void> {
    const { clock } = this.#ports
    const until = clock.monotonic() + SHOWN_MS
    while (clock.monotonic() < until && blocks.some(({ blockId: id }) => this.#view.instancesOf(id).length === 0)) await clock.sleep(LOOK_MS)
    for (const block of blocks) await this.#catalogue.putBlock(block)
    await this.#catalogue.putService(served)
  }

  async #graph(manifest: ModelManifest, signal: AbortSignal): Promise<{ readonly skeleton: Skeleton; readonly analysis: ModelAnalysis }> {
    if (manifest.skeleton.size > SKELETON_BYTES) throw new MeshError('SPEC_INVALID', `the graph of ${manifest.modelURI} has ${manifest.skeleton.size} bytes; the limit is ${SKELETON_BYTES}`)
    const bytes = new Uint8Array(manifest.skeleton.size)
    let at = 0
    for await (const chunk of this.#ports.content.cat(manifest.skeleton.cid, { signal })) {
      bytes.set(chunk, at)
      at += chunk.byteLength
    }
    const skeleton = { model: decodeModel(bytes) }
    return { skeleton, analysis: analyse(skeleton) }
  }

  async #components(manifest: ModelManifest, { skeleton, analysis }: { readonly skeleton: Skeleton; readonly analysis: ModelAnalysis }, ranges: readonly LayerRange[]): Promise<readonly StageComponent[]> {
    const published: StageComponent[] = []
    for (const { first, end } of ranges) {
      const { draft, own, pieces } = stageComponent(manifest, skeleton, analysis, { first, end }, manifest.author)
      const files = [...pieces]
      for (const { path, bytes } of own) {
        const { cid, size } = await this.#ports.content.add(once(bytes))
        files.push({ path, cid, size })
      }
      const component = { ...draft, files: files.sort((a, b) => (a.path < b.path ? -1 : 1)) }
      const { cid } = await this.#catalogue.publishComponent(component)
      published.push({ manifest: component, cid })
    }
    return published
  }

  #need(right: Right): void {
    const verdict = this.#may(this.#ports.identity.peer, right)
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `this peer may not do that: ${verdict.because}`)
  }
}

function planWish({ facts }: ModelManifest, { shards = 'auto', aim = 'latency', contextTokens, sessions = SESSIONS, labels = {}, order }: ServeWish): PlanWish {
  return { shards: order?.length ?? shards, order, aim, sessions, labels, contextTokens: contextTokens ?? Math.min(facts.contextTokens, CONTEXT_TOKENS) }
}

/** The block of one stage. What was promised decides its room; the component is the same for every promise. */
function stageBlock(service: string, at: number, component: StageComponent, { needs, threads, standbys }: { readonly needs: Needs; readonly threads: number; readonly standbys: number }, { contextTokens, sessions, labels = {} }: PlanWish, owner: PeerId): BlockRecord {
  const id = `${service}-s${at}`
  return parseBlock({
    blockId: id, blockComponentURI: component.manifest.componentURI, minInstances: 1 + standbys, maxInstances: 1 + standbys, needs, labels,
    blockInitData: { kvTokens: contextTokens * sessions, threads, service, stage: at }, tags: ['llm-stage', service],
  }, component, { owner, newId: () => id })
}

/** A name that block ids can begin with. Throws BAD_INPUT. */
export function serviceName(wanted: string): string {
  const name = wanted.toLowerCase().replace(/[^a-z0-9-]+/g, '-').replace(/^-+|-+$/g, '')
  if (name === '' || name.length > 200 || !blockId.safeParse(name).success) throw new MeshError('BAD_INPUT', `${JSON.stringify(wanted)} cannot be a service's name: use lower-case letters, digits and inner hyphens`)
  return name
}

function said({ host, because }: { readonly host: PeerId; readonly because: string }): string {
  return `${host.slice(-6)} ${because}`
}

async function * once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
