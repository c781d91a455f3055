import { z } from 'zod'
import { decode } from '../../protocols/codec.ts'
import { asMeshError, type Verdict } from '../../protocols/errors.ts'
import { peerId, type Cid, type Millis, type PeerId } from '../../protocols/ids.ts'
import { capabilityChain, membersPull, type CapabilityChain } from '../../protocols/membership.ts'
import { AskBack } from '../lib/ask-back.ts'
import { hedge } from '../lib/hedge.ts'
import type { Ports, Random } from '../ports.ts'
import type { Member } from './member.ts'
import { Members } from './members.ts'

/** What is learned in that time is written at once: a whole village joining is one write, not a thousand. */
const SAVE_MS = 1_000
/** Between two comparisons with another peer: soon while there is news or an answer was lost, ever less often when not. */
const COMPARE_MS: readonly [soon: Millis, calm: Millis] = [250, 30_000]
const PAGES = 200
/** A page that does not come is asked for again long before it is given up. */
const PAGE_ASKED = { againMs: 1_000, times: 3 }
/** A peer whose list has more chains than this that prove nothing is not asked on. */
const UNPROVEN = 16
const STREAM = 'members'
/** Entries written for members known anyway, before the stream is written anew. */
const SUPERSEDED = 1_024
const ENTRY_BYTES = 32_768

const savedMember = z.object({ peer: peerId, chain: capabilityChain })

/** Keeps the list of members like the others': on disk as it grows, served to whoever asks, compared with one peer now and then. */
export class Roll {
  readonly #ports: Pick<Ports, 'clock' | 'network' | 'journal' | 'telemetry'>
  readonly #random: Random
  readonly #members: Members
  readonly #pulling = new Map<PeerId, Promise<void>>()
  readonly #askBack: AskBack
  readonly #unsaved = new Set<PeerId>()
  readonly #hearers = new Set<(peer: PeerId) => void>()
  #saved = 0
  #saving = false
  #waitMs = COMPARE_MS[0]
  #dueAt = Infinity
  #pulledAt = -Infinity
  #cancel = (): void => undefined
  #stopped = false

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'journal' | 'telemetry'>, network: Cid, owner: PeerId) {
    this.#ports = ports
    this.#random = ports.random.fork('roll')
    this.#members = new Members(ports.identity, network, owner, ports.clock)
    this.#askBack = new AskBack(ports.clock, this.#random, peer => {
      if (!this.#stopped) this.pull(peer).catch(error => this.#failed(peer, error))
    })
  }

  async start(): Promise<void> {
    const { journal, network, telemetry } = this.#ports
    try {
      const saved = await journal.read(STREAM)
      this.#saved = saved.length
      for (const entry of saved) {
        const { peer, chain } = decode(savedMember, entry, ENTRY_BYTES, 'a saved member')
        this.#members.learn(peer, chain)
      }
    } catch (error) {
      // A copy of what others know: not worth staying away for.
      telemetry.event('warn', 'members.not-read', { because: asMeshError(error).message })
    }
    network.handle(membersPull, async ({ after, known, buckets, held }, from) => {
      if (after === undefined && known !== undefined && this.#members.isDigest(known)) return { members: [] }
      const { page, unknown } = this.#members.page(after, buckets, held)
      if (unknown && !this.#stopped) this.#askBack.soon(from)
      return page
    })
    this.#compareIn(COMPARE_MS[0])
  }

  stop(): void {
    this.#stopped = true
    this.#cancel()
  }

  /** Undefined when nothing is proved of it. Then others are asked soon: it may be known to them. */
  get(peer: PeerId): Member | undefined {
    const member = this.#members.get(peer)
    if (member === undefined) this.#sooner()
    return member
  }

  /** Takes a chain that proves `peer` a member; the value says whether that was news. Refuses with the reason. */
  learn(peer: PeerId, chain: CapabilityChain): Verdict<boolean> {
    const learned = this.#members.learn(peer, chain)
    if (learned.ok && learned.value) {
      this.#save(peer)
      for (const hear of this.#hearers) hear(peer)
    }
    return learned
  }

  /** Calls `hear` with each peer that proves itself, or more of itself. */
  onLearned(hear: (peer: PeerId) => void): void {
    this.#hearers.add(hear)
  }

  forgetExpired(): void {
    this.#members.forgetExpired()
  }

  /**
   * A peer took us in. While many do so at once, the first is asked at once and the others are compared with later. One whom
   * we have long known (`news`: we had not) is compared with in its turn: it knows what everybody does.
   */
  async met(peer: PeerId, news: boolean): Promise<void> {
    if (!news && this.#pulledAt > -Infinity) return
    if (this.#ports.clock.monotonic() - this.#pulledAt < COMPARE_MS[0]) this.#sooner()
    else await this.pull(peer).catch(error => this.#failed(peer, error))
  }

  /** Learns the members that `peer` knows; each proves itself, so it does not matter who says it. */
  pull(peer: PeerId): Promise<void> {
    const under = this.#pulling.get(peer)
    if (under !== undefined) return under
    const pulling = this.#pull(peer).finally(() => this.#pulling.delete(peer))
    this.#pulling.set(peer, pulling)
    return pulling
  }

  async #pull(peer: PeerId): Promise<void> {
    const { clock, network } = this.#ports
    this.#pulledAt = clock.monotonic()
    const known = this.#members.digest()
    const held = this.#members.marks()
    const list = held === undefined ? { buckets: this.#members.buckets() } : { held }
    let after: PeerId | undefined
    let unproven = 0
    let news = false
    for (let page = 0; page < PAGES && unproven <= UNPROVEN; page++) {
      const request = after === undefined ? { known, ...list } : { after, ...list }
      const { members, next } = await hedge(clock, PAGE_ASKED, () => network.request(peer, membersPull, request))
      for (const member of members) {
        const learned = this.learn(member.peer, member.chain)
        if (!learned.ok) unproven += 1
        else news ||= learned.value
      }
      if (next === undefined || (after !== undefined && next <= after)) break
      after = next
    }
    if (news) this.#waitMs = COMPARE_MS[0]
    if (unproven > 0) this.#ports.telemetry.event('info', 'members.unproven', { peer, count: unproven })
  }

  #compareIn(waitMs: Millis): void {
    const { clock, network } = this.#ports
    if (this.#stopped) return
    this.#cancel()
    const wait = Math.round(waitMs * (0.75 + this.#random.float() / 2))
    this.#dueAt = clock.monotonic() + wait
    this.#cancel = clock.after(wait, () => {
      const peers = network.peers()
      this.#waitMs = Math.min(COMPARE_MS[1], this.#waitMs * 2)
      if (peers.length > 0) {
        const peer = this.#random.pick(peers)
        this.pull(peer).catch(error => this.#failed(peer, error)).finally(() => this.#compareIn(this.#waitMs))
      } else this.#compareIn(this.#waitMs)
    })
  }

  #sooner(): void {
    this.#waitMs = COMPARE_MS[0]
    if (this.#dueAt < Infinity && this.#dueAt > this.#ports.clock.monotonic() + COMPARE_MS[0] * 1.25) this.#compareIn(COMPARE_MS[0])
  }

  #failed(peer: PeerId, error: unknown): void {
    this.#ports.telemetry.event('debug', 'members.pull-failed', { peer, because: asMeshError(error).message })
    this.#sooner()
  }

  /** Soon, and once for all that comes until then. */
  #save(peer: PeerId): void {
    this.#unsaved.add(peer)
    if (this.#saving) return
    this.#saving = true
    this.#ports.clock.after(SAVE_MS, () => {
      this.#saving = false
      this.#write().catch(error => this.#ports.telemetry.event('warn', 'members.not-saved', { because: asMeshError(error).message }))
    })
  }

  async #write(): Promise<void> {
    const { journal } = this.#ports
    const anew = this.#saved > this.#members.size + SUPERSEDED
    if (anew) await journal.drop(STREAM)
    const members = this.#members.saved(anew ? undefined : this.#unsaved)
    this.#unsaved.clear()
    this.#saved = (anew ? 0 : this.#saved) + members.length
    await journal.append(STREAM, members)
  }
}
