import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Millis, PeerId, RunId } from '../../protocols/ids.ts'
import type { Began } from './run.ts'
import { rendezvous } from '../lib/rendezvous.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { extentOf, isEnd, newestFirst, type Acquired, type Acquisition } from './acquire.ts'
import { RunMirrors } from './mirror.ts'
import type { RunBook } from './run-book.ts'
import type { RunWatch } from './watch.ts'

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
const RUNS_PER_SWEEP = 32

/** Sees to it that every run this peer has a copy of comes to its end, whoever has to drive it. */
export class Succession {
  readonly #parts: SuccessionParts
  readonly #times: SuccessionTimes
  readonly #busy = new Set<RunId>()

  constructor(parts: SuccessionParts, times: SuccessionTimes) {
    this.#parts = parts
    this.#times = times
  }

  start(): void {
    const { view, stopped } = this.#parts
    const deaf = view.onChange((peer, what) => {
      if (what === 'dead' || what === 'left') this.#inherit(peer)
    })
    stopped.addEventListener('abort', deaf, { once: true })
    this.#sweepLater()
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
    const log = copy === undefined || copy.peer === view.self ? [] : await acquisition.download(run, copy.peer)
    const ended = isEnd(log.at(-1))
    const named = copy?.coordinator ?? (ended ? copy?.peer : undefined)
    // Whom the others promised it to may have died before its first word, come back, and know nothing of it.
    const forgotten = !ended && named !== undefined && named !== view.self && named !== copy?.peer && (await watch.ask(named, run, 0, 0))?.coordinator !== named
    const driver = forgotten ? undefined : named
    if (driver === undefined || (driver === view.self && !ended)) {
      if (own.length > 0) this.#takeTurn(run, head.coordinator)
    } else if (own.length > 0 && log.length > 0 && (ended || newestFirst(extentOf(log), extentOf(own)) <= 0)) {
      const writer = { coordinator: driver, epoch: Math.max(copy?.epoch ?? 0, head.epoch) }
      const promised = (writer.coordinator === head.coordinator && writer.epoch === head.epoch) || await book.promise(run, head, writer)
      if (promised) await book.append(run, writer, 0, log, { show: true })
    }
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
    for (const [run, head] of book.runs()) {
      if (looked >= RUNS_PER_SWEEP) return
      const settled = head.end !== undefined && (!head.alone || view.live().length === 1)
      if (settled || this.#busy.has(run) || this.#parts.busy(run)) continue
      looked += 1
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
   * A run ended here while no mirror could be reached. Tells them now; where the other side of a partition has taken it
   * over meanwhile, its higher epoch counts and this peer's result gives way.
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
        if (isEnd(log.at(-1)) && extentOf(log).lastEpoch > head.epoch) {
          ports.telemetry.event('warn', 'run.result_gave_way', { run, epoch: head.epoch, to: extentOf(log).lastEpoch })
          await book.giveWay(run, { coordinator: peer, epoch: extentOf(log).lastEpoch }, log)
          return
        }
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
