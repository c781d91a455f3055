/** Prompt positions of one step: a multiple of the prefix block, so that prefixes end where steps do. */
export const CHUNK = 128

/** Tokens of a prompt that go along with an opening, at most: for longer ones what they take to compute is more than a round trip. */
export const OPENING_TOKENS = 4_096

/**
 * The step for position `at` of a session whose prompt has `prompt` tokens. What is computed again is computed as the first time,
 * since runtimes have other kernels for one position than for several, and those give other last bits: the prompt in chunks,
 * none of them of a single position; the answer one by one.
 */
export function chunkAt(prompt: number, at: number): { readonly position: number; readonly count: number } {
  if (at >= prompt) return { position: at, count: 1 }
  const edge = Math.min((Math.floor(at / CHUNK) + 1) * CHUNK, prompt)
  return edge - at === 1 && at > 0 ? { position: at - 1, count: 2 } : { position: at, count: edge - at }
}

/** Tokens as they lie in an opening: u32le each. */
export function packTokens(tokens: readonly number[]): Uint8Array {
  const packed = new Uint8Array(4 * tokens.length)
  const view = new DataView(packed.buffer)
  for (const [at, token] of tokens.entries()) view.setUint32(4 * at, token, true)
  return packed
}

/** Tokens `position` to `position + count` of those. */
export function unpackTokens(packed: Uint8Array, position: number, count: number): readonly number[] {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength)
  return Array.from({ length: count }, (_, at) => view.getUint32(4 * (position + at), true))
}
