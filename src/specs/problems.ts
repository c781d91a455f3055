import { MeshError } from '../../protocols/errors.ts'

const KEPT = 100
const SHOWN = 5

/** Collects everything wrong with one document, so that its author can fix it in one go. */
export class Problems {
  readonly #what: string
  readonly #found: { readonly field: string; readonly message: string }[] = []
  #count = 0

  /** `what` names the document in the message: "component spec", "vDAG spec". */
  constructor(what: string) {
    this.#what = what
  }

  get count(): number {
    return this.#count
  }

  /** `message` says what is wrong and what would be right. */
  add(field: string, message: string): void {
    this.#count += 1
    if (this.#found.length < KEPT) this.#found.push({ field, message })
  }

  /** Throws SPEC_INVALID that lists the first five problems, when there are any. */
  settle(): void {
    const [first] = this.#found
    if (first === undefined) return
    const shown = this.#found.slice(0, SHOWN).map(({ field, message }) => (field === '' ? message : `${field}: ${message}`))
    const more = this.#count > SHOWN ? `; and ${this.#count - SHOWN} more` : ''
    throw new MeshError('SPEC_INVALID', `${this.#what}: ${shown.join('; ')}${more}`, { details: { field: first.field, problems: this.#count } })
  }
}
