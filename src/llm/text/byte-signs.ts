/** GPT-2's stand-ins for bytes, by byte: those that print are themselves, the others follow from U+0100 on. */
const SIGNS: readonly string[] = (() => {
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae ? byte : next++))
})()
const BYTES: ReadonlyMap<string, number> = new Map(SIGNS.map((sign, byte) => [sign, byte]))

/** A text's bytes, a sign for each. */
export function inSigns(text: string): string {
  return Array.from(new TextEncoder().encode(text), byte => SIGNS[byte]).join('')
}

/** The bytes that signs stand for; undefined where one stands for none. */
export function bytesOfSigns(signs: string): Uint8Array | undefined {
  const bytes = new Uint8Array(signs.length)
  for (let at = 0; at < signs.length; at += 1) {
    const byte = BYTES.get(signs[at] ?? '')
    if (byte === undefined) return undefined
    bytes[at] = byte
  }
  return bytes
}
