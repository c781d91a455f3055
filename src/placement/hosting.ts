import type { InstanceAd } from '../../protocols/capacity.ts'
import { asMeshError, granted, MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import type { BlockId, ContractId, InstanceId, Millis, PeerId } from '../../protocols/ids.ts'
import { contract as contractSchema, type Contract, type InstanceInit } from '../../protocols/placement.ts'
import type { Needs, Resources } from '../../protocols/resources.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { Backoff } from '../lib/backoff.ts'
import { background } from '../lib/background.ts'
import { bothEnds } from '../lib/both-ends.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import type { Catalogue, ContractBook, InstanceHost, MeshView } from '../roles.ts'
import { seal, unseal } from '../trust/seal.ts'
import { isLive, isOpen, step, type ContractEvent, type HeldContract } from './contract.ts'
import { ContractJournal, type SavedContract } from './contract-journal.ts'
import { lapse } from './lapse.ts'
import { award, expire, free, hold, openLedger, release, restore, type Ledger, type LedgerPromise } from './ledger.ts'
import { termsOf } from './terms.ts'
import type { HostingConfig } from './timings.ts'

type Entry = {
  held: HeldContract
  envelope: Signed
  readonly block: BlockRecord
  readonly hold: string
  crashes: readonly Millis[]
  stopping: boolean
}

/** `block`: as it is to run here, `init` laid over its data; `terms`: of the block as it was awarded. */
export type Terms = { readonly hold: string; readonly block: BlockRecord; readonly terms?: string; readonly init?: InstanceInit | undefined; readonly instance: InstanceId; readonly steward: PeerId; readonly epoch: number; readonly leaseMs: Millis; readonly needs: Needs; readonly gpus: readonly string[] }
export type LeaseAnswer = { readonly contract: Signed } | { readonly refusal: { because: string; retryable: boolean; highestEpoch?: number } }

const FENCES_BOUND = 4_096
/** Of why an instance failed, in ads. */
const SHOWN_CHARS = 300

/** Holds this host's ledger and the contracts it has signed: durable before they are answered, run until nobody wants them. */
export class Hosting implements ContractBook {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'machine' | 'telemetry'>
  readonly #journal: ContractJournal
  readonly #random: Random
  readonly #instances: InstanceHost
  readonly #view: MeshView
  readonly #catalogue: Pick<Catalogue, 'block'>
  readonly #config: HostingConfig
  readonly #entries = new Map<ContractId, Entry>()
  readonly #byHold = new Map<string, ContractId>()
  readonly #byInstance = new Map<InstanceId, ContractId>()
  readonly #ended = new Lru<ContractId, { readonly entry: Entry; readonly at: Millis }>(256)
  readonly #fences = new Lru<BlockId, number>(FENCES_BOUND, block => this.#background(this.#journal.fence(block, undefined)))
  readonly #awards = new Map<string, Promise<Verdict<Signed>>>()
  readonly #hearers = new Set<() => void>()
  readonly #stops: (() => void)[] = []
  readonly #life = new AbortController()
  #ledger: Ledger = openLedger({ cpuMilli: 0, memoryMb: 0, diskMb: 0, gpus: [] })
  #cancelTick: (() => void) | undefined

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'journal' | 'machine' | 'telemetry'>, roles: { readonly instances: InstanceHost; readonly view: MeshView; readonly catalogue: Pick<Catalogue, 'block'> }, config: HostingConfig) {
    this.#ports = ports
    this.#journal = new ContractJournal(ports.journal)
    this.#random = ports.random.fork('hosting')
    this.#instances = roles.instances
    this.#view = roles.view
    this.#catalogue = roles.catalogue
    this.#config = config
  }

  /** Reads the journal back: fences first, then every contract, whose instance starts again. */
  async open(): Promise<void> {
    const { total } = await this.#ports.machine.probe()
    const { reserve } = this.#config
    const left = (has: number, kept: number): number => Math.max(0, has - kept)
    this.#ledger = openLedger({ ...total, cpuMilli: left(total.cpuMilli, reserve.cpuMilli), memoryMb: left(total.memoryMb, reserve.memoryMb), diskMb: left(total.diskMb, reserve.diskMb) })
    for (const [block, epoch] of await this.#journal.fences()) this.#fences.set(block, epoch)
    for (const [id, contract] of await this.#journal.contracts()) await this.#resume(id, contract)
  }

  /** Starts what was resumed, and watches leases and exits. */
  run(): void {
    this.#stops.push(this.#instances.onExit((instance, because) => this.#exited(instance, because)))
    this.#stops.push(this.#instances.onChange(() => this.#changed()))
    for (const entry of this.#entries.values()) this.#background(this.#launch(entry))
    this.#tick()
  }

  /** Stops watching. Contracts stay in the journal: the next start resumes them. */
  close(): void {
    for (const stop of this.#stops) stop()
    this.#cancelTick?.()
    this.#life.abort(new MeshError('CANCELLED', 'the host is shutting down'))
  }

  onChange(hear: () => void): () => void {
    this.#hearers.add(hear)
    return () => this.#hearers.delete(hear)
  }

  contracts(): readonly { readonly contract: Contract; readonly block: BlockRecord; readonly leaseEnds: Millis }[] {
    return [...this.#entries.values()].filter(({ held }) => isOpen(held)).map(({ held: { contract, leaseEnds }, block }) => ({ contract, block, leaseEnds }))
  }

  /**
   * A takeover keeps the instance, so a caller that believes in an epoch since the award may enter; one that believes in
   * an earlier instance of this name, or in a steward this host has not heard of, may not.
   */
  fence(instance: InstanceId, epoch: number): Verdict<Contract> {
    const entry = this.#entries.get(this.#byInstance.get(instance) ?? '')
    if (entry === undefined || !isOpen(entry.held)) return refused(`this host has no contract for ${instance} any more`, true)
    const { contract, bornEpoch } = entry.held
    if (epoch < bornEpoch) return refused(`${instance} was placed anew under epoch ${bornEpoch}; the caller believes in ${epoch}`, true)
    if (epoch > contract.epoch) return refused(`the caller has heard of epoch ${epoch}; this host still obeys ${contract.epoch}`, true)
    return granted(contract)
  }

  /** What is promised to nobody, holds that have run out given back. */
  free(): Resources {
    this.#ledger = expire(this.#ledger, this.#ports.clock.monotonic())
    return free(this.#ledger)
  }

  /** What no contract has taken. */
  uncontracted(): Resources {
    return free(this.#ledger, false)
  }

  total(): Resources {
    return this.#ledger.total
  }

  promised(): readonly LedgerPromise[] {
    this.#ledger = expire(this.#ledger, this.#ports.clock.monotonic())
    return [...this.#ledger.promises.values()]
  }

  highestEpoch(block: BlockId): number {
    return this.#fences.peek(block) ?? 0
  }

  epochs(): ReadonlyMap<BlockId, number> {
    return new Map(this.#fences)
  }

  /** Reserves; idempotent a key. */
  reserve(key: string, needs: Needs, forMs: Millis, gpus?: readonly string[]): Verdict<readonly string[]> {
    this.free()
    const verdict = hold(this.#ledger, key, needs, this.#ports.clock.monotonic() + forMs, gpus)
    if (!verdict.ok) return verdict
    this.#ledger = verdict.value.ledger
    this.#changed()
    return granted(verdict.value.gpus)
  }

  /** Gives a reservation back before its time. A contract is none. */
  cancel(key: string): void {
    if (this.#ledger.promises.get(key)?.until === undefined) return
    this.#ledger = release(this.#ledger, key)
    this.#changed()
  }

  /** The contract that was made of a hold, for a steward whose award arrives again, also after a restart. */
  signedFor(hold: string, instance: InstanceId, steward: PeerId): Signed | undefined {
    const entry = this.#entries.get(this.#byHold.get(hold) ?? '')
    return entry?.held.contract.instance === instance && entry.held.contract.steward === steward ? entry.envelope : undefined
  }

  /** Signs the contract of an awarded hold, once; durable before it is answered, and the instance starts. */
  accept(terms: Terms): Promise<Verdict<Signed>> {
    const known = this.#byHold.get(terms.hold)
    const entry = known === undefined ? undefined : this.#entries.get(known)
    const under = this.#awards.get(terms.hold)
    if (under !== undefined) return under
    if (entry !== undefined) return Promise.resolve(granted(entry.envelope))
    const accepting = this.#accept(terms).finally(() => this.#awards.delete(terms.hold))
    this.#awards.set(terms.hold, accepting)
    return accepting
  }

  async #accept({ hold, block, terms, init, instance, steward, epoch, leaseMs, needs, gpus }: Terms): Promise<Verdict<Signed>> {
    const { clock, identity } = this.#ports
    const highest = this.highestEpoch(block.blockId)
    if (epoch < highest) return refused(`epoch ${epoch} is over: block ${block.blockId} is under epoch ${highest}`)
    if (this.#byInstance.has(instance)) return refused(`${instance} runs here already`)
    this.free()
    const id = `ct-${hold}`
    const awarded = award(this.#ledger, hold, id)
    if (!awarded.ok) return awarded
    this.#ledger = awarded.value
    const contract: Contract = {
      id, block: block.blockId, instance, component: block.componentURI, steward, host: identity.peer, needs, gpus: [...gpus], epoch, leaseMs: this.#clampLease(leaseMs), issuedAt: clock.unix(), terms: terms ?? termsOf(block), ...(init === undefined ? {} : { init }),
    }
    const entry: Entry = {
      held: { contract, state: 'awarded', bornEpoch: epoch, leaseEnds: clock.monotonic() + contract.leaseMs, because: '' },
      envelope: seal(identity, 'contract', contract), block, hold, crashes: [], stopping: false,
    }
    this.#byInstance.set(instance, id)
    try {
      await Promise.all([this.#save(entry), this.#raise(block.blockId, epoch)])
    } catch (error) {
      this.#ledger = release(this.#ledger, id)
      this.#byInstance.delete(instance)
      if (!(error instanceof MeshError)) throw error
      return refused(`the contract could not be made durable: ${error.message}`, true)
    }
    // Outranked while the disk wrote: a host obeys only the highest epoch it has seen.
    if (epoch < this.highestEpoch(block.blockId)) {
      this.#ledger = release(this.#ledger, id)
      this.#byInstance.delete(instance)
      await this.#journal.forget(id)
      return refused(`epoch ${epoch} ended while the contract was made`)
    }
    this.#entries.set(id, entry)
    this.#byHold.set(hold, id)
    this.#changed()
    if (!this.#life.signal.aborted) this.#background(this.#launch(entry))
    return granted(entry.envelope)
  }

  /** A steward renews, takes over or releases. */
  async lease(body: { readonly do: 'renew' | 'release'; readonly block: BlockId; readonly contract: ContractId; readonly epoch: number; readonly leaseMs: Millis; readonly because: string }, steward: PeerId): Promise<LeaseAnswer> {
    const { clock, identity } = this.#ports
    const entry = this.#entries.get(body.contract)
    if (entry === undefined || entry.held.contract.block !== body.block) {
      const over = this.#ended.peek(body.contract)?.entry.held
      return { refusal: { because: over === undefined ? `this host has no contract ${body.contract}` : `contract ${body.contract} is ${over.state}: ${over.because}`.slice(0, 300), retryable: false } }
    }
    const highestEpoch = this.highestEpoch(body.block)
    if (body.epoch < highestEpoch) return { refusal: { because: `epoch ${body.epoch} is over: the block is under epoch ${highestEpoch}`, retryable: false, highestEpoch } }
    const before = entry.held.contract
    const verdict = step(entry.held, body.do === 'release'
      ? { type: 'release', epoch: body.epoch, because: body.because }
      : { type: 'lease', steward, epoch: body.epoch, leaseMs: this.#clampLease(body.leaseMs), now: clock.monotonic(), unix: clock.unix() })
    if (!verdict.ok) return { refusal: { because: verdict.because.slice(0, 300), retryable: false, highestEpoch } }
    entry.held = verdict.value
    if (entry.held.contract !== before) {
      entry.envelope = seal(identity, 'contract', entry.held.contract)
      await Promise.all([this.#save(entry), this.#raise(body.block, body.epoch)])
      this.#changed()
    } else if (body.epoch > highestEpoch) await this.#raise(body.block, body.epoch)
    if (body.do === 'release') this.#background(this.#drain(entry))
    return { contract: entry.envelope }
  }

  /** As advertised: what runs, what is starting, and what failed a moment ago. */
  instances(): readonly InstanceAd[] {
    const running = new Map(this.#instances.running().map(each => [each.instance, each]))
    const now = this.#ports.clock.monotonic()
    const mourned = [...this.#ended].filter(([, { entry, at }]) => entry.held.state === 'failed' && now - at < this.#config.mournMs).map(([, { entry }]) => entry)
    return [...this.#entries.values(), ...mourned].map(({ held: { contract, state, because }, crashes: all }) => {
      const live = running.get(contract.instance)
      const shown = state === 'failed' ? 'failed' : state === 'draining' ? 'draining' : live?.state ?? 'starting'
      const { block, instance, component, epoch, steward, id, terms } = contract
      const crashes = all.filter(at => now - at < this.#config.restartWindowMs).length
      return { block, instance, contract: id, component, epoch, steward, state: shown, inFlight: live?.inFlight ?? 0, queued: live?.queued ?? 0, latencyMs: live?.latencyMs ?? 0, ...(terms === undefined ? {} : { terms }), ...(live?.unhealthy === true ? { unhealthy: true } : {}), ...(crashes > 0 ? { crashes } : {}), ...(state === 'failed' ? { because } : {}) }
    }).sort((a, b) => (a.instance < b.instance ? -1 : 1))
  }

  async #resume(id: ContractId, { contract: envelope, block, hold, bornEpoch, draining }: SavedContract): Promise<void> {
    const { clock, identity, telemetry } = this.#ports
    const { value: contract } = unseal(identity, 'contract', contractSchema, envelope)
    this.#fences.set(contract.block, Math.max(this.highestEpoch(contract.block), contract.epoch))
    const fits = restore(this.#ledger, contract.id, contract.needs, contract.gpus)
    if (draining || !fits.ok) {
      if (!fits.ok) telemetry.event('warn', 'contract.not-resumed', { contract: contract.id, because: fits.because })
      await this.#journal.forget(id)
      return
    }
    this.#ledger = fits.value
    // Nobody counted the lease while we were down: the steward, or its successor, gets a whole one to find us.
    const held: HeldContract = { contract, state: 'awarded', bornEpoch, leaseEnds: clock.monotonic() + contract.leaseMs, because: 'resumed after a restart' }
    this.#entries.set(contract.id, { held, envelope, block, hold, crashes: [], stopping: false })
    this.#byHold.set(hold, contract.id)
    this.#byInstance.set(contract.instance, contract.id)
    telemetry.event('info', 'contract.resumed', { contract: contract.id, block: contract.block })
  }

  async #launch(entry: Entry): Promise<void> {
    const { clock, telemetry } = this.#ports
    const backoff = new Backoff(this.#random, { firstMs: 250, maxMs: 4_000, retries: this.#config.restarts })
    if (!this.#move(entry, { type: 'start' })) return
    for (;;) {
      try {
        await this.#instances.start(entry.held.contract, entry.block, clock.deadline(this.#config.startMs, this.#life.signal))
        this.#move(entry, { type: 'started' })
        return
      } catch (error) {
        const failure = asMeshError(error)
        if (this.#life.signal.aborted || !isLive(entry.held)) return
        telemetry.event('warn', 'instance.not-started', { instance: entry.held.contract.instance, code: failure.code, because: failure.message })
        const wait = failure.retryable ? backoff.next() : undefined
        if (wait === undefined) {
          await this.#fail(entry, `it could not be started: ${failure.message}`)
          return
        }
        await clock.sleep(wait)
        if (this.#life.signal.aborted || !isLive(entry.held)) return
      }
    }
  }

  #exited(instance: InstanceId, because: string): void {
    const entry = this.#entries.get(this.#byInstance.get(instance) ?? '')
    if (entry === undefined || !isLive(entry.held) || this.#life.signal.aborted) return
    const now = this.#ports.clock.monotonic()
    entry.crashes = [...entry.crashes.filter(at => now - at < this.#config.restartWindowMs), now]
    if (entry.crashes.length > this.#config.restarts) this.#background(this.#fail(entry, `it crashed ${entry.crashes.length} times: ${because}`))
    else if (this.#move(entry, { type: 'crashed', because })) {
      this.#background(this.#ports.clock.sleep(100 * 2 ** (entry.crashes.length - 1)).then(() => (isLive(entry.held) ? this.#launch(entry) : undefined)))
    }
  }

  async #drain(entry: Entry): Promise<void> {
    if (entry.stopping) return
    entry.stopping = true
    this.#changed()
    await this.#save(entry)
    await this.#instances.stop(entry.held.contract.instance, this.#config.drainMs, entry.held.because)
    this.#move(entry, { type: 'stopped' })
    await this.#end(entry)
  }

  async #fail(entry: Entry, because: string): Promise<void> {
    if (!this.#move(entry, { type: 'failed', because: bothEnds(because, SHOWN_CHARS) })) return
    this.#ports.telemetry.event('warn', 'contract.failed', { contract: entry.held.contract.id, block: entry.held.contract.block, because })
    await this.#instances.stop(entry.held.contract.instance, 0, because)
    await this.#end(entry)
  }

  async #end(entry: Entry): Promise<void> {
    const { id, instance } = entry.held.contract
    this.#ledger = release(this.#ledger, id)
    this.#entries.delete(id)
    this.#byHold.delete(entry.hold)
    this.#byInstance.delete(instance)
    this.#ended.set(id, { entry, at: this.#ports.clock.monotonic() })
    this.#changed()
    await this.#journal.forget(id)
  }

  #move(entry: Entry, event: ContractEvent): boolean {
    const verdict = step(entry.held, event)
    if (!verdict.ok) return false
    entry.held = verdict.value
    this.#changed()
    return true
  }

  #tick(): void {
    this.#cancelTick = this.#ports.clock.after(this.#config.tickMs, () => {
      for (const entry of this.#entries.values()) if (isLive(entry.held) && entry.held.leaseEnds <= this.#ports.clock.monotonic()) this.#background(this.#overdue(entry))
      this.free()
      this.#tick()
    })
  }

  /** Nobody renewed in time. The instance serves on unless it is known to be unwanted. */
  async #overdue(entry: Entry): Promise<void> {
    const { contract } = entry.held
    const wanted = await this.#catalogue.block(contract.block)
    const verdict = lapse({
      overdueMs: this.#ports.clock.monotonic() - entry.held.leaseEnds,
      leaseMs: contract.leaseMs,
      epoch: contract.epoch,
      least: wanted?.minInstances,
      elsewhere: this.#view.instancesOf(contract.block).filter(({ host }) => host !== this.#ports.identity.peer).map(({ ad }) => ad),
    })
    if (verdict.ok || !isLive(entry.held) || !this.#move(entry, { type: 'lapse', because: verdict.because })) return
    this.#ports.telemetry.event('info', 'contract.lapsed', { contract: contract.id, block: contract.block, because: verdict.because })
    await this.#drain(entry)
  }

  async #save(entry: Entry): Promise<void> {
    const { contract, bornEpoch, state } = entry.held
    await this.#journal.keep(contract.id, { contract: entry.envelope, block: entry.block, hold: entry.hold, bornEpoch, draining: state === 'draining' })
  }

  async #raise(block: BlockId, epoch: number): Promise<void> {
    if (epoch <= this.highestEpoch(block)) return
    this.#fences.set(block, epoch)
    await this.#journal.fence(block, epoch)
  }

  #clampLease(leaseMs: Millis): Millis {
    const [least, most] = this.#config.leaseMs
    return Math.max(least, Math.min(most, leaseMs))
  }

  #changed(): void {
    for (const hear of this.#hearers) hear()
  }

  #background(work: Promise<unknown>): void {
    background(this.#ports.telemetry, 'hosting.failed', work, 'warn')
  }
}
