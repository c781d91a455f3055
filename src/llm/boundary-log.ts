/** Bytes that all boundary logs of a host may hold together. */
export class LogBudget {
  readonly limit: number
  used = 0

  constructor(limit: number) {
    this.limit = limit
  }
}

export type Sent = { readonly position: number; readonly count: number; readonly hidden: Uint8Array }

/**
 * What a stage sent on, step by step and in the very shapes it was computed in, for the next stage's successor. Contiguous;
 * the oldest goes first when the host's budget is spent.
 */
export class BoundaryLog {
  readonly #budget: LogBudget
  #steps: Sent[] = []
  #bytes = 0

  constructor(budget: LogBudget) {
    this.#budget = budget
  }

  get bytes(): number {
    return this.#bytes
  }

  /** First position that can be sent again; undefined when empty. */
  get from(): number | undefined {
    return this.#steps[0]?.position
  }

  get end(): number | undefined {
    const last = this.#steps.at(-1)
    return last === undefined ? undefined : last.position + last.count
  }

  append(step: Sent): void {
    this.cut(step.position)
    if (this.end !== undefined && this.end !== step.position) this.clear()
    this.#steps.push(step)
    this.#count(step.hidden.byteLength)
    while (this.#budget.used > this.#budget.limit && this.#steps.length > 0) this.#shift()
  }

  /** Forgets positions from `position` on; of a step that reaches beyond it the rows before stay. */
  cut(position: number): void {
    for (let last = this.#steps.at(-1); last !== undefined && last.position + last.count > position; last = this.#steps.at(-1)) {
      this.#steps.pop()
      this.#count(-last.hidden.byteLength)
      const kept = position - last.position
      if (kept <= 0) continue
      const hidden = last.hidden.slice(0, (last.hidden.byteLength / last.count) * kept)
      this.#steps.push({ position: last.position, count: kept, hidden })
      this.#count(hidden.byteLength)
    }
  }

  /** Forgets steps that end at or before `position`: the next stage's standby has them. */
  trim(position: number): void {
    while (this.#steps[0] !== undefined && this.#steps[0].position + this.#steps[0].count <= position) this.#shift()
  }

  /** The steps, whole, that hold positions from `position` on. */
  since(position: number): readonly Sent[] {
    return this.#steps.filter(step => step.position + step.count > position)
  }

  clear(): void {
    this.#steps = []
    this.#count(-this.#bytes)
  }

  #shift(): void {
    const first = this.#steps.shift()
    if (first !== undefined) this.#count(-first.hidden.byteLength)
  }

  #count(bytes: number): void {
    this.#bytes += bytes
    this.#budget.used += bytes
  }
}
