import { z } from 'zod'
import { decode, encode } from '../../protocols/codec.ts'
import type { Millis } from '../../protocols/ids.ts'
import { background } from '../lib/background.ts'
import { DRAINING } from '../placement/rank.ts'
import type { Ports } from '../ports.ts'
import type { ClusterBook } from './cluster-book.ts'

const CELL = 'cluster/own'
const LOOK_MS: Millis = 500
/** What nobody else had room for by then stays: the host is nobody's but its own. */
const DRAIN_MS: Millis = 600_000

const state = z.object({ cluster: z.string().max(120), draining: z.boolean() })

/** Holds which cluster this host says it is of. A host that was taken off its cluster's list drains: it bids for nothing until its instances have moved. */
export class Belonging {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'journal' | 'telemetry'>
  readonly #book: ClusterBook
  readonly #hearers = new Set<() => void>()
  #state: z.infer<typeof state>
  #contracts = (): number => 0
  #drainsUntil: Millis = 0
  #cancel: (() => void) | undefined
  #stopped = false

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'journal' | 'telemetry'>, book: ClusterBook, configured: string) {
    this.#ports = ports
    this.#book = book
    this.#state = { cluster: configured, draining: false }
  }

  /** `contracts`: how many this host has. Resolves when its cluster is known again. */
  async open(contracts: () => number): Promise<void> {
    this.#contracts = contracts
    const saved = await this.#ports.journal.get(CELL)
    if (saved !== undefined) this.#state = decode(state, saved, 1_024, 'the own cluster')
    this.#book.onChange(({ cluster, node, gone }) => {
      if (!gone || cluster !== this.cluster) return
      // A cluster that is gone leaves its hosts to themselves: they have nowhere to move what they run.
      if (node === undefined) this.#background(this.leave(false))
      else if (node === this.#ports.identity.peer) this.#background(this.leave(true))
    })
    if (this.draining) this.#drain()
  }

  stop(): void {
    this.#stopped = true
    this.#cancel?.()
  }

  /** Its own peer id while it is a cluster of itself. */
  get cluster(): string {
    return this.#state.cluster
  }

  get draining(): boolean {
    return this.#state.draining
  }

  /** For the ad. */
  labels(): Readonly<Record<string, string>> {
    return this.draining ? { [DRAINING]: 'true' } : {}
  }

  onChange(hear: () => void): () => void {
    this.#hearers.add(hear)
    return () => this.#hearers.delete(hear)
  }

  /** Durable when it resolves. */
  join(cluster: string): Promise<void> {
    return this.#become({ cluster, draining: false })
  }

  /** A cluster of itself again; `drain`: once its instances have moved. */
  async leave(drain: boolean): Promise<void> {
    if (this.cluster === this.#ports.identity.peer) return
    this.#ports.telemetry.event('info', 'cluster.left', { cluster: this.cluster })
    await this.#become({ cluster: this.#ports.identity.peer, draining: drain && this.#contracts() > 0 })
    if (this.draining) this.#drain()
  }

  #drain(): void {
    this.#drainsUntil = this.#ports.clock.monotonic() + DRAIN_MS
    this.#look()
  }

  #look(): void {
    this.#cancel = this.#ports.clock.after(LOOK_MS, () => {
      if (this.#stopped || !this.draining) return
      if (this.#contracts() > 0 && this.#ports.clock.monotonic() < this.#drainsUntil) this.#look()
      else this.#background(this.#become({ ...this.#state, draining: false }))
    })
  }

  async #become(next: z.infer<typeof state>): Promise<void> {
    await this.#ports.journal.set(CELL, encode(next))
    this.#state = next
    for (const hear of this.#hearers) hear()
  }

  #background(work: Promise<unknown>): void {
    background(this.#ports.telemetry, 'cluster.not-left', work, 'warn')
  }
}
