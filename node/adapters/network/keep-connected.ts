import type { Millis, PeerId } from '../../../protocols/ids.ts'
import type { Clock, Random } from '../../../src/ports.ts'
import { Lru } from '../../../src/lib/lru.ts'

/** Connections that this side seeks. More may come in. */
const WANTED = 48
const KNOWN_BOUND = 1_024
const AT_ONCE = 4
const TICK_MS = 500
const FIRST_MS = 250
const LONGEST_MS = 60_000
/** A stranger that never answers is forgotten after about a quarter of an hour; a given address never is. */
const FORGET_AFTER = 20

type Known = { readonly key: string; addresses: readonly string[]; given: boolean; failures: number; dueAt: Millis }

export type Dialling = {
  readonly clock: Clock
  readonly random: Random
  /** A peer id, or an address that does not say whose it is. */
  readonly connected: (key: string) => boolean
  readonly count: () => number
  readonly dial: (key: string, addresses: readonly string[]) => Promise<PeerId>
}

/** Remembers who could be dialled and dials them again when they are gone, ever more rarely while they do not answer. */
export class KeepConnected {
  readonly #options: Dialling
  readonly #known = new Lru<string, Known>(KNOWN_BOUND)
  readonly #dialling = new Set<string>()
  #stop: (() => void) | undefined

  constructor(options: Dialling) {
    this.#options = options
  }

  start(): void {
    this.#stop = this.#options.clock.after(0, () => this.#tick())
  }

  stop(): void {
    this.#stop?.()
    this.#stop = undefined
    this.#known.clear()
  }

  /** `given` by a person or an invite: never forgotten. Hears of a known peer again: takes its newest addresses. */
  learn(key: string, addresses: readonly string[], given = false): void {
    const known = this.#known.get(key)
    if (known !== undefined) {
      if (addresses.length > 0) known.addresses = addresses
      known.given ||= given
      return
    }
    this.#known.set(key, { key, addresses, given, failures: 0, dueAt: this.#options.clock.monotonic() })
  }

  /** It was here just now: soon again, but not everybody at once. */
  lost(peer: PeerId): void {
    const known = this.#known.get(peer)
    if (known === undefined) return
    known.failures = 0
    known.dueAt = this.#options.clock.monotonic() + FIRST_MS + this.#options.random.below(FIRST_MS * 4)
  }

  forget(peer: PeerId): void {
    this.#known.delete(peer)
  }

  #tick(): void {
    const { clock, connected, count } = this.#options
    this.#stop = clock.after(TICK_MS, () => this.#tick())
    const now = clock.monotonic()
    let room = Math.min(AT_ONCE - this.#dialling.size, WANTED - count() - this.#dialling.size)
    for (const [key, known] of this.#known) {
      if (room <= 0) return
      if (known.dueAt > now || this.#dialling.has(key) || connected(key)) continue
      room -= 1
      void this.#dial(known)
    }
  }

  async #dial(known: Known): Promise<void> {
    const { clock, random, dial } = this.#options
    this.#dialling.add(known.key)
    try {
      const peer = await dial(known.key, known.addresses)
      known.failures = 0
      if (peer !== known.key) {
        // Now we know whose address it is: keep it under that name only.
        this.#known.delete(known.key)
        this.learn(peer, known.addresses, known.given)
      }
    } catch {
      known.failures += 1
      if (known.failures >= FORGET_AFTER && !known.given) this.#known.delete(known.key)
      const ceiling = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(20, known.failures))
      known.dueAt = clock.monotonic() + Math.round(ceiling / 2 + (random.float() * ceiling) / 2)
    } finally {
      this.#dialling.delete(known.key)
    }
  }
}
