import { asMeshError } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import { background } from '../lib/background.ts'
import { foremost } from '../lib/rendezvous.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import type { TaskBook } from './task-book.ts'

/** How long a peer may be gone before others answer for its tasks. */
const GONE_MS: Millis = 30_000

/** Sees to it that no task stays open because its peer died: its own it takes up again, those of the dead it closes. */
export class Caretaker {
  readonly #ports: Pick<Ports, 'clock' | 'telemetry'>
  readonly #book: TaskBook
  readonly #view: MeshView
  readonly #mayClose: (peer: PeerId) => boolean
  readonly #timers = new Map<PeerId, () => void>()
  #stop: (() => void) | undefined

  constructor(ports: Pick<Ports, 'clock' | 'telemetry'>, parts: { readonly book: TaskBook; readonly view: MeshView; readonly mayClose: (peer: PeerId) => boolean }) {
    this.#ports = ports
    this.#book = parts.book
    this.#view = parts.view
    this.#mayClose = parts.mayClose
  }

  /** `resume` takes up one of this peer's own. */
  async start(resume: (id: string) => Promise<void>): Promise<void> {
    const { telemetry } = this.#ports
    await this.#book.open()
    for (const { id, owner } of this.#book.unended()) if (owner === this.#view.self) background(telemetry, 'task.not_resumed', resume(id), 'warn')
    this.#stop = this.#view.onLife((peer, what) => {
      if (what === 'dead' || what === 'left') this.#gone(peer)
      else if (what === 'alive') this.#forget(peer)
    })
    // Whoever was gone before this peer came.
    for (const owner of new Set(this.#book.unended().map(task => task.owner))) if (owner !== this.#view.self && this.#isGone(owner)) this.#gone(owner)
  }

  stop(): void {
    this.#stop?.()
    for (const peer of this.#timers.keys()) this.#forget(peer)
  }

  #gone(peer: PeerId): void {
    if (this.#timers.has(peer) || !this.#book.unended().some(({ owner }) => owner === peer)) return
    this.#timers.set(peer, this.#ports.clock.after(GONE_MS, () => {
      this.#timers.delete(peer)
      if (this.#isGone(peer)) background(this.#ports.telemetry, 'task.not_closed', this.#close(peer), 'warn')
    }))
  }

  async #close(peer: PeerId): Promise<void> {
    for (const { id, owner } of this.#book.unended()) {
      if (owner !== peer) continue
      const [first] = foremost(id, this.#view.live().filter(one => this.#mayClose(one)), 1)
      if (first !== this.#view.self) continue
      try {
        const { subject } = await this.#book.get(id)
        await this.#book.change(id, subject === undefined
          ? { status: 'failed', data: { error: { code: 'PEER_UNREACHABLE', message: `the peer that was asked is gone and never said what came of it: ask again (\`aios tasks again ${id}\`)`, retryable: true } } }
          : { status: 'completed', data: { subject, note: 'the peer that was asked is gone; what it was asked to make is there' } })
        this.#ports.telemetry.count('tasks_closed_total')
      } catch (error) {
        this.#ports.telemetry.event('warn', 'task.not_closed', { task: id, because: asMeshError(error).message })
      }
    }
    // Whoever is first for the others may be gone by then, too.
    if (this.#book.unended().some(({ owner }) => owner === peer)) this.#gone(peer)
  }

  #isGone(peer: PeerId): boolean {
    const state = this.#view.state(peer)
    return state !== 'alive' && state !== 'suspect'
  }

  #forget(peer: PeerId): void {
    this.#timers.get(peer)?.()
    this.#timers.delete(peer)
  }
}
