/** Centre and size in pixels. */
export type Box = { readonly x: number; readonly y: number; readonly w: number; readonly h: number; readonly score: number }

/** The model looks at a frame as 8 × 8 cells. */
export const CELLS = 8
const LEAST_SCORE = 0.5
const SAME = 0.3

/**
 * The boxes of a grid of five channels (how likely a figure's centre is in the cell, where in it, how large), the surest first;
 * of boxes that overlap the surest stays.
 */
export function boxes(grid: ArrayLike<number>, side: number, leastScore = LEAST_SCORE): readonly Box[] {
  const cells = CELLS * CELLS
  const at = (channel: number, cell: number): number => grid[channel * cells + cell] ?? 0
  const found: Box[] = []
  for (let cell = 0; cell < cells; cell += 1) {
    const score = 1 / (1 + Math.exp(-at(0, cell)))
    if (score < leastScore) continue
    const stride = side / CELLS
    found.push({ x: ((cell % CELLS) + at(1, cell)) * stride, y: (Math.floor(cell / CELLS) + at(2, cell)) * stride, w: at(3, cell) * side, h: at(4, cell) * side, score })
  }
  found.sort((a, b) => b.score - a.score)
  const kept: Box[] = []
  for (const box of found) if (kept.every(other => overlap(box, other) < SAME)) kept.push(box)
  return kept
}

/** Intersection over union. */
export function overlap(a: Omit<Box, 'score'>, b: Omit<Box, 'score'>): number {
  const shared = side(a.x, a.w, b.x, b.w) * side(a.y, a.h, b.y, b.h)
  const all = a.w * a.h + b.w * b.h - shared
  return all <= 0 ? 0 : shared / all
}

function side(p: number, size: number, q: number, other: number): number {
  return Math.max(0, Math.min(p + size / 2, q + other / 2) - Math.max(p - size / 2, q - other / 2))
}
