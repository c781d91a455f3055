import { decode, encode } from '../../protocols/codec.ts'
import { asMeshError, MeshError, type Verdict } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import { functionState, functionStateBody, type FunctionStateBody, type PolicyFunction } from '../../protocols/policy.ts'
import { signed, type Signed } from '../../protocols/signed.ts'
import { background } from '../lib/background.ts'
import { foremost } from '../lib/rendezvous.ts'
import type { Ports, Registry } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { seal, unseal } from '../trust/seal.ts'

const CELL = 'function-state/'
/** Others that know a state before a call is answered. */
const MIRRORS = 2
/** Asked for a state: the mirrors, and who may have been one before the view changed. */
const ASKED = 6
/** States kept here, for other peers and ours. */
const KEPT = 512
const KEEP_MS: Millis = 8_000
const READ_MS: Millis = 8_000
/** One try: a mirror that takes longer is asked again. */
const TRY_MS: Millis = 1_000
const AGAIN_MS: Millis = 100

type Known = { readonly fn: string; readonly epoch: number; readonly version: number; /** On disk when it resolves. */ readonly written: Promise<void> }
type Own = { readonly envelope: Signed; readonly version: number; readonly told: Map<PeerId, number> }
type StatePorts = Pick<Ports, 'clock' | 'identity' | 'journal' | 'network' | 'telemetry'>

/**
 * Keeps what copies of functions hold: each state durable with its host and with two others before the call that made it is answered, so
 * that whoever replaces the host goes on from there. Of two states the higher epoch is newer, then the higher version.
 */
export class FunctionStates {
  readonly #ports: StatePorts
  readonly #view: MeshView
  readonly #records: Pick<Registry<PolicyFunction>, 'get'>
  readonly #may: (peer: PeerId, right: Right) => Verdict<true>
  readonly #known = new Map<string, Known>()
  /** Our own copies' newest states, and who has which version of them. */
  readonly #own = new Map<string, Own>()

  constructor(ports: StatePorts, parts: { readonly view: MeshView; readonly records: Pick<Registry<PolicyFunction>, 'get'>; readonly may: (peer: PeerId, right: Right) => Verdict<true> }) {
    this.#ports = ports
    this.#view = parts.view
    this.#records = parts.records
    this.#may = parts.may
  }

  /** Reads what was kept before a restart, and answers others. */
  async start(): Promise<void> {
    this.#ports.network.handle(functionState, async (request, from) => {
      const verdict = this.#may(from, 'join')
      if (!verdict.ok) throw new MeshError('FORBIDDEN', verdict.because)
      if (request.do === 'read') return { state: await this.#read(key(request.function, request.replica)) }
      await this.#heard(request.state, from)
      return {}
    })
    for (const cell of await this.#ports.journal.keys(CELL)) {
      const envelope = await this.#read(cell.slice(CELL.length))
      if (envelope !== undefined) await this.#note(this.#open(envelope), Promise.resolve())
    }
  }

  /**
   * Resolves when the state is durable here and with every live mirror. Throws STALE where another host has the copy now,
   * PEER_UNREACHABLE where a mirror that is thought alive does not answer, OVERLOADED, STORAGE_FULL.
   */
  async keep(body: FunctionStateBody): Promise<void> {
    const name = key(body.function, body.replica)
    const envelope = seal(this.#ports.identity, 'function-state', body)
    const own = { envelope, version: body.version, told: this.#own.get(name)?.told ?? new Map<PeerId, number>() }
    this.#own.set(name, own)
    await Promise.all([this.#write(body, envelope), this.#spread(name, own)])
  }

  async #spread(name: string, own: Own): Promise<void> {
    const signal = this.#ports.clock.deadline(KEEP_MS)
    for (;;) {
      const failures = await this.#tell(name, own, signal)
      const [failure] = failures
      if (failure === undefined) return
      const gone = failures.find(({ code }) => code === 'STALE')
      if (gone !== undefined) throw gone
      if (signal.aborted) throw new MeshError('PEER_UNREACHABLE', `the state of ${name} is not with its mirrors: ${failure.message}`)
      // Who is dead leaves the view in a moment, and others take their place.
      await this.#ports.clock.sleep(AGAIN_MS, signal).catch(() => undefined)
    }
  }

  /** What the copy held when it answered last, from here or from its mirrors; nothing where it never answered. Throws PEER_UNREACHABLE where a mirror that may know does not say. */
  async restore(fn: string, replica: string): Promise<FunctionStateBody | undefined> {
    const name = key(fn, replica)
    const signal = this.#ports.clock.deadline(READ_MS)
    const own = await this.#read(name)
    let best = own === undefined ? undefined : this.#open(own)
    const heard = new Set<PeerId>()
    for (;;) {
      const asked = this.#mirrors(name, ASKED).filter(peer => !heard.has(peer))
      await Promise.all(asked.map(async peer => {
        try {
          const { state } = await this.#ports.network.request(peer, functionState, { do: 'read', function: fn, replica }, this.#ports.clock.deadline(TRY_MS, signal))
          heard.add(peer)
          if (state === undefined) return
          const body = this.#open(state)
          if (body.function === fn && body.replica === replica && (best === undefined || newer(body, best))) best = body
        } catch (error) {
          this.#ports.telemetry.event('debug', 'policy.function-state-not-read', { peer, because: asMeshError(error).message })
        }
      }))
      if (this.#mirrors(name, MIRRORS).every(peer => heard.has(peer))) return best
      if (signal.aborted) throw new MeshError('PEER_UNREACHABLE', `the mirrors of ${name} do not say what it held`)
      await this.#ports.clock.sleep(AGAIN_MS, signal).catch(() => undefined)
    }
  }

  /** Mirrors come and go: tells those that were not told yet. */
  tend(): void {
    for (const [name, own] of this.#own) background(this.#ports.telemetry, 'policy.function-state-not-mirrored', this.#tell(name, own, this.#ports.clock.deadline(KEEP_MS)))
  }

  /** This host has the copy no longer. */
  release(fn: string, replica: string): void {
    this.#own.delete(key(fn, replica))
  }

  /** Lets go of the states of copies that the function does not have; of all where it is gone. */
  forget(fn: string, replicas: readonly string[]): void {
    for (const [name, known] of this.#known) {
      if (known.fn !== fn || replicas.some(replica => name === key(fn, replica))) continue
      this.#known.delete(name)
      this.#own.delete(name)
      background(this.#ports.telemetry, 'policy.function-state-not-dropped', this.#ports.journal.set(`${CELL}${name}`, undefined), 'warn')
    }
  }

  #mirrors(name: string, count: number): readonly PeerId[] {
    return foremost(name, this.#view.live().filter(peer => peer !== this.#view.self && this.#may(peer, 'join').ok), count)
  }

  async #tell(name: string, { envelope, version, told }: Own, signal: AbortSignal): Promise<readonly MeshError[]> {
    const missing = this.#mirrors(name, MIRRORS).filter(peer => (told.get(peer) ?? -1) < version)
    const failures = await Promise.all(missing.map(async peer => {
      try {
        await this.#ports.network.request(peer, functionState, { do: 'keep', state: envelope }, this.#ports.clock.deadline(TRY_MS, signal))
        told.set(peer, Math.max(version, told.get(peer) ?? -1))
        return undefined
      } catch (error) {
        return asMeshError(error)
      }
    }))
    return failures.filter(failure => failure !== undefined)
  }

  /** Only the host that the record names may say what its copy holds. Throws STALE where it is not, or not any more; CONFLICT where we do not know yet. */
  async #heard(envelope: Signed, from: PeerId): Promise<void> {
    const body = this.#open(envelope)
    const named = (await this.#records.get(body.function))?.value.replicas.find(({ replica }) => replica === body.replica)
    const epoch = named?.epoch ?? 1
    if (named === undefined || epoch < body.epoch) throw new MeshError('CONFLICT', `this peer does not know yet that ${from} has copy ${body.replica} of ${body.function}`, { retryable: true })
    if (envelope.signer !== from || named.host !== from || epoch > body.epoch) throw new MeshError('STALE', `copy ${body.replica} of ${body.function} is ${named.host}'s now`)
    await this.#write(body, envelope)
  }

  async #write(body: FunctionStateBody, envelope: Signed): Promise<void> {
    const name = key(body.function, body.replica)
    const known = this.#known.get(name)
    if (known !== undefined && !newer(body, known)) return known.written
    if (known === undefined && this.#known.size >= KEPT) throw new MeshError('OVERLOADED', `${KEPT} states of functions are kept here: no more`)
    await this.#note(body, this.#ports.journal.set(`${CELL}${name}`, encode(envelope)))
  }

  #note({ function: fn, replica, epoch, version }: FunctionStateBody, written: Promise<void>): Promise<void> {
    const name = key(fn, replica)
    const known = { fn, epoch, version, written }
    this.#known.set(name, known)
    this.#ports.telemetry.gauge('policy_function_states', this.#known.size)
    return written.catch(error => {
      // What is not on disk is not known.
      if (this.#known.get(name) === known) this.#known.delete(name)
      throw error
    })
  }

  async #read(name: string): Promise<Signed | undefined> {
    const bytes = await this.#ports.journal.get(`${CELL}${name}`)
    return bytes === undefined ? undefined : decode(signed, bytes, functionState.limits.requestBytes, name)
  }

  #open(envelope: Signed): FunctionStateBody {
    const { value, signer } = unseal(this.#ports.identity, 'function-state', functionStateBody, envelope, functionState.limits.requestBytes)
    const verdict = this.#may(signer, 'join')
    if (!verdict.ok) throw new MeshError('FORBIDDEN', verdict.because)
    return value
  }
}

function key(fn: string, replica: string): string {
  return `${fn}/${replica}`
}

function newer(a: { readonly epoch: number; readonly version: number }, b: { readonly epoch: number; readonly version: number }): boolean {
  return a.epoch !== b.epoch ? a.epoch > b.epoch : a.version > b.version
}
