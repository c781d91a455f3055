import { TemplateFault } from './values.ts'

/** A conversation of ten thousand messages takes about a tenth of it, and it is done within a second. */
const MOST = 10_000_000
/** Characters that cost as much as one thing to do. */
const CHARACTERS = 16
/** Characters of one text, far beyond any context. */
const LONGEST = 1 << 25

/** What one rendering may do: templates come with models that anybody publishes, and are rendered where others wait. */
export class Work {
  #left = MOST

  /** So many things are done. Throws TemplateFault when they are too many. */
  spend(things: number): void {
    this.#left -= things
    if (this.#left < 0) throw new TemplateFault(`it does too much: more than ${MOST / 1_000_000} million steps for one prompt`)
  }

  /** A text of so many characters, or a list of so many items, was made. */
  made(what: { readonly characters: number } | { readonly items: number }): void {
    this.spend('items' in what ? what.items : Math.ceil(what.characters / CHARACTERS))
  }
}

/** `text` so many times. Throws TemplateFault where that would be too long. */
export function repeated(text: string, times: number): string {
  const count = Math.max(0, times)
  if (text.length * count > LONGEST) throw new TemplateFault(`a text of ${text.length * count} characters is too long`)
  return text.repeat(count)
}

/** So many of nothing, for who makes a list of them. Throws TemplateFault where they are too many. */
export function places(count: number): readonly undefined[] {
  if (count > LONGEST / CHARACTERS) throw new TemplateFault(`a list of ${count} items is too long`)
  return Array.from({ length: Math.max(0, count) })
}
