import type { Automaton, State } from './automaton.ts'

/**
 * The bytes that tokens stand for, as a trie laid out in preorder, so that one pass over an array tries the whole vocabulary
 * and skips all tokens below a byte that may not come.
 */
export class Vocabulary {
  /** How many ids there are, those without text included. */
  readonly size: number
  /** Bytes of the longest token. */
  readonly longest: number
  readonly #bytes: Uint8Array
  readonly #depths: Uint16Array
  /** Of each node: the first one that is not below it. */
  readonly #past: Uint32Array
  /** Of each node: where its tokens begin in `#tokens`; they end where the next node's begin. */
  readonly #first: Uint32Array
  readonly #tokens: Uint32Array
  readonly #path: State[] = []

  /** `texts[id]`: the bytes of a token; undefined or empty for those that give no text. */
  constructor(texts: readonly (Uint8Array | undefined)[]) {
    this.size = texts.length
    // As strings of one character a byte: the platform sorts those fastest.
    const words = texts.flatMap((text, id) => (text === undefined || text.length === 0 ? [] : [{ id, word: String.fromCharCode(...text) }]))
    words.sort((a, b) => (a.word < b.word ? -1 : a.word > b.word ? 1 : a.id - b.id))
    this.longest = words.reduce((most, { word }) => Math.max(most, word.length), 0)
    const bytes: number[] = []
    const depths: number[] = []
    const past: number[] = []
    const first: number[] = []
    const open: number[] = []
    const close = (depth: number): void => {
      while (open.length > depth) past[open.pop()!] = bytes.length
    }
    let before = ''
    words.forEach(({ word }, at) => {
      let shared = 0
      while (shared < before.length && shared < word.length && before.charCodeAt(shared) === word.charCodeAt(shared)) shared += 1
      close(shared)
      for (let depth = shared; depth < word.length; depth += 1) {
        open.push(bytes.length)
        bytes.push(word.charCodeAt(depth))
        depths.push(depth)
        first.push(at)
      }
      before = word
    })
    close(0)
    // Words are sorted, so the nodes on the way to a word are made for it, and but for the last begin and end where it begins.
    this.#tokens = Uint32Array.from(words, ({ id }) => id)
    this.#bytes = Uint8Array.from(bytes)
    this.#depths = Uint16Array.from(depths)
    this.#past = Uint32Array.from(past)
    this.#first = Uint32Array.from([...first, words.length])
  }

  /**
   * Marks in `mask` the tokens whose bytes may come after `start`, below one node or (from -1) of the whole trie. `left` hears
   * of each node where the walk left the rule it began in, with more below it.
   */
  walk(automaton: Automaton, start: State, from: number, mask: Uint32Array, left?: (node: number) => void): void {
    const base = from < 0 ? 0 : this.#depths[from]! + 1
    const end = from < 0 ? this.#bytes.length : this.#past[from]!
    const path = this.#path
    path[base] = start
    for (let node = from + 1; node < end; ) {
      const depth = this.#depths[node]!
      const state = automaton.step(path[depth]!, this.#bytes[node]!)
      if (state === undefined) {
        node = this.#past[node]!
        continue
      }
      const stop = this.#first[node + 1]!
      for (let at = this.#first[node]!; at < stop; at += 1) {
        const id = this.#tokens[at]!
        mask[id >> 5]! |= 1 << (id & 31)
      }
      path[depth + 1] = state
      if (left !== undefined && state.done && this.#past[node]! > node + 1) left(node)
      node += 1
    }
  }
}
