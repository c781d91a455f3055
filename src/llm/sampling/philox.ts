/**
 * Draws that depend on a seed and a position alone: whoever takes a session over draws what the one before would have.
 * Philox4x32-10, a counter-based generator (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3; SC 2011).
 */
const ROUNDS = 10
const MULTIPLY_A = 0xd2511f53
const MULTIPLY_B = 0xcd9e8d57
const KEY_STEP_A = 0x9e3779b9
const KEY_STEP_B = 0xbb67ae85

export type Words4 = readonly [number, number, number, number]

/** One block of 128 random bits, as unsigned 32-bit words. */
export function philox4x32(counter: Words4, key: readonly [number, number]): Words4 {
  let [a, b, c, d] = counter
  let [left, right] = key
  for (let round = 0; round < ROUNDS; round += 1) {
    const lowA = Math.imul(MULTIPLY_A, a) >>> 0
    const highA = high(MULTIPLY_A, a)
    const lowB = Math.imul(MULTIPLY_B, c) >>> 0
    const highB = high(MULTIPLY_B, c)
    a = (highB ^ b ^ left) >>> 0
    b = lowB
    c = (highA ^ d ^ right) >>> 0
    d = lowA
    left = (left + KEY_STEP_A) >>> 0
    right = (right + KEY_STEP_B) >>> 0
  }
  return [a, b, c, d]
}

/** Uniform in [0, 1), 53 bits, for `position` of the stream `seed` (both non-negative safe integers). */
export function drawAt(seed: number, position: number): number {
  const [first, second] = philox4x32([position >>> 0, Math.floor(position / 0x1_0000_0000), 0, 0], [seed >>> 0, Math.floor(seed / 0x1_0000_0000)])
  return ((first >>> 5) * 67_108_864 + (second >>> 6)) / 9_007_199_254_740_992
}

/** Upper 32 bits of a 64-bit product, by halves: a double holds no more than 53. */
function high(x: number, y: number): number {
  const xLow = x & 0xffff
  const xHigh = x >>> 16
  const yLow = y & 0xffff
  const yHigh = y >>> 16
  const middle = xHigh * yLow + ((xLow * yLow) >>> 16)
  const carry = xLow * yHigh + (middle & 0xffff)
  return (xHigh * yHigh + Math.floor(middle / 65_536) + Math.floor(carry / 65_536)) >>> 0
}
