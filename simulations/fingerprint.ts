/** A running hash over integers: what two runs of one seed must agree on. */
export class Fingerprint {
  #high = 0x811c9dc5
  #low = 0x9e3779b9

  mix(value: number): void {
    this.#high = Math.imul(this.#high ^ value, 0x01000193)
    this.#low = Math.imul((this.#low << 5) ^ (this.#low >>> 27) ^ value, 0x85ebca6b)
  }

  /** 16 hexadecimal digits. */
  toString(): string {
    return hex32(this.#high) + hex32(this.#low)
  }
}

function hex32(word: number): string {
  return (word >>> 0).toString(16).padStart(8, '0')
}
