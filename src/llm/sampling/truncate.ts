import { greatest, greatestOf } from './ranking.ts'

/** Classes of equal width that order the logits coarsely: 64 to a nat, the last for all that is more than 32 nats below the greatest. */
const CLASSES_PER_NAT = 64
const CLASSES = 32 * CLASSES_PER_NAT

/** Up to so many a heap finds the greatest sooner than classes do. */
const HEAP = 1_024

/** Where the kept end: ids whose logit is above `logit`, and of those equal to it the ones up to `id`. */
export type Cut = { readonly logit: number; readonly id: number }

export type Truncation = { readonly temperature: number; readonly topK: number; readonly topP: number; readonly minP: number }

/**
 * Draws ids in proportion to e^(logit / temperature) after top-k, top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024).
 * Each of the three keeps a prefix of the ranking, so all three together are one cut; it is found over classes of logits, and
 * only the class that holds the cut is ever sorted. Holds scratch space of the vocabulary's size: one a session.
 */
export class TruncatedDraw {
  #weights = new Float64Array(0)
  readonly #counts = new Uint32Array(CLASSES)
  readonly #masses = new Float64Array(CLASSES)

  /** `uniform` in [0, 1) picks among the kept, in the order of their ids. -1 when no logit is above -Infinity. */
  draw(logits: Float32Array, truncation: Truncation, uniform: number): number {
    const best = greatest(logits)
    // An overflowed logit has no finite weight: it is the answer, as it is for greedy.
    if (best < 0 || logits[best] === Infinity) return best
    const total = this.#weigh(logits, logits[best]!, truncation.temperature)
    const cut = this.#cut(logits, logits[best]!, truncation, total)
    const kept = (id: number): boolean => cut === undefined || logits[id]! > cut.logit || (logits[id] === cut.logit && id <= cut.id)
    let mass = total
    if (cut !== undefined) {
      mass = 0
      for (let id = 0; id < logits.length; id += 1) if (kept(id)) mass += this.#weights[id]!
    }
    let left = uniform * mass
    let last = best
    for (let id = 0; id < logits.length; id += 1) {
      const weight = this.#weights[id]!
      if (weight === 0 || !kept(id)) continue
      last = id
      left -= weight
      if (left < 0) return id
    }
    // Rounding left a crumb: it is the last one's.
    return last
  }

  #weigh(logits: Float32Array, most: number, temperature: number): number {
    if (this.#weights.length < logits.length) this.#weights = new Float64Array(logits.length)
    const weights = this.#weights
    this.#counts.fill(0)
    this.#masses.fill(0)
    let total = 0
    for (let id = 0; id < logits.length; id += 1) {
      const value = logits[id]!
      const weight = value > -Infinity ? Math.exp((value - most) / temperature) : 0
      weights[id] = weight
      if (!(value > -Infinity)) continue
      total += weight
      const group = classOf(value, most, temperature)
      this.#counts[group]! += 1
      this.#masses[group]! += weight
    }
    return total
  }

  #cut(logits: Float32Array, most: number, { temperature, topK, topP, minP }: Truncation, total: number): Cut | undefined {
    let cut: Cut | undefined
    let mass = total
    if (topK > 0 && topK <= HEAP) {
      const ranked = greatestOf(logits, topK)
      cut = cutAfter(logits, ranked)
      mass = this.#massOf(ranked)
    } else if (topK > 0) {
      let group = 0
      let before = 0
      while (group < CLASSES && before + this.#counts[group]! < topK) before += this.#counts[group++]!
      if (group < CLASSES) {
        const inside = this.#ranked(logits, most, temperature, group).slice(0, topK - before)
        cut = cutAfter(logits, inside)
        mass = this.#massBefore(group) + this.#massOf(inside)
      }
    }
    if (topP < 1) cut = stricter(cut, this.#nucleus(logits, most, temperature, topP * mass))
    // An id must have min-p times the probability of the likeliest; the ids beyond every vocabulary tie in favour of keeping.
    if (minP > 0) cut = stricter(cut, { logit: most + temperature * Math.log(minP), id: Infinity })
    return cut
  }

  /** The shortest prefix of the ranking whose mass reaches `wanted`, and never less than the first. */
  #nucleus(logits: Float32Array, most: number, temperature: number, wanted: number): Cut | undefined {
    let mass = 0
    for (let group = 0; group < CLASSES; group += 1) {
      if (mass + this.#masses[group]! < wanted) {
        mass += this.#masses[group]!
        continue
      }
      if (this.#counts[group] === 0) continue
      for (const id of this.#ranked(logits, most, temperature, group)) {
        mass += this.#weights[id]!
        if (mass >= wanted) return { logit: logits[id]!, id }
      }
    }
    return undefined
  }

  #massBefore(group: number): number {
    let mass = 0
    for (let at = 0; at < group; at += 1) mass += this.#masses[at]!
    return mass
  }

  #massOf(ids: readonly number[]): number {
    return ids.reduce((sum, id) => sum + this.#weights[id]!, 0)
  }

  #ranked(logits: Float32Array, most: number, temperature: number, group: number): number[] {
    const ids: number[] = []
    for (let id = 0; id < logits.length; id += 1) if (logits[id]! > -Infinity && classOf(logits[id]!, most, temperature) === group) ids.push(id)
    return ids.sort((a, b) => logits[b]! - logits[a]! || a - b)
  }
}

function classOf(value: number, most: number, temperature: number): number {
  return Math.min(CLASSES - 1, Math.floor(((most - value) / temperature) * CLASSES_PER_NAT))
}

function cutAfter(logits: Float32Array, ranked: readonly number[]): Cut | undefined {
  const id = ranked.at(-1)
  return id === undefined ? undefined : { logit: logits[id]!, id }
}

function stricter(a: Cut | undefined, b: Cut | undefined): Cut | undefined {
  if (a === undefined || b === undefined) return a ?? b
  return a.logit > b.logit || (a.logit === b.logit && a.id < b.id) ? a : b
}
