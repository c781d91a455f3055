import { MeshError } from '../../protocols/errors.ts'

const KEPT = 100
const SHOWN = 5
const QUOTED = 60

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

/** A value as an error message may show it: short, on one line. */
export function quote(value: unknown): string {
  if (value === undefined) return 'missing'
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (value !== null && typeof value === 'object') return `an object with ${Object.keys(value).slice(0, 4).map(key => key.slice(0, 24)).join(', ') || 'no fields'}`
  const text = typeof value === 'string' ? JSON.stringify(value.slice(0, QUOTED + 1)) : String(value)
  return text.length > QUOTED ? `${text.slice(0, QUOTED)}…` : text
}
