/** Puts parts one after the other. `size`: bytes of all of them. */
export function concat(parts: Iterable<Uint8Array>, size: number): Uint8Array {
  const whole = new Uint8Array(size)
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.byteLength
  }
  return whole
}

/** Holds a stream whole. Throws what `tooLarge` makes as soon as more than `limit` bytes have come. */
export async function gather(parts: AsyncIterable<Uint8Array>, limit: number, tooLarge: () => Error): Promise<Uint8Array> {
  const held: Uint8Array[] = []
  let size = 0
  for await (const part of parts) {
    size += part.byteLength
    if (size > limit) throw tooLarge()
    held.push(part)
  }
  return concat(held, size)
}
