import { encode, hex } from '../../protocols/codec.ts'
import { asMeshError, MeshError, type Verdict } from '../../protocols/errors.ts'
import { json, type Json, type Millis, type PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import { REVIEW_BYTES, REVIEW_SLOTS, reviewRecord, type ReviewDecision, type ReviewRecord } from '../../protocols/reviews.ts'
import { background } from '../lib/background.ts'
import { Backoff, retry } from '../lib/backoff.ts'
import { foremost } from '../lib/rendezvous.ts'
import type { Escalation } from '../policies/failures.ts'
import type { Ports, Random, Registry } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { keyName } from '../lib/key-name.ts'
import type { Keys } from '../tasks/keys.ts'

/** Reviews that wait to be written; what is more is dropped and told. */
const WAITING = 256
/** Others that fetch what is too large for a record. */
const MIRRORS = 2
const FETCH_MS: Millis = 60_000
const WRITES = { firstMs: 500, maxMs: 10_000, retries: 6 }
const CLAIMS = { firstMs: 100, maxMs: 2_000, retries: 6 }

type NewReview = Pick<ReviewRecord, 'vdag' | 'request' | 'response' | 'opinion'>
type ReviewPorts = Pick<Ports, 'clock' | 'content' | 'identity' | 'random' | 'registries' | 'telemetry'>

/** What waits for a person, wherever in the mesh it arose: every peer shows it, any peer takes the answer, and one answer counts. */
export class Reviews {
  readonly #ports: ReviewPorts
  readonly #random: Random
  readonly #view: MeshView
  readonly #keys: Keys
  readonly #may: (peer: PeerId, right: Right) => Verdict<true>
  readonly #registry: Registry<ReviewRecord>
  readonly #waiting: ReviewRecord[] = []
  #writing = false
  #lastAt: Millis = 0

  constructor(ports: ReviewPorts, parts: { readonly view: MeshView; readonly keys: Keys; readonly may: (peer: PeerId, right: Right) => Verdict<true> }) {
    this.#ports = ports
    this.#random = ports.random.fork('reviews')
    this.#view = parts.view
    this.#keys = parts.keys
    this.#may = parts.may
    this.#registry = ports.registries.open('reviews', reviewRecord)
    this.#keys.answerBy(async what => {
      const [decided, id] = what.split(' ')
      return id !== undefined && (await this.#find(id))?.value.decided === decided
    })
    this.#registry.onChange((_, entry) => {
      if (entry?.value.whole !== undefined) this.#mirror(entry.value, entry.value.whole)
    })
  }

  /** Puts something before a person. Returns at once: it is written as soon as those before it are. */
  ask(review: NewReview): void {
    const { clock, identity, telemetry } = this.#ports
    if (this.#waiting.length >= WAITING) {
      telemetry.count('reviews_dropped_total')
      telemetry.event('warn', 'review.dropped', { because: `${WAITING} reviews wait to be written` })
      return
    }
    // People may name a review by its time: no two of a peer have the same.
    this.#lastAt = Math.max(clock.unix(), this.#lastAt + 1)
    this.#waiting.push({ ...review, id: `review-${hex(this.#random.bytes(8))}`, at: this.#lastAt, peer: identity.peer, decided: 'open' })
    if (!this.#writing) background(telemetry, 'review.not-kept', this.#write(), 'warn')
  }

  /** Puts a failure that no rule settled before a person, beside the answers that wait for one. */
  escalate({ subject, failure, outcome, because }: Escalation): void {
    this.#ports.telemetry.event('warn', 'failure.escalated', { subject, because })
    this.ask({ vdag: '', request: failure, response: outcome, opinion: { review: true, kind: 'failure', subject, reason: because } })
  }

  /** Of all peers, newest first. */
  async list(): Promise<readonly ReviewRecord[]> {
    return (await this.#registry.list()).map(({ value }) => value).sort((a, b) => b.at - a.at || (a.id < b.id ? -1 : 1))
  }

  /** One review with all that it shows. Throws NOT_FOUND, CONTENT_UNAVAILABLE. */
  async get(id: string, signal: AbortSignal): Promise<ReviewRecord> {
    const { value } = await this.#known(id)
    if (value.whole === undefined) return value
    const whole = await this.#ports.content.getRecord(value.whole, json, signal)
    return { ...value, ...Object(whole) }
  }

  /** Throws NOT_FOUND, FORBIDDEN, CONFLICT: somebody has decided it otherwise, or nobody could be found who vouches for the decision. */
  async decide(id: string, decided: ReviewDecision): Promise<ReviewRecord> {
    const verdict = this.#may(this.#view.self, 'operate')
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `this peer may not decide that: ${verdict.because}`)
    const backoff = new Backoff(this.#random, CLAIMS)
    for (let epoch = 1; ; ) {
      const { key, value } = await this.#known(id)
      if (value.decided === decided) return value
      if (value.decided !== 'open') throw new MeshError('CONFLICT', `review ${id} was ${value.decided} by ${value.decidedBy ?? value.peer}`, { details: { decided: value.decided } })
      const claim = await this.#keys.claim(keyName('review', id), `${decided} ${id}`, epoch, async () => {
        const said: ReviewRecord = { ...value, decided, decidedBy: this.#view.self, decidedAt: this.#ports.clock.unix() }
        await this.#registry.put(key, said)
        return said
      })
      if (claim.won) return claim.value
      epoch = claim.epoch + 1
      const pauseMs = backoff.next()
      if (pauseMs === undefined) throw new MeshError('CONFLICT', `${claim.holder} is about to decide review ${id}: look again`, { retryable: true })
      await this.#ports.clock.sleep(pauseMs)
    }
  }

  /** The review that people name by its time, as one peer gave it. Throws NOT_FOUND, CONFLICT where several have it. */
  async named(at: Millis): Promise<string> {
    const [one, two] = (await this.list()).filter(review => review.at === at)
    if (one === undefined) throw new MeshError('NOT_FOUND', `no review of ${at} is known`)
    if (two !== undefined) throw new MeshError('CONFLICT', `several reviews are of ${at}: name one by its id`)
    return one.id
  }

  async #write(): Promise<void> {
    this.#writing = true
    try {
      for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
        const review = next
        try {
          await retry({ clock: this.#ports.clock, random: this.#random }, WRITES, () => this.#keep(review))
        } catch (error) {
          this.#ports.telemetry.count('reviews_dropped_total')
          this.#ports.telemetry.event('warn', 'review.dropped', { review: review.id, because: asMeshError(error).message })
        }
      }
    } finally {
      this.#writing = false
    }
  }

  async #keep(review: ReviewRecord): Promise<void> {
    const [request, response, opinion] = [review.request, review.response, review.opinion].map(small)
    const cut = request === undefined || response === undefined || opinion === undefined
    const whole = cut ? { whole: await this.#ports.content.putRecord({ request: review.request, response: review.response, opinion: review.opinion }) } : {}
    await this.#registry.put(await this.#slot(), { ...review, request: request ?? null, response: response ?? null, opinion: opinion ?? null, ...whole })
  }

  /** An empty one, that of the oldest which is decided, else of the oldest. */
  async #slot(): Promise<string> {
    const { identity, telemetry } = this.#ports
    const own = new Map((await this.#registry.list(`${identity.peer}/`)).map(({ key, value }) => [key, value]))
    for (let slot = 0; slot < REVIEW_SLOTS; slot += 1) if (!own.has(`${identity.peer}/${slot}`)) return `${identity.peer}/${slot}`
    const [oldest] = [...own].sort(([, a], [, b]) => Number(a.decided === 'open') - Number(b.decided === 'open') || a.at - b.at)
    const [key, review] = oldest ?? [`${identity.peer}/0`, undefined]
    if (review?.decided === 'open') telemetry.count('reviews_dropped_total')
    return key
  }

  #mirror({ id, peer }: ReviewRecord, whole: string): void {
    const { clock, content, telemetry } = this.#ports
    if (!foremost(id, this.#view.live().filter(one => one !== peer), MIRRORS).includes(this.#view.self)) return
    background(telemetry, 'review.not-mirrored', content.getRecord(whole, json, clock.deadline(FETCH_MS)), 'warn')
  }

  async #find(id: string): Promise<{ readonly key: string; readonly value: ReviewRecord } | undefined> {
    return (await this.#registry.list()).find(({ value }) => value.id === id)
  }

  async #known(id: string): Promise<{ readonly key: string; readonly value: ReviewRecord }> {
    const found = await this.#find(id)
    if (found === undefined) throw new MeshError('NOT_FOUND', `no review is called ${id}: a peer keeps its last ${REVIEW_SLOTS}`)
    return found
  }
}

/** What fits beside the others in a record. */
function small(value: Json): Json | undefined {
  return encode(value).byteLength <= REVIEW_BYTES ? value : undefined
}
