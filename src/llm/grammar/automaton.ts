import type { Expression } from './expression.ts'

/** What must still come inside one rule: a list of expressions, hash-consed so that equal remainders are one object. */
type Rest = { readonly id: number; readonly head: Expression; readonly next: Rest | undefined }
/** What must come once the rule above is done. */
type Frame = { readonly id: number; readonly rest: Rest | undefined; readonly below: Frame | undefined; readonly depth: number }
/** One way to read what was read so far: `rest` begins with a byte. */
export type Thread = { readonly id: number; readonly ranges: readonly (readonly [number, number])[]; readonly after: Rest | undefined; readonly frame: Frame | undefined; /** The same for the same place of a rule, wherever that was entered from. */ readonly local: number }

/** All ways at once. `done`: what was read is a whole text of the language. */
export type State = { readonly threads: readonly Thread[]; readonly done: boolean; readonly next: (State | undefined)[] }

/** Rules within rules. What nests deeper is not offered, so that every text stays finite to read. */
const DEPTH = 128
/** Ways kept at once; a grammar that needs more is refused when it is met. */
const THREADS = 4_000
/** States and remainders kept for reuse; beyond these everything is worked out anew. */
const STATES = 10_000
const RESTS = 200_000

export class GrammarTooWide extends Error {}

/**
 * Reads byte strings of a context-free grammar one byte at a time: partial derivatives (Antimirov 1996) over continuations,
 * with an explicit stack of rules, made deterministic as it goes. A state is its threads, hash-consed; steps are remembered.
 */
export class Automaton {
  readonly start: State
  readonly #root: Expression
  #rests = new Map<string, Rest>()
  #frames = new Map<string, Frame>()
  #threads = new Map<string, Thread>()
  #states = new Map<string, State>()
  #ids = new Map<Expression, number>()
  #counted = new Map<Expression, Map<string, Expression>>()
  #locals = new Map<string, number>()
  #clamped = new Map<Rest, Rest>()
  #last = 0
  readonly #window: number

  /** `window`: more bytes than any one token has. Repetitions that no token can count to the end of are the same place. */
  constructor(root: Expression, window: number) {
    this.#root = root
    this.#window = window
    this.start = this.#close([{ rest: this.#rest(this.#root, undefined), frame: undefined }])
  }

  /** Undefined where no text of the language goes on like this. */
  step(state: State, byte: number): State | undefined {
    const known = state.next[byte]
    if (known !== undefined) return known === DEAD ? undefined : known
    const moved: Open[] = []
    for (const { ranges, after, frame } of state.threads) if (ranges.some(([low, high]) => byte >= low && byte <= high)) moved.push({ rest: after, frame })
    const closed = moved.length === 0 ? DEAD : this.#close(moved)
    const reached = closed.threads.length === 0 && !closed.done ? DEAD : closed
    state.next[byte] = reached
    return reached === DEAD ? undefined : reached
  }

  /** Threads on their own, with nothing below their rule: `done` where they leave it. */
  inside(threads: readonly Thread[]): State {
    return this.#state(threads.map(({ ranges, after }) => this.#thread({ ranges, after, frame: undefined })), false)
  }

  /** Where a thread goes on when its rule is done; undefined for the outermost. */
  outside({ frame }: Thread): State | undefined {
    return frame === undefined ? undefined : this.#close([{ rest: frame.rest, frame: frame.below }])
  }

  #close(open: Open[]): State {
    if (this.#states.size > STATES || this.#rests.size > RESTS || this.#threads.size > RESTS) this.#forget()
    const threads = new Map<number, Thread>()
    const seen = new Set<string>()
    let done = false
    for (let at = open.pop(); at !== undefined; at = open.pop()) {
      let { rest, frame } = at
      while (rest === undefined && frame !== undefined) [rest, frame] = [frame.rest, frame.below]
      if (rest === undefined) {
        done = true
        continue
      }
      const key = `${rest.id},${frame?.id ?? 0}`
      if (seen.has(key)) continue
      seen.add(key)
      if (seen.size > THREADS) throw new GrammarTooWide('the form has too many ways to go on at one place')
      const { head, next } = rest
      switch (head.kind) {
        case 'bytes': {
          const thread = this.#thread({ ranges: head.ranges, after: next, frame })
          threads.set(thread.id, thread)
          break
        }
        case 'all': open.push({ rest: head.parts.reduceRight<Rest | undefined>((tail, part) => this.#rest(part, tail), next), frame }); break
        case 'one': for (const part of head.parts) open.push({ rest: this.#rest(part, next), frame }); break
        case 'times':
          if (head.low === 0) open.push({ rest: next, frame })
          if (head.high > 0) open.push({ rest: this.#rest(head.part, this.#more(head, next)), frame })
          break
        case 'rule': {
          // Nothing to come back to: the rule takes its caller's place, so that a list of any length needs no stack.
          const below = next === undefined ? frame : this.#frame(next, frame)
          if ((below?.depth ?? 0) <= DEPTH) open.push({ rest: this.#rest(head.body(), undefined), frame: below })
        }
      }
    }
    return this.#state([...threads.values()], done)
  }

  #more(times: Expression & { readonly kind: 'times' }, next: Rest | undefined): Rest | undefined {
    const { part, low, high } = times
    if (high === Infinity && low === 0) return this.#rest(times, next)
    if (high <= 1) return next
    return this.#rest(this.#fewer(part, Math.max(0, low - 1), high - 1), next)
  }

  /** One object for each count, so that remainders that are equal are the same. */
  #fewer(part: Expression, low: number, high: number): Expression {
    let byCount = this.#counted.get(part)
    if (byCount === undefined) this.#counted.set(part, (byCount = new Map()))
    const key = `${low},${high}`
    let known = byCount.get(key)
    if (known === undefined) byCount.set(key, (known = { kind: 'times', part, low, high }))
    return known
  }

  #rest(head: Expression, next: Rest | undefined): Rest {
    let headId = this.#ids.get(head)
    if (headId === undefined) this.#ids.set(head, (headId = ++this.#last))
    return intern(this.#rests, `${headId},${next?.id ?? 0}`, () => ({ id: ++this.#last, head, next }))
  }

  #frame(rest: Rest, below: Frame | undefined): Frame {
    return intern(this.#frames, `${rest.id},${below?.id ?? 0}`, () => ({ id: ++this.#last, rest, below, depth: (below?.depth ?? 0) + 1 }))
  }

  #thread({ ranges, after, frame }: Omit<Thread, 'id' | 'local'>): Thread {
    // The same bytes before the same remainder are the same place of the same rule, wherever that was entered from.
    const bytes = ranges.join(';')
    return intern(this.#threads, `${bytes}|${after?.id ?? 0}|${frame?.id ?? 0}`, () => {
      const local = intern(this.#locals, `${bytes}|${this.#clamp(after)?.id ?? 0}`, () => ++this.#last)
      return { id: ++this.#last, ranges, after, frame, local }
    })
  }

  /** The same remainder with no repetition longer than a token can tell. */
  #clamp(rest: Rest | undefined): Rest | undefined {
    const chain: Rest[] = []
    let at = rest
    for (; at !== undefined && !this.#clamped.has(at); at = at.next) chain.push(at)
    let clamped = at === undefined ? undefined : this.#clamped.get(at)
    const most = this.#window
    for (const link of chain.reverse()) {
      const { head } = link
      const short = head.kind === 'times' && (head.low > most || (head.high > most && head.high !== Infinity)) ? this.#fewer(head.part, Math.min(head.low, most), head.high === Infinity ? Infinity : Math.min(head.high, most)) : head
      clamped = this.#rest(short, clamped)
      this.#clamped.set(link, clamped)
    }
    return clamped
  }

  #state(threads: readonly Thread[], done: boolean): State {
    const sorted = [...threads].sort((a, b) => a.id - b.id)
    return intern(this.#states, `${done ? '+' : '-'}${sorted.map(({ id }) => id).join(',')}`, () => ({ threads: sorted, done, next: [] }))
  }

  /** States in use stay valid: they hold all they need. Ids go on rising, so none is ever two things. */
  #forget(): void {
    this.#rests = new Map()
    this.#frames = new Map()
    this.#threads = new Map()
    this.#states = new Map()
    this.#ids = new Map()
    this.#counted = new Map()
    this.#locals = new Map()
    this.#clamped = new Map()
  }
}

type Open = { readonly rest: Rest | undefined; readonly frame: Frame | undefined }

const DEAD: State = { threads: [], done: false, next: [] }

function intern<T>(known: Map<string, T>, key: string, make: () => T): T {
  let value = known.get(key)
  if (value === undefined) known.set(key, (value = make()))
  return value
}
