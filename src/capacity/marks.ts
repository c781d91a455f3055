import type { CapacityAd } from '../../protocols/capacity.ts'

/** Each word is named in so many bytes where two peers compare what they hold. */
const BYTES = 4

const known = new WeakMap<CapacityAd, number>()

/** FNV-1a over who said it and when in its lives. Two words that share a mark are told apart by the next gossip or pull. */
export function markOf(ad: CapacityAd): number {
  const made = known.get(ad)
  if (made !== undefined) return made
  const { peer, incarnation, sequence } = ad
  let mark = 0x811c9dc5
  for (let at = 0; at < peer.length; at += 1) mark = Math.imul(mark ^ peer.charCodeAt(at), 0x01000193)
  mark = Math.imul(mark ^ incarnation, 0x01000193)
  mark = Math.imul(mark ^ sequence, 0x01000193) >>> 0
  known.set(ad, mark)
  return mark
}

/** The words another peer holds. Sorted and not hashed: whoever chose the marks cannot make them slow to find. */
export class Marks {
  readonly #sorted: Uint32Array

  /** Reads `SlotMarks.written`. */
  constructor(bytes: Uint8Array) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const sorted = new Uint32Array(Math.floor(bytes.byteLength / BYTES))
    for (let at = 0; at < sorted.length; at += 1) sorted[at] = view.getUint32(at * BYTES)
    this.#sorted = sorted.sort()
  }

  /** How many different ones. */
  get size(): number {
    const sorted = this.#sorted
    let size = 0
    for (let at = 0; at < sorted.length; at += 1) if (at === 0 || sorted[at] !== sorted[at - 1]) size += 1
    return size
  }

  has(mark: number): boolean {
    const sorted = this.#sorted
    let [least, most] = [0, sorted.length]
    while (least < most) {
      const middle = (least + most) >>> 1
      if (sorted[middle]! < mark) least = middle + 1
      else most = middle
    }
    return sorted[least] === mark
  }
}

/** The marks of all words held, side by side: two for each holder, of its newest word and of the whole ad under it. */
export class SlotMarks<H extends { slot: number }> {
  readonly #holders: H[] = []
  #marks = new Uint32Array(32)

  add(holder: H): void {
    holder.slot = this.#holders.push(holder) - 1
    if (this.#holders.length * 2 <= this.#marks.length) return
    const wider = new Uint32Array(this.#marks.length * 2)
    wider.set(this.#marks)
    this.#marks = wider
  }

  /** The last one takes its place. */
  remove(holder: H): void {
    const last = this.#holders.pop()
    if (last === undefined || last === holder) return
    this.set(holder, this.#marks[last.slot * 2]!, this.#marks[last.slot * 2 + 1]!)
    last.slot = holder.slot
    this.#holders[last.slot] = last
  }

  set({ slot }: H, newest: number, whole: number): void {
    this.#marks[slot * 2] = newest
    this.#marks[slot * 2 + 1] = whole
  }

  /** Each once, 4 bytes, at most `most` of them. */
  written(most: number): Uint8Array {
    const end = this.#holders.length * 2
    const out = new DataView(new ArrayBuffer(BYTES * Math.min(most, end)))
    let written = 0
    for (let at = 0; at < end && written < out.byteLength; at += 1) {
      if (at % 2 === 1 && this.#marks[at] === this.#marks[at - 1]) continue
      out.setUint32(written, this.#marks[at]!)
      written += BYTES
    }
    return new Uint8Array(out.buffer, 0, written)
  }

  /** Holders whose newest word `held` does not name, in no order, and how many of its marks name nothing here. */
  compared(held: Marks): { readonly lacking: H[]; readonly unknown: number } {
    const lacking: H[] = []
    let unknown = held.size
    for (let slot = 0; slot < this.#holders.length; slot += 1) {
      const newest = this.#marks[slot * 2]!
      const whole = this.#marks[slot * 2 + 1]!
      if (held.has(newest)) unknown -= 1
      else lacking.push(this.#holders[slot]!)
      if (whole !== newest && held.has(whole)) unknown -= 1
    }
    return { lacking, unknown }
  }
}
