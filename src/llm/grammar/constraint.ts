import { MeshError } from '../../../protocols/errors.ts'
import { Lru } from '../../lib/lru.ts'
import { Automaton, GrammarTooWide, type State, type Thread } from './automaton.ts'
import type { Expression } from './expression.ts'
import type { Vocabulary } from './vocabulary.ts'

/** Masks kept: of whole states, and of places inside rules. One is an eighth of a byte a token. */
const STATE_MASKS = 64
const PLACE_MASKS = 256

/** Tokens that fit inside the rule, and the nodes of the trie where it is left and what comes after decides. */
type Place = { readonly mask: Uint32Array; readonly exits: readonly number[] }

/**
 * A form over one vocabulary: which tokens may come where. Masks are worked out for each place of each rule once, apart from
 * what surrounds it; only tokens that reach beyond the rule are tried anew (after XGrammar, Dong et al. 2024). Shared by sessions.
 */
export class Constraint {
  readonly #automaton: Automaton
  readonly #vocabulary: Vocabulary
  readonly #masks = new Lru<State, Uint32Array>(STATE_MASKS)
  readonly #places = new Lru<string, Place>(PLACE_MASKS)

  /** Throws SPEC_INVALID when no text at all fits. */
  constructor(form: Expression, vocabulary: Vocabulary) {
    this.#vocabulary = vocabulary
    this.#automaton = guarded(() => new Automaton(form, vocabulary.longest + 1))
    if (this.start.threads.length === 0 && !this.start.done) throw new MeshError('SPEC_INVALID', 'no answer at all fits the form that was asked for')
  }

  get start(): State {
    return this.#automaton.start
  }

  /** Undefined when the bytes do not fit. */
  advance(state: State, bytes: Uint8Array): State | undefined {
    return guarded(() => {
      let at: State | undefined = state
      for (const byte of bytes) if (at !== undefined) at = this.#automaton.step(at, byte)
      return at
    })
  }

  /** A bit for each id of the vocabulary that may come next. Not to be changed. */
  mask(state: State): Uint32Array {
    const known = this.#masks.get(state)
    if (known !== undefined) return known
    const mask = new Uint32Array(Math.ceil(this.#vocabulary.size / 32))
    guarded(() => {
      for (const threads of byFrame(state.threads)) this.#add(mask, threads)
    })
    this.#masks.set(state, mask)
    return mask
  }

  #add(mask: Uint32Array, threads: readonly Thread[]): void {
    const { mask: inside, exits } = this.#place(threads)
    for (let word = 0; word < mask.length; word += 1) mask[word]! |= inside[word]!
    const outside = exits.length === 0 ? undefined : this.#automaton.outside(threads[0]!)
    if (outside !== undefined) for (const node of exits) this.#vocabulary.walk(this.#automaton, outside, node, mask)
  }

  #place(threads: readonly Thread[]): Place {
    const key = threads.map(({ local }) => local).sort((a, b) => a - b).join(',')
    const known = this.#places.get(key)
    if (known !== undefined) return known
    const mask = new Uint32Array(Math.ceil(this.#vocabulary.size / 32))
    const exits: number[] = []
    this.#vocabulary.walk(this.#automaton, this.#automaton.inside(threads), -1, mask, node => exits.push(node))
    const place = { mask, exits }
    this.#places.set(key, place)
    return place
  }
}

function byFrame(threads: readonly Thread[]): readonly (readonly Thread[])[] {
  const groups = new Map<number, Thread[]>()
  for (const thread of threads) {
    const group = groups.get(thread.frame?.id ?? 0)
    if (group === undefined) groups.set(thread.frame?.id ?? 0, [thread])
    else group.push(thread)
  }
  return [...groups.values()]
}

function guarded<T>(work: () => T): T {
  try {
    return work()
  } catch (cause) {
    if (cause instanceof GrammarTooWide) throw new MeshError('SPEC_INVALID', cause.message, { cause })
    throw cause
  }
}
