import type { Pooling } from './settings.ts'

/** One vector of states: of the tokens' mean, of the first, or of the last. `states`: `length × width` in row-major order, padded after `tokens`. */
export function pool(states: readonly number[], width: number, tokens: number, by: Pooling): number[] {
  if (by !== 'mean') {
    const row = by === 'cls' ? 0 : tokens - 1
    return states.slice(row * width, (row + 1) * width)
  }
  const mean = Array.from({ length: width }, () => 0)
  for (let at = 0; at < tokens * width; at += 1) mean[at % width]! += states[at]! / tokens
  return mean
}

/** At length 1; a vector of zeros stays one. */
export function unit(vector: readonly number[]): number[] {
  const length = Math.hypot(...vector)
  return length === 0 ? [...vector] : vector.map(value => value / length)
}
