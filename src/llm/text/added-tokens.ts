import { endingFrom } from '../../lib/ending.ts'
import type { AddedToken } from './tokenizer-files.ts'
import type { Normalizer } from './normalizers.ts'

/** A part of a text: a token of its own, or text for the model. `first`: begins where the whole text does. */
export type Section = { readonly token: number } | { readonly text: string; readonly first: boolean }

// The word signs of the `regex` crate, by which Hugging Face's library judges.
const WORD = String.raw`[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]`
const WORD_BEFORE = new RegExp(`${WORD}$`, 'u')
const WORD_AFTER = new RegExp(`^${WORD}`, 'u')
const SPACE = /\p{White_Space}/u
const SPACE_AFTER = /^\p{White_Space}*/u

/**
 * Finds the tokens that were added to a vocabulary, as Hugging Face's `tokenizers` does: first those that are looked for in the text as it
 * is, then, in what is between, those that are looked for in the normalized text; of several at a place the longest. One that must
 * stand alone as a word and does not is passed over whole; white space that a token takes in with it goes.
 */
export class AddedTokens {
  readonly #plain: Finder
  readonly #normalized: Finder
  readonly #normalize: Normalizer

  constructor(tokens: readonly AddedToken[], normalize: Normalizer) {
    this.#normalize = normalize
    this.#plain = new Finder(tokens.filter(token => !isNormalized(token)), text => text)
    this.#normalized = new Finder(tokens.filter(isNormalized), normalize)
  }

  /** Parts of a text in order; text is normalized, and none of it empty. */
  split(text: string): readonly Section[] {
    const whole: Section = { text, first: true }
    return this.#plain.split(whole).flatMap(section => ('token' in section ? [section] : this.#normalized.split({ ...section, text: this.#normalize(section.text) })))
  }
}

function isNormalized({ normalized, special }: AddedToken): boolean {
  return normalized ?? !special
}

class Finder {
  readonly #tokens: ReadonlyMap<string, AddedToken>
  readonly #any: RegExp | undefined

  constructor(tokens: readonly AddedToken[], as: (content: string) => string) {
    // Of two that are looked for by one text, the first counts, special ones before others.
    const inOrder = [...tokens.filter(({ special }) => special), ...tokens.filter(({ special }) => !special)]
    this.#tokens = new Map(inOrder.toReversed().map(token => [as(token.content), token] as const).filter(([text]) => text !== ''))
    const longestFirst = [...this.#tokens.keys()].toSorted((a, b) => b.length - a.length)
    this.#any = longestFirst.length === 0 ? undefined : new RegExp(longestFirst.map(text => text.replace(/[.*+?^${}()|[\]\\/]/g, String.raw`\$&`)).join('|'), 'gu')
  }

  split({ text, first }: { readonly text: string; readonly first: boolean }): readonly Section[] {
    const sections: Section[] = []
    let end = 0
    const take = (to: number): void => {
      if (to > end) sections.push({ text: text.slice(end, to), first: first && end === 0 })
    }
    for (const { 0: found, index } of this.#any === undefined ? [] : text.matchAll(this.#any)) {
      const token = this.#tokens.get(found)
      if (token === undefined) continue
      const [before, after] = [text.slice(0, index), text.slice(index + found.length)]
      if (token.single_word === true && (WORD_BEFORE.test(before.slice(-2)) || WORD_AFTER.test(after))) continue
      // One before may have taken it in as white space: then it is a token all the same, if anything is left of it.
      const from = token.lstrip === true ? Math.max(end, endingFrom(before, SPACE)) : index
      const to = index + found.length + (token.rstrip === true ? SPACE_AFTER.exec(after)?.[0].length ?? 0 : 0)
      if (from >= to) continue
      take(from)
      sections.push({ token: token.id })
      end = to
    }
    take(text.length)
    return sections
  }
}
