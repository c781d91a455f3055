import { decode, encode, hex } from '../../protocols/codec.ts'
import { granted, MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import { quotaShare, type QuotaTerms } from '../../protocols/quota.ts'
import type { Ports, Random } from '../ports.ts'
import { Escrow, escrowState } from './escrow.ts'

type QuotaPorts = Pick<Ports, 'clock' | 'identity' | 'journal' | 'network' | 'random' | 'telemetry'>

const STATE_BYTES = 262_144
/** Others asked before a request is turned away. */
const ASKED = 3
/** After nobody had anything to give, nobody is asked for this long. */
const QUIET_MS: Millis = 500
/** Transfers whose answer was lost and that are asked for again. */
const UNSETTLED = 64

export type QuotaStart = {
  readonly terms: QuotaTerms
  /** What this peer begins with if it never held a share. Over all peers together at most the limit: one peer has it all, or some of them parts. */
  readonly initial: number
  /** Whom to ask for more, now. */
  readonly others: () => readonly PeerId[]
}

/** Holds this peer's shares of quotas, admits by them, and moves shares between holders as they are needed. */
export class Quotas {
  readonly #ports: QuotaPorts
  readonly #quotas = new Map<string, Quota>()
  readonly #find: (key: string) => Promise<QuotaStart | undefined>

  /** `find`: what is known of a quota that another peer asks about first. */
  constructor(ports: QuotaPorts, find: (key: string) => Promise<QuotaStart | undefined>) {
    this.#ports = ports
    this.#find = find
  }

  start(): void {
    this.#ports.network.handle(quotaShare, async ({ quota, transfer, want, arrived }, from) => {
      const start = this.#quotas.has(quota) ? undefined : await this.#find(quota)
      const held = this.#quotas.get(quota) ?? (start === undefined ? undefined : await this.open(quota, start))
      if (held === undefined) throw new MeshError('NOT_FOUND', `this peer knows of no quota ${quota}`)
      // A transfer is its asker's: nobody can have another's repeated to it.
      return held.give(`${from.slice(-12)}/${transfer}`, want, arrived.map(id => `${from.slice(-12)}/${id}`))
    })
  }

  /** Takes up this peer's share, as it was when it last lived or as the terms begin it. */
  async open(key: string, start: QuotaStart): Promise<Quota> {
    const known = this.#quotas.get(key)
    if (known !== undefined) return known
    const saved = await this.#ports.journal.get(journalKey(key))
    const state = saved === undefined ? undefined : decode(escrowState, saved, STATE_BYTES, `quota ${key}`)
    const quota = new Quota(this.#ports, key, start, new Escrow(start.terms.windowMs, state ?? { rights: start.initial, given: {}, asked: {}, taken: {} }, this.#ports.clock.monotonic(), state !== undefined))
    // Two openings may have met at the journal; the first one's word stands.
    const first = this.#quotas.get(key)
    if (first !== undefined) return first
    this.#quotas.set(key, quota)
    await quota.save()
    return quota
  }

  async forget(key: string): Promise<void> {
    this.#quotas.delete(key)
    await this.#ports.journal.set(journalKey(key), undefined)
  }
}

/** One quota as this peer holds it. */
export class Quota {
  readonly #ports: QuotaPorts
  readonly #random: Random
  readonly #key: string
  readonly #terms: QuotaTerms
  readonly #others: () => readonly PeerId[]
  readonly #escrow: Escrow
  readonly #richness = new Map<PeerId, number>()
  #borrowing: Promise<void> | undefined
  #quietUntil: Millis = 0

  constructor(ports: QuotaPorts, key: string, { terms, others }: QuotaStart, escrow: Escrow) {
    this.#ports = ports
    this.#random = ports.random.fork(`quota ${key}`)
    this.#key = key
    this.#terms = terms
    this.#others = others
    this.#escrow = escrow
  }

  /** Rights that could be used here now. */
  free(): number {
    return this.#escrow.free(this.#ports.clock.monotonic())
  }

  /** Counts one request, or says when to try again. Borrows where this peer's own share is used up. */
  async admit(): Promise<Verdict<true>> {
    const { clock, telemetry } = this.#ports
    if (this.#escrow.admit(clock.monotonic())) return granted(true)
    if (clock.monotonic() >= this.#quietUntil) {
      this.#borrowing ??= this.#borrow().finally(() => {
        this.#borrowing = undefined
      })
      await this.#borrowing
      if (this.#escrow.admit(clock.monotonic())) return granted(true)
    }
    telemetry.count('quota_refused_total')
    const at = this.#escrow.freeAt()
    return refused(`the quota of ${this.#terms.limit} in ${this.#terms.windowMs} ms is used up here${at === undefined ? '' : `; the next request may enter in ${Math.max(1, at - clock.monotonic())} ms`}`, true)
  }

  /** Answers another holder. Durable before it is said. */
  async give(transfer: string, want: number, arrived: readonly string[]): Promise<{ readonly amount: number; readonly free: number }> {
    this.#escrow.settle(arrived.filter(id => id !== transfer))
    const amount = this.#escrow.give(transfer, want, this.#ports.clock.monotonic())
    await this.save()
    return { amount, free: this.free() }
  }

  save(): Promise<void> {
    return this.#ports.journal.set(journalKey(this.#key), encode(this.#escrow.state))
  }

  async #borrow(): Promise<void> {
    const { clock, identity } = this.#ports
    const others = this.#others().filter(peer => peer !== identity.peer)
    // Whoever had most when last asked comes first; nobody knows of the rest, so chance decides.
    const order = others.map(peer => ({ peer, free: this.#richness.get(peer) ?? this.#terms.limit, die: this.#random.float() })).sort((a, b) => b.free - a.free || a.die - b.die)
    for (const { peer } of order.slice(0, ASKED)) {
      await this.#ask(peer, Math.max(1, Math.ceil(this.#terms.limit / (4 * Math.max(1, others.length)))))
      if (this.#escrow.free(clock.monotonic()) > 0) return
    }
    this.#quietUntil = clock.monotonic() + QUIET_MS
  }

  async #ask(peer: PeerId, want: number): Promise<void> {
    const unanswered = Object.entries(this.#escrow.state.asked).find(([, of]) => of === peer)?.[0]
    if (unanswered === undefined && Object.keys(this.#escrow.state.asked).length >= UNSETTLED) return
    const transfer = unanswered ?? hex(this.#random.bytes(16))
    if (unanswered === undefined) {
      this.#escrow.ask(transfer, peer)
      await this.save()
    }
    const arrived = Object.entries(this.#escrow.state.taken).filter(([, from]) => from === peer).map(([id]) => id).slice(0, 256)
    try {
      const { amount, free } = await this.#ports.network.request(peer, quotaShare, { quota: this.#key, transfer, want, arrived })
      this.#richness.set(peer, free)
      this.#escrow.told(arrived)
      this.#escrow.take(transfer, amount)
      await this.save()
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      // It may have given and the answer been lost: the same transfer is asked for the next time.
      this.#richness.set(peer, -1)
    }
  }
}

function journalKey(key: string): string {
  return `quota/${key}`
}
