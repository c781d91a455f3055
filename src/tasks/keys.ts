import { decode, encode } from '../../protocols/codec.ts'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import { keyClaim, keyClaimBody, type KeyClaimBody } from '../../protocols/keys.ts'
import { foremost } from '../lib/rendezvous.ts'
import { vote } from '../lib/vote.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { seal, unseal } from '../trust/seal.ts'

const CELL = 'key/'
const REGISTRARS = 3
/** Keys promised here; the oldest is forgotten. */
const KEPT = 10_000
/** How long a holder may take to say whether its promise stands. */
const HOLDER_MS: Millis = 700

export type KeyHeld = { readonly holder: PeerId; readonly epoch: number; readonly what: string }
export type KeyResult = { readonly won: true } | ({ readonly won: false } & KeyHeld)
type Answer = { readonly granted: boolean; readonly held: KeyHeld }
type KeyPorts = Pick<Ports, 'clock' | 'identity' | 'journal' | 'network' | 'telemetry'>

/** Promises each key to one holder at a time, and claims keys from those who do: what is begun under a key is begun once. */
export class Keys {
  readonly #ports: KeyPorts
  readonly #view: Pick<MeshView, 'self' | 'live' | 'state'>
  readonly #settled: () => Promise<void>
  /** The oldest first. */
  readonly #promised = new Map<string, KeyHeld>()
  /** Decisions on one key follow one another. */
  readonly #deciding = new Map<string, Promise<unknown>>()
  /** What this peer claims or has won and not yet begun. */
  readonly #intends = new Set<string>()
  readonly #stands: ((what: string) => Promise<boolean>)[] = []

  constructor(ports: KeyPorts, view: Pick<MeshView, 'self' | 'live' | 'state'>, settled: () => Promise<void>) {
    this.#ports = ports
    this.#view = view
    this.#settled = settled
  }

  /** Reads what was promised before a restart, and answers others. */
  async start(): Promise<void> {
    const { journal, network, identity } = this.#ports
    const cells = await Promise.all((await journal.keys(CELL)).map(async cell => {
      const bytes = await journal.get(cell)
      return bytes === undefined ? [] : [decode(keyClaimBody, bytes, keyClaim.limits.requestBytes, cell)]
    }))
    for (const body of cells.flat().sort((a, b) => a.issuedAt - b.issuedAt)) this.#promised.set(body.key, body)
    network.handle(keyClaim, async (request, from) => {
      if (request.do === 'ask') return { stands: await this.#standsHere(request.key, request.what) }
      const { value, signer } = unseal(identity, 'key-claim', keyClaimBody, request.claim, keyClaim.limits.requestBytes)
      if (signer !== from || value.holder !== from) throw new MeshError('FORBIDDEN', `${from} speaks for ${value.holder}`)
      return this.#grant(value)
    })
  }

  /** `stands` says whether something that this peer won is under way or done. */
  answerBy(stands: (what: string) => Promise<boolean>): void {
    this.#stands.push(stands)
  }

  /**
   * Claims a key for `what` and, once it is won, does `use` while still holding others off. `epoch`: one more than that of the holder it should
   * be taken from, else 1. Throws what `use` throws.
   */
  async claim<T>(key: string, what: string, epoch: number, use: () => Promise<T>): Promise<{ readonly won: true; readonly value: T } | ({ readonly won: false } & KeyHeld)> {
    await this.#settled()
    const intention = `${key} ${what}`
    this.#intends.add(intention)
    try {
      const result = await this.#round({ key, holder: this.#view.self, epoch, what, issuedAt: this.#ports.clock.unix() })
      return result.won ? { won: true, value: await use() } : result
    } finally {
      this.#intends.delete(intention)
    }
  }

  /** Won where the registrars agree by a majority of those that can be reached. */
  async #round(body: KeyClaimBody): Promise<KeyResult> {
    const registrars = foremost(body.key, this.#view.live(), REGISTRARS)
    const answers = await vote(registrars, peer => this.#ask(peer, body), ({ granted }) => granted)
    const refusals = answers.filter(({ granted }) => !granted).map(({ held }) => held)
    const [refusal] = refusals.toSorted((a, b) => b.epoch - a.epoch)
    if (answers.length === 0) throw new MeshError('PEER_UNREACHABLE', 'no peer that would vouch for the key answers: ask again')
    if (refusal === undefined || (refusal.epoch <= body.epoch && refusals.length * 2 < answers.length)) return { won: true }
    return { won: false, holder: refusal.holder, epoch: Math.max(...answers.map(({ held }) => held.epoch)), what: refusal.what }
  }

  async #ask(peer: PeerId, body: KeyClaimBody): Promise<readonly Answer[]> {
    try {
      if (peer === this.#view.self) return [await this.#grant(body)]
      const { granted = false, held } = await this.#ports.network.request(peer, keyClaim, { do: 'claim', claim: seal(this.#ports.identity, 'key-claim', body) })
      return held === undefined ? [] : [{ granted, held }]
    } catch (error) {
      const failure = asMeshError(error)
      // A registrar that cannot be reached has no say.
      if (failure.code === 'INTERNAL' || peer === this.#view.self) throw failure
      return []
    }
  }

  async #grant(body: KeyClaimBody): Promise<Answer> {
    const deciding = (this.#deciding.get(body.key) ?? Promise.resolve()).catch(() => undefined).then(() => this.#decide(body))
    this.#deciding.set(body.key, deciding)
    try {
      return await deciding
    } finally {
      if (this.#deciding.get(body.key) === deciding) this.#deciding.delete(body.key)
    }
  }

  async #decide(body: KeyClaimBody): Promise<Answer> {
    const { key, holder, epoch, what } = body
    const held = this.#promised.get(key)
    if (held !== undefined && (held.holder !== holder || held.epoch !== epoch || held.what !== what)) {
      const { holder, epoch: highest, what: before } = held
      if (epoch <= highest || await this.#holds(key, held)) return { granted: false, held: { holder, epoch: highest, what: before } }
    }
    await this.#ports.journal.set(`${CELL}${key}`, encode(body))
    this.#promised.delete(key)
    this.#promised.set(key, { holder, epoch, what })
    for (const oldest of this.#promised.keys()) {
      if (this.#promised.size <= KEPT) break
      this.#promised.delete(oldest)
      await this.#ports.journal.set(`${CELL}${oldest}`, undefined)
    }
    this.#ports.telemetry.count('keys_promised_total')
    return { granted: true, held: { holder, epoch, what } }
  }

  /** Who is gone, does not answer or says that it does not has lost it. */
  async #holds(key: string, { holder, what }: KeyHeld): Promise<boolean> {
    if (holder === this.#view.self) return this.#standsHere(key, what)
    const state = this.#view.state(holder)
    if (state === 'dead' || state === 'left') return false
    try {
      return (await this.#ports.network.request(holder, keyClaim, { do: 'ask', key, what }, HOLDER_MS)).stands === true
    } catch {
      return false
    }
  }

  async #standsHere(key: string, what: string): Promise<boolean> {
    if (this.#intends.has(`${key} ${what}`)) return true
    for (const stands of this.#stands) if (await stands(what)) return true
    return false
  }
}
