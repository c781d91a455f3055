import { encode, hex } from '../protocols/codec.ts'
import { MeshError } from '../protocols/errors.ts'
import type { BlockId, InstanceId, Json, PeerId, RunId } from '../protocols/ids.ts'
import type { Packet } from '../protocols/invoke.ts'
import type { Right } from '../protocols/membership.ts'
import type { Explanation } from '../protocols/placement.ts'
import type { BlockRecord, VdagSpec } from '../protocols/specs.ts'
import type { ThirdParty } from './blocks/third-party.ts'
import type { BlockGovernance } from './clusters/block-governance.ts'
import type { Controllers } from './controllers/controllers.ts'
import type { Gate } from './controllers/gate.ts'
import { lookedFor } from './lib/looked-for.ts'
import type { Ports, Random } from './ports.ts'
import type { MeshView } from './roles.ts'
import type { ArtefactCatalogue } from './registries/catalogue.ts'
import { Unpublished } from './policies/unpublished.ts'
import { blockComponentUri, blockMode, parseBlock } from './specs/block.ts'
import { parseComponent } from './specs/component.ts'
import { parseVdag, vdagMode } from './specs/vdag.ts'
import { withinCluster } from './specs/within-cluster.ts'
import { compatible } from './specs/template.ts'
import type { Placement } from './placement/placement.ts'
import { termsOf } from './placement/terms.ts'
import { whyNobody } from './placement/why-nobody.ts'
import type { Admission } from './trust/admission.ts'
import { insertConverters } from './vdag/converters.ts'
import { checkGraph } from './vdag/graph.ts'
import type { RunEngine } from './vdag/engine.ts'
import { withProtocols } from './vdag/typed-nodes.ts'

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789'
const FETCH_MS = 30_000
/** How long word of a new block takes at most, on a good day. */
const NEWS = { forMs: 1_500, everyMs: 150 }
/** A block of which nothing has begun to start for so long may be one that nobody can take. */
const EXPLAIN_AFTER_MS = 4_000
/** So many instances in a row that could not start: it is not their hosts. */
const ENOUGH_FAILURES = 3

/** `warnings`: what was taken and is not as its author may think. `cid` is null where nothing was published. `assignment`: label → blocks it may run on, nested labels with slashes. */
export type CreatedVdag = { readonly uri: string; readonly cid: string | null; readonly nodes: number; readonly warnings: readonly string[]; readonly assignment?: Readonly<Record<string, readonly BlockId[]>> }
export type CreatedBlock = { readonly block: BlockRecord; readonly dryRun: boolean; readonly explanation: Explanation | undefined; readonly warnings: readonly string[] }

/** What a person or a program may ask of a peer that changes the network; each asks for the right first. */
export class Actions {
  readonly #ports: Pick<Ports, 'clock' | 'identity'>
  readonly #random: Random
  readonly #admission: Pick<Admission, 'may'>
  readonly #view: MeshView
  readonly #catalogue: ArtefactCatalogue
  readonly #placement: Placement
  readonly #runs: RunEngine
  readonly #governed: BlockGovernance
  readonly #thirdParty: ThirdParty
  readonly #gate: Gate
  readonly #controllers: Pick<Controllers, 'configOf'>
  readonly #unpublished: Unpublished

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'random'>, parts: { readonly admission: Pick<Admission, 'may'>; readonly view: MeshView; readonly catalogue: ArtefactCatalogue; readonly placement: Placement; readonly runs: RunEngine; readonly governed: BlockGovernance; readonly thirdParty: ThirdParty; readonly gate: Gate; readonly controllers: Pick<Controllers, 'configOf'> }) {
    this.#ports = ports
    this.#random = ports.random.fork('actions')
    this.#admission = parts.admission
    this.#view = parts.view
    this.#catalogue = parts.catalogue
    this.#placement = parts.placement
    this.#runs = parts.runs
    this.#governed = parts.governed
    this.#thirdParty = parts.thirdParty
    this.#gate = parts.gate
    this.#controllers = parts.controllers
    this.#unpublished = new Unpublished(ports.clock, uri => parts.catalogue.hasPolicy(uri))
  }

  /**
   * Throws SPEC_INVALID, NOT_FOUND (component), ALREADY_EXISTS, FORBIDDEN. The block is durable here when it resolves. `name`: eight
   * letters or digits for a block without an id; `cluster`: the one it is to run in. `again`: the same block that is there already is what was made before.
   */
  async createBlock(document: Json, options: { readonly dryRun?: boolean; readonly name?: string; readonly again?: boolean; readonly cluster?: string } = {}): Promise<CreatedBlock> {
    this.#need('operate')
    const component = await this.#catalogue.component(blockComponentUri(document), this.#ports.clock.deadline(FETCH_MS))
    const given = parseBlock(document, component, { owner: this.#ports.identity.peer, newId: () => options.name ?? this.#letters(8) })
    const block = options.cluster === undefined ? given : withinCluster(given, options.cluster)
    const dryRun = options.dryRun === true || blockMode(document) !== 'allocate'
    if (dryRun) return { block, dryRun, explanation: await this.#placement.explain(block), warnings: await this.warnings(block, NEWS.forMs) }
    const known = await this.#catalogue.block(block.blockId)
    if (known !== undefined && options.again === true && known.owner === block.owner && termsOf(known) === termsOf(block)) return { block: known, dryRun, explanation: undefined, warnings: await this.warnings(known, NEWS.forMs) }
    if (known !== undefined) throw new MeshError('ALREADY_EXISTS', `a block is called ${block.blockId} already: choose another blockId, change that one with \`aios block update\`, or remove it first`)
    await this.#governed.add(block)
    const ready = await this.#thirdParty.create(block, component.manifest)
    try {
      await this.#catalogue.putBlock(ready)
    } catch (error) {
      await this.#thirdParty.remove(block.blockId, ready)
      throw error
    }
    return { block: ready, dryRun, explanation: undefined, warnings: await this.warnings(ready, NEWS.forMs) }
  }

  /** What is not as the author of a block may think: policies that nobody has published. `forMs`: how long word of one may take. */
  warnings(block: BlockRecord, forMs = 0): Promise<readonly string[]> {
    return this.#unpublished.ofBlock(block, forMs)
  }

  /**
   * Changes a block to what the spec says: as a new one of its id would be, at once where only counts differ, else by
   * replacing its instances one by one while the old ones answer. Throws SPEC_INVALID, NOT_FOUND, FORBIDDEN.
   */
  async changeBlock(document: Json): Promise<{ readonly block: BlockRecord; readonly replaces: boolean; readonly warnings: readonly string[] }> {
    this.#need('operate')
    const component = await this.#catalogue.component(blockComponentUri(document), this.#ports.clock.deadline(FETCH_MS))
    const given = parseBlock(document, component, { owner: this.#ports.identity.peer, newId: () => {
      throw new MeshError('SPEC_INVALID', 'block spec: blockId: missing; name the block to change, as `aios block list` shows it')
    } })
    const known = await this.#known(given.blockId)
    // What its init lifecycle found stays true: it is not run again.
    const { initContainer: found } = known.initData
    // Parameters changed while it ran stay changed, too, unless the spec says others.
    const kept = known.updates !== undefined && sameJson(given.parameters, known.parameters)
    const block = { ...given, initData: found === undefined || given.initData['initContainer'] !== undefined ? given.initData : { ...given.initData, initContainer: found }, owner: known.owner, revision: known.revision + 1, ...(kept ? { updates: known.updates } : {}), ...(known.streaming === undefined ? {} : { streaming: known.streaming }) }
    await this.#catalogue.putBlock(block)
    return { block, replaces: termsOf(block) !== termsOf(known), warnings: await this.warnings(block, NEWS.forMs) }
  }

  /**
   * Waits until `count` instances with the block's terms are ready. Gives up early where hope is gone for now: throws
   * INSTANCE_FAILED with the reason when several hosts in a row could not start one, NO_CAPACITY with each host's reason
   * when none would take one, ALREADY_EXISTS when somebody else's block of this id won, NOT_FOUND when it was removed.
   */
  async waitReady(record: BlockRecord, count: number, signal: AbortSignal, heard: (ready: number) => void = () => undefined): Promise<number> {
    const { blockId: block } = record
    const terms = termsOf(record)
    const { clock } = this.#ports
    const failed = new Map<InstanceId, string>()
    let askAt = clock.monotonic() + EXPLAIN_AFTER_MS
    let hopeless = 0
    let before = 0
    while (true) {
      const ads = this.#view.instancesOf(block).map(({ ad }) => ad).filter(ad => (ad.terms ?? terms) === terms)
      const ready = ads.filter(({ state }) => state === 'ready').length
      if (ready !== before) heard(ready)
      before = ready
      if (ready >= count) return ready
      const stands = await this.#catalogue.block(block)
      if (stands === undefined) throw new MeshError('NOT_FOUND', `block ${block} was removed while it came up`, { details: { block } })
      if (stands.owner !== record.owner && termsOf(stands) !== terms) throw new MeshError('ALREADY_EXISTS', `${stands.owner} made a block ${block} of ${stands.componentURI} at the same time, and that one stands: choose another blockId`, { details: { block } })
      for (const { instance, state, because } of ads) if (state === 'failed') failed.set(instance, because ?? 'it failed')
      const coming = ads.some(({ state }) => state === 'starting')
      const left = `block ${block} has ${ready} of ${count} instances`
      if (!coming && failed.size >= Math.min(ENOUGH_FAILURES, this.#view.live().length)) {
        throw new MeshError('INSTANCE_FAILED', `${left}: ${[...new Set(failed.values())].slice(0, 2).join('; ')}. It stays wanted and is tried again: mend the component and change the block with \`aios block update\`, or remove it`, { details: { block, failures: failed.size } })
      }
      if (signal.aborted || (!coming && clock.monotonic() >= askAt)) {
        const explanation = await this.#placement.explain(record)
        const why = whyNobody(explanation)
        hopeless = explanation.chosen === undefined ? hopeless + 1 : 0
        if (signal.aborted || hopeless === 2) throw new MeshError('NO_CAPACITY', `${left}${why === undefined ? '' : ` (${why})`}; it stays wanted and comes up when a host can take it`, { details: { block } })
        askAt = clock.monotonic() + EXPLAIN_AFTER_MS
      }
      await clock.sleep(50, signal).catch(() => undefined)
    }
  }

  /** Changes how many instances a block keeps. Throws NOT_FOUND, FORBIDDEN, POLICY_DENIED. */
  async scale(id: BlockId, instances: number): Promise<BlockRecord> {
    this.#need('operate')
    const block = await this.#known(id)
    const least = await this.#governed.scale(block, instances)
    const scaled = { ...block, minInstances: least, maxInstances: Math.max(block.maxInstances, least, 1), revision: block.revision + 1 }
    await this.#catalogue.putBlock(scaled)
    return scaled
  }

  async remove(id: BlockId): Promise<void> {
    this.#need('operate')
    const left = await this.#thirdParty.entry(id)
    // A block that is gone may have left what its lifecycle could not take down.
    const block = left === undefined ? await this.#known(id) : await this.#catalogue.block(id)
    if (block !== undefined) {
      await this.#governed.remove(block)
      await this.#catalogue.withdrawBlock(id)
    }
    await this.#thirdParty.remove(id, block)
  }

  /**
   * Publishes a vDAG, or as its `mode` says only checks its graph, or also tries which blocks its nodes would run on now.
   * Throws SPEC_INVALID, GRAPH_INVALID or PROTOCOL_MISMATCH naming the node and the fix.
   */
  async createVdag(document: Json, options: { readonly dryRun?: boolean } = {}): Promise<CreatedVdag> {
    this.#need('publish')
    const given: VdagSpec = parseVdag(document, { author: this.#ports.identity.peer })
    const signal = this.#ports.clock.deadline(FETCH_MS)
    const typed = await withProtocols(given, this.#catalogue, signal)
    const spec = await insertConverters(given, typed, this.#catalogue, signal)
    checkGraph({ ...typed, edges: spec.edges }, compatible)
    await this.#checkNamed(spec)
    const mode = vdagMode(document)
    const checked = { uri: spec.vdagURI, cid: null, nodes: spec.nodes.length, warnings: await this.#unpublished.ofVdag(spec, NEWS.forMs) }
    if (mode === 'dry_run_assignment' || mode === 'dry_run') return { ...checked, assignment: await this.#runs.assignment(spec) }
    if (options.dryRun === true || mode === 'validate') return checked
    const { cid } = await this.#catalogue.publishVdag({ ...spec, author: await this.#firstAuthor(spec.vdagURI) })
    return { ...checked, cid }
  }

  /** Whatever a node names must be there: one that can never run is refused now, not at its first input. */
  async #checkNamed(spec: VdagSpec): Promise<void> {
    const signal = this.#ports.clock.deadline(FETCH_MS)
    const missing = (label: string, what: string, fix: string): never => {
      throw new MeshError('GRAPH_INVALID', `node "${label}": ${what}; ${fix}`, { details: { node: label } })
    }
    for (const { label, blockId, vdagURI, componentURI, assignmentPolicyRule } of spec.nodes) {
      const stoodInFor = componentURI !== undefined || assignmentPolicyRule !== undefined
      if (blockId !== undefined && !stoodInFor && (await lookedFor(() => this.#catalogue.block(blockId), this.#ports.clock, NEWS)) === undefined) missing(label, `no block is called ${blockId}`, 'create it first, or name one that `aios block list` shows')
      if (vdagURI !== undefined) await this.#catalogue.vdag(vdagURI, signal).catch(unlessThere(() => missing(label, `no vDAG is called ${vdagURI}`, 'create it first, or name one that `aios vdag list` shows')))
      if (componentURI !== undefined) await this.#catalogue.component(componentURI, signal).catch(unlessThere(() => missing(label, `no component is called ${componentURI}`, 'publish it first, or name one that `aios component list` shows')))
    }
  }

  /** The same again is not new, whoever publishes it. */
  async #firstAuthor(vdag: string): Promise<PeerId> {
    try {
      return (await this.#catalogue.vdag(vdag, this.#ports.clock.deadline(FETCH_MS))).spec.author ?? this.#ports.identity.peer
    } catch (error) {
      if (error instanceof MeshError && error.code === 'NOT_FOUND') return this.#ports.identity.peer
      throw error
    }
  }

  /**
   * AIOS's `addComponent`: a component with nothing to bundle, such as a container image or an external server. One with
   * code or a model is published from its directory instead. Throws SPEC_INVALID.
   */
  async addComponent(document: Json): Promise<{ readonly componentURI: string; readonly cid: string }> {
    this.#need('publish')
    const draft = parseComponent(document, { author: this.#ports.identity.peer })
    if (draft.runtime.name !== 'container' && draft.runtime.name !== 'external') {
      throw new MeshError('SPEC_INVALID', `component spec: runtime: a ${draft.runtime.name} component comes with files: publish its directory with \`aios component publish DIR\``)
    }
    const { cid } = await this.#catalogue.publishComponent({ ...await this.#catalogue.pinned(draft), files: [] })
    return { componentURI: draft.componentURI, cid }
  }

  submit(vdag: string, input: Json, options: { readonly key?: string | undefined; readonly session?: string; readonly trace?: string | undefined }): Promise<{ readonly run: RunId; readonly existing: boolean }> {
    return this.submitPacket(vdag, { sessionId: options.session ?? '', seqNo: 0, ts: this.#ports.clock.unix() / 1_000, data: input, files: [] }, options)
  }

  /** As `submit`, a packet with its session and files. Throws what the vDAG's controllers say too: RATE_LIMITED, NO_INSTANCE. */
  async submitPacket(vdag: string, packet: Packet, options: { readonly key?: string | undefined; readonly trace?: string | undefined }): Promise<{ readonly run: RunId; readonly existing: boolean }> {
    this.#need('join')
    await this.#gate.enter(vdag, packet, exact => this.#controllers.configOf(exact))
    return this.#runs.submit({ vdagUri: vdag, input: packet, submitter: this.#ports.identity.peer, ...(options.key === undefined ? {} : { key: options.key }), ...(options.trace === undefined ? {} : { trace: options.trace }) })
  }

  stewardOf(block: BlockId): PeerId | undefined {
    return this.#placement.stewardOf(block)
  }

  lastPlacement(block: BlockId): Explanation | undefined {
    return this.#placement.lastPlacement(block)
  }

  async #known(id: BlockId): Promise<BlockRecord> {
    const block = await this.#catalogue.block(id)
    if (block === undefined) throw new MeshError('NOT_FOUND', `no block is called ${id}: \`aios block list\` shows those there are`)
    return block
  }

  #need(right: Right): void {
    const verdict = this.#admission.may(this.#ports.identity.peer, right)
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `this peer may not do that: ${verdict.because}`)
  }

  #letters(count: number): string {
    let out = ''
    for (let at = 0; at < count; at += 1) out += ALPHABET[this.#random.below(ALPHABET.length)] ?? ''
    return out
  }
}

function sameJson(a: Json, b: Json): boolean {
  return hex(encode(a)) === hex(encode(b))
}

/** Only a name that nobody knows; what cannot be fetched now may be there. */
function unlessThere(missing: () => never): (error: unknown) => void {
  return error => {
    if (error instanceof MeshError && error.code === 'NOT_FOUND') missing()
  }
}
