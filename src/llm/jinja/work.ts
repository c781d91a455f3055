import { TemplateFault } from './values.ts'

/** A conversation of ten thousand messages takes about a tenth of it, and it is done within a second. */
const MOST = 10_000_000
/** Characters that cost as much as one thing to do. */
const CHARACTERS = 16
/** Characters of one text, far beyond any context; a list may have as many items as cost the same. */
const LONGEST = 1 << 25

/** What one rendering may do: templates come with models that anybody publishes, and are rendered where others wait. */
export class Work {
  #left = MOST

  /** So many things are done, or items of a list made. Throws TemplateFault when they are too many. */
  spend(things: number): void {
    this.#left -= things
    if (this.#left < 0) throw new TemplateFault(`it does too much: more than ${MOST / 1_000_000} million steps for one prompt`)
  }

  /** A text was made. */
  wrote({ length }: string): void {
    this.spend(Math.ceil(length / CHARACTERS))
  }
}

/** `text` so many times. Throws TemplateFault where that would be too long. */
export function repeated(text: string, times: number): string {
  const count = Math.max(0, times)
  if (text.length * count > LONGEST) throw new TemplateFault(`a text of ${text.length * count} characters is too long`)
  return text.repeat(count)
}

/** `items` so many times, one after the other. Throws TemplateFault where they would be too many. */
export function several<T>(items: readonly T[], times: number): readonly T[] {
  const count = Math.max(0, times)
  if (Math.max(items.length, 1) * count > LONGEST / CHARACTERS) throw new TemplateFault(`a list of ${items.length * count} items is too long`)
  return Array.from({ length: count }).flatMap(() => items)
}
