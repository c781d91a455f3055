/** Who wants to hear of something. One that throws does not keep the others from hearing. */
export class Hears<A extends readonly unknown[]> {
  readonly #all = new Set<(...args: A) => void>()
  readonly #bug: (error: unknown) => void

  constructor(bug: (error: unknown) => void) {
    this.#bug = bug
  }

  add(hear: (...args: A) => void): () => void {
    this.#all.add(hear)
    return () => void this.#all.delete(hear)
  }

  tell(...args: A): void {
    for (const hear of this.#all) {
      try {
        hear(...args)
      } catch (error) {
        this.#bug(error)
      }
    }
  }
}
