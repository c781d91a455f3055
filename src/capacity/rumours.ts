import type { Rumour } from '../../protocols/capacity.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { Clock, Random } from '../ports.ts'

/** What fits into one message on the wire. */
const A_MESSAGE = 32
const BOUND = 512
/** So many have said it: enough for everybody to have heard it, even where messages are lost. Fewer do in an outage of more than `FEW`. */
const SAID = 3
const SAID_OF_MANY = 2
const FEW = 8
/** What was said longer ago than this is not said again. */
const LATELY_MS = 3_000
const SPREAD_MS: readonly [least: Millis, most: Millis] = [50, 500]
const SPREAD_A_WORD_MS = 10

type Word = { readonly rumour: Rumour; readonly at: Millis; own: boolean; readonly by: Set<PeerId> }

/**
 * Decides when which rumours are told. All who notice a death notice it at about the same time, so each waits a random
 * moment, longer the more is being said, and keeps silent when enough others have said it. Whoever does speak passes on
 * what few have said: in an outage few messages carry everything, several times.
 */
export class Rumours {
  readonly #clock: Pick<Clock, 'monotonic' | 'after'>
  readonly #random: Random
  readonly #self: PeerId
  readonly #publish: (rumours: readonly Rumour[]) => void
  /** Oldest first. */
  readonly #words = new Map<PeerId, Word>()
  #due = false

  constructor(clock: Pick<Clock, 'monotonic' | 'after'>, random: Random, self: PeerId, publish: (rumours: readonly Rumour[]) => void) {
    this.#clock = clock
    this.#random = random
    this.#self = self
    this.#publish = publish
  }

  /** We found it out ourselves; `waitMs` besides the random moment for those whose word is needed less. */
  tell(rumour: Rumour, waitMs: Millis): void {
    const word = this.#word(rumour)
    if (word === undefined) return
    word.own = true
    if (this.#due || word.by.size >= this.#enough()) return
    this.#due = true
    const [least, most] = SPREAD_MS
    const spreadMs = Math.min(most, least + SPREAD_A_WORD_MS * this.#words.size)
    this.#clock.after(waitMs + this.#random.below(spreadMs + 1), () => this.#flush())
  }

  /** Another said it. */
  heard(rumour: Rumour, by: PeerId): void {
    this.#word(rumour)?.by.add(by)
  }

  #flush(): void {
    this.#due = false
    this.#forget()
    const enough = this.#enough()
    const unsaid = [...this.#words.values()].filter(({ by }) => by.size < enough && !by.has(this.#self))
    const due = unsaid.filter(({ own }) => own)
    const room = (A_MESSAGE - (due.length % A_MESSAGE)) % A_MESSAGE
    const all = [...due, ...unsaid.filter(({ own }) => !own).slice(0, due.length === 0 ? 0 : room)]
    for (const { by } of all) by.add(this.#self)
    for (let at = 0; at < all.length; at += A_MESSAGE) this.#publish(all.slice(at, at + A_MESSAGE).map(({ rumour }) => rumour))
  }

  #enough(): number {
    return this.#words.size > FEW ? SAID_OF_MANY : SAID
  }

  #word(rumour: Rumour): Word | undefined {
    const known = this.#words.get(rumour.about)
    if (known !== undefined && known.rumour.state === rumour.state && known.rumour.incarnation === rumour.incarnation) return known
    this.#forget()
    if (this.#words.size >= BOUND) return undefined
    const word: Word = { rumour, at: this.#clock.monotonic(), own: false, by: new Set() }
    this.#words.delete(rumour.about)
    this.#words.set(rumour.about, word)
    return word
  }

  #forget(): void {
    const since = this.#clock.monotonic() - LATELY_MS
    for (const [about, { at }] of this.#words) {
      if (at > since) return
      this.#words.delete(about)
    }
  }
}
