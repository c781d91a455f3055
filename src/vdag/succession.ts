import { encode, hex } from '../../protocols/codec.ts'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Millis, PeerId, RunId } from '../../protocols/ids.ts'
import type { RunEvent } from '../../protocols/runs.ts'
import type { Began } from './run.ts'
import { Lru } from '../lib/lru.ts'
import { rendezvous } from '../lib/rendezvous.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { extentOf, isEnd, newestFirst, type Acquired, type Acquisition } from './acquire.ts'
import { registrarsOf } from './claim.ts'
import { RunMirrors } from './mirror.ts'
import type { Head, RunBook } from './run-book.ts'
import type { RunCopy, RunWatch } from './watch.ts'

export type SuccessionTimes = {
  /** Between two looks for runs whose coordinator fell silent. */
  readonly sweepMs: Millis
  /** A copy that has not grown for this long is compared with its coordinator's. */
  readonly idleMs: Millis
  /** How long each mirror further down the order leaves those before it to take a run over. */
  readonly turnMs: Millis
  /** How long a restarted peer looks for the mirrors of its runs before it goes on without them. */
  readonly graceMs: Millis
  /** After this a run that was promised to a peer now gone, and never begun, is forgotten. */
  readonly unbegunMs: Millis
}

export type SuccessionParts = {
  readonly ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'content' | 'telemetry'>
  readonly view: MeshView
  readonly book: RunBook
  readonly watch: RunWatch
  readonly acquisition: Acquisition
  readonly stopped: AbortSignal
  /** This peer drives it, or is about to. */
  readonly busy: (run: RunId) => boolean
  readonly drive: (run: RunId, won: Acquired, began: Began) => Promise<void>
}

const READ_MS: Millis = 30_000
const DEATHS = 4_096
/** After peers came back: soon, when what waited for mirrors has given them up, and when everybody should believe in everybody again. */
const AGREE_MS: readonly Millis[] = [2_000, 5_000, 10_000]
/** A cut is there before anybody is believed dead: runs that ended meanwhile may have ended on both sides. */
const UNNOTICED_MS: Millis = 5_000
const RUNS_TO_AGREE = 512
const RECENT_MS: Millis = 600_000
/** Fewer than a coordinator answers for one peer in a second. */
const RUNS_PER_SWEEP = 64

/** Sees to it that every run this peer has a copy of comes to its end, whoever has to drive it. */
export class Succession {
  readonly #parts: SuccessionParts
  readonly #times: SuccessionTimes
  readonly #busy = new Set<RunId>()
  readonly #deaths = new Lru<PeerId, Millis>(DEATHS)
  /** Runs that ended from then on are to be compared: a peer that seemed dead may have been on the other side of a partition. */
  #since = Infinity
  /** The same of peers that came back while an earlier comparison was still to come. */
  #sinceLater = Infinity
  #agreeing = false
  /** Where the last sweep stopped: no run waits for ever behind others. */
  #sweptTo: RunId | undefined

  constructor(parts: SuccessionParts, times: SuccessionTimes) {
    this.#parts = parts
    this.#times = times
  }

  start(): void {
    const { view, stopped, ports: { clock } } = this.#parts
    const deaf = view.onLife((peer, what) => {
      if (what === 'dead' || what === 'left') this.#inherit(peer)
      if (what === 'dead') this.#deaths.set(peer, clock.unix())
      else if (what === 'alive') this.#returned(peer)
    })
    stopped.addEventListener('abort', deaf, { once: true })
    this.#sweepLater()
    // What went wrong before this peer stopped, it has forgotten.
    this.#agreeFrom(clock.unix() - RECENT_MS)
  }

  /** Takes up the runs this peer coordinated when it last stopped, unless somebody has taken them over. */
  async resume(): Promise<void> {
    const { book, view } = this.#parts
    const mine = book.unended().filter(([, { coordinator }]) => coordinator === view.self)
    await Promise.all(mine.map(async ([run, { mirrors }]) => {
      await this.#contact(mirrors)
      await this.#takeOver(run)
    }))
  }

  /** Compares this peer's copy with the one of whoever drives the run; takes its turn at it when nobody does. */
  async catchUp(run: RunId): Promise<void> {
    const { book, watch, view, clock, acquisition } = { ...this.#parts, ...this.#parts.ports }
    const head = book.head(run)
    if (head === undefined || head.end !== undefined || this.#parts.busy(run)) return
    const own = await book.events(run)
    const copy = await watch.read(run, 0, 0, clock.deadline(READ_MS, this.#parts.stopped))
    if (own.length === 0) return this.#vouched(run, head, copy)
    const log = copy === undefined || copy.peer === view.self ? [] : await acquisition.download(run, copy.peer)
    const ended = isEnd(log.at(-1))
    const named = copy?.coordinator ?? (ended ? copy?.peer : undefined)
    // Whom the others promised it to may have died before its first word, come back, and know nothing of it.
    const forgotten = !ended && named !== undefined && named !== view.self && named !== copy?.peer && (await watch.ask(named, run, 0, 0))?.coordinator !== named
    const driver = forgotten ? undefined : named
    if (driver === undefined || (driver === view.self && !ended)) {
      this.#takeTurn(run, head.coordinator)
    } else if (log.length > 0 && (ended || newestFirst(extentOf(log), extentOf(own)) <= 0)) {
      const writer = { coordinator: driver, epoch: Math.max(copy?.epoch ?? 0, head.epoch) }
      const promised = (writer.coordinator === head.coordinator && writer.epoch === head.epoch) || await book.promise(run, head, writer)
      if (promised) await book.append(run, writer, 0, log, { show: true })
    }
  }

  /** A run that others keep, which this peer only promised to one of them: it has to hear of its end, or that it never began. */
  async #vouched(run: RunId, head: Head, copy: RunCopy | undefined): Promise<void> {
    const { book, acquisition, ports: { clock } } = this.#parts
    const seen = copy?.events ?? []
    const events = copy === undefined || seen.length === 0 || isEnd(seen.at(-1)) ? seen : await acquisition.download(run, copy.peer)
    if (isEnd(events.at(-1))) return book.settle(run, head, events)
    // Another who promised it says no more than this peer knows.
    const driven = seen.length > 0 || (copy !== undefined && copy.peer === copy.coordinator)
    if (!driven && clock.unix() - head.at > this.#times.unbegunMs) await book.forget(run)
  }

  /** Claims a run whose coordinator is gone and finishes it. */
  async #takeOver(run: RunId): Promise<void> {
    const { book, acquisition, drive, stopped, ports: { telemetry } } = this.#parts
    if (this.#busy.has(run) || this.#parts.busy(run) || stopped.aborted) return
    this.#busy.add(run)
    try {
      const taken = await acquisition.acquire(run, { also: book.head(run)?.mirrors ?? [], patient: false, signal: stopped }, async won => {
        const [began] = won.log
        // Nothing of it was ever acknowledged to anybody.
        if (began?.type !== 'began') return book.forget(run)
        if (book.head(run)?.end !== undefined) return
        telemetry.count('runs_taken_over_total')
        telemetry.event('info', 'run.taken_over', { run, epoch: won.epoch, events: won.log.length })
        await drive(run, won, began)
      })
      if (taken === undefined) await this.catchUp(run)
    } catch (error) {
      const { code, message } = asMeshError(error)
      // Overtaken, or out of reach of what it needs: the next sweep looks again.
      if (!stopped.aborted) telemetry.event('warn', 'run.takeover_failed', { run, code, because: message })
    } finally {
      this.#busy.delete(run)
    }
  }

  /** A peer is gone: the runs it drove go to the first in line among those with a copy. */
  #inherit(gone: PeerId): void {
    for (const [run, { coordinator }] of this.#parts.book.unended()) if (coordinator === gone) this.#takeTurn(run, gone)
  }

  #takeTurn(run: RunId, gone: PeerId): void {
    const { view, book, ports: { clock, telemetry } } = this.#parts
    const order = rendezvous(run, view.live().filter(peer => peer !== gone))
    const go = async (): Promise<void> => {
      const head = book.head(run)
      if (head === undefined || head.end !== undefined || head.coordinator !== gone) return
      if ((await book.events(run)).length > 0) await this.#takeOver(run)
    }
    clock.after(Math.max(0, order.indexOf(view.self)) * this.#times.turnMs, () => {
      go().catch(error => telemetry.event('warn', 'run.takeover_failed', { run, because: asMeshError(error).message }))
    })
  }

  #sweepLater(): void {
    const { stopped, ports: { clock, telemetry } } = this.#parts
    clock.after(this.#times.sweepMs, () => {
      if (stopped.aborted) return
      void this.#sweep().catch(error => telemetry.event('warn', 'run.sweep_failed', { because: asMeshError(error).message })).then(() => this.#sweepLater())
    })
  }

  async #sweep(): Promise<void> {
    const { book, view } = this.#parts
    await book.prune()
    let looked = 0
    for (const [run, head] of startingAfter(this.#sweptTo, book.runs())) {
      const settled = head.end !== undefined && (!head.alone || view.live().length === 1)
      if (settled || this.#busy.has(run) || this.#parts.busy(run)) continue
      if (looked >= RUNS_PER_SWEEP) return
      looked += 1
      this.#sweptTo = run
      if (head.end !== undefined) await this.#confirm(run)
      else if (head.coordinator === view.self) await this.#takeOver(run)
      else if (view.state(head.coordinator) !== 'alive' && view.state(head.coordinator) !== 'suspect') await this.#orphan(run, head.coordinator, head.at)
      else if (await book.idleMs(run) >= this.#times.idleMs) await this.catchUp(run)
    }
  }

  async #orphan(run: RunId, gone: PeerId, promisedAt: Millis): Promise<void> {
    const { book, ports: { clock } } = this.#parts
    if ((await book.events(run)).length > 0) this.#takeTurn(run, gone)
    else if (clock.unix() - promisedAt > this.#times.unbegunMs) await book.forget(run)
  }

  /**
   * A run ended here while no mirror could be reached. Tells them now; where the other side of a partition has ended it
   * as well, one of the two results gives way.
   */
  async #confirm(run: RunId): Promise<void> {
    const { book, view, ports, acquisition } = this.#parts
    const head = book.head(run)
    if (head === undefined || head.end === undefined) return
    const mirrors = new RunMirrors(ports, view, run, head.epoch, 0)
    try {
      if (await mirrors.push(await book.events(run), true)) await book.confirm(run)
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'EPOCH_FENCED') throw error
      for (const peer of mirrors.peers) {
        const log = await acquisition.download(run, peer)
        if (isEnd(log.at(-1)) && outranks(peer, log, head)) {
          ports.telemetry.event('warn', 'run.result_gave_way', { run, epoch: head.epoch, to: extentOf(log).lastEpoch })
          await book.giveWay(run, { coordinator: peer, epoch: extentOf(log).lastEpoch }, log)
          return
        }
      }
    }
  }

  #returned(peer: PeerId): void {
    const died = this.#deaths.peek(peer)
    if (died === undefined) return
    this.#deaths.delete(peer)
    this.#agreeFrom(died - UNNOTICED_MS)
  }

  #agreeFrom(since: Millis): void {
    this.#since = Math.min(this.#since, since)
    if (this.#agreeing) this.#sinceLater = Math.min(this.#sinceLater, since)
    else this.#agreeTwice()
  }

  #agreeTwice(): void {
    this.#agreeing = true
    const { stopped, ports: { clock, telemetry } } = this.#parts
    for (const [at, wait] of AGREE_MS.entries()) {
      clock.after(wait, () => {
        const since = this.#since
        if (at === AGREE_MS.length - 1) {
          this.#agreeing = false
          this.#since = this.#sinceLater
          this.#sinceLater = Infinity
          // Who came back meanwhile gets the whole time that it takes until everybody believes in everybody.
          if (this.#since < Infinity) this.#agreeTwice()
        }
        if (!stopped.aborted) this.#agree(since).catch(error => telemetry.event('warn', 'run.agree_failed', { because: asMeshError(error).message }))
      })
    }
  }

  /** Both sides of a partition may have finished a run: what the first of its registrars that knows an end says stands everywhere. */
  async #agree(since: Millis): Promise<void> {
    const { view, book } = this.#parts
    const ended = book.runs().filter(([, { end, alone, at }]) => end !== undefined && !alone && at >= since).slice(-RUNS_TO_AGREE)
    for (const [run, head] of ended) {
      for (const peer of registrarsOf(run, view.live())) {
        // Whoever has the end alone heard it from others, and stands by nothing.
        if (peer === view.self && (await book.events(run))[0]?.type !== 'began') continue
        if (peer === view.self) break
        const log = await this.#parts.acquisition.download(run, peer)
        const end = log.at(-1)
        if (!isEnd(end)) continue
        if (!sameEnd(end, head.end)) {
          this.#parts.ports.telemetry.event('warn', 'run.result_gave_way', { run, epoch: head.epoch, to: extentOf(log).lastEpoch })
          await book.giveWay(run, { coordinator: peer, epoch: extentOf(log).lastEpoch }, log)
        }
        break
      }
    }
  }

  /** Waits until a peer that mirrored this one's runs is back in view, for a while. */
  async #contact(mirrors: readonly PeerId[]): Promise<void> {
    const { view, stopped, ports: { clock } } = this.#parts
    if (mirrors.length === 0) return
    const until = clock.deadline(this.#times.graceMs, stopped)
    while (!until.aborted && !view.live().some(peer => mirrors.includes(peer))) await clock.sleep(100, until).catch(() => undefined)
  }
}

/** The runs in their order, beginning behind `last` where that is one of them. */
function startingAfter<T>(last: RunId | undefined, runs: readonly (readonly [RunId, T])[]): readonly (readonly [RunId, T])[] {
  const at = runs.findIndex(([run]) => run === last) + 1
  return [...runs.slice(at), ...runs.slice(0, at)]
}

function sameEnd(one: RunEvent, other: RunEvent | undefined): boolean {
  return other !== undefined && hex(encode(one)) === hex(encode(other))
}

/**
 * Of two results of one run, made apart, does the one that `peer` holds stand against ours, which no mirror has? One that
 * was mirrored does; of two that were not, the later epoch's, then the one of the greater coordinator.
 */
function outranks(peer: PeerId, log: readonly RunEvent[], ours: Pick<Head, 'coordinator' | 'epoch'>): boolean {
  const coordinator = log.findLast(event => event.type === 'coordinator')?.peer
  const { lastEpoch } = extentOf(log)
  return peer !== coordinator || lastEpoch > ours.epoch || (lastEpoch === ours.epoch && coordinator > ours.coordinator)
}
