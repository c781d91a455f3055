import { all, bytes, IMPOSSIBLE, one, type Expression } from './expression.ts'

/** Code points, inclusive. */
export type CodeRange = readonly [low: number, high: number]

const LAST = 0x10ffff
const SURROGATES: CodeRange = [0xd800, 0xdfff]

export const ANY: readonly CodeRange[] = [[0, LAST]]

/** Sorted, without overlaps, without surrogates: those have no UTF-8. */
export function normal(ranges: readonly CodeRange[]): readonly CodeRange[] {
  const out: CodeRange[] = []
  for (const [low, high] of [...ranges].sort((a, b) => a[0] - b[0])) {
    const last = out.at(-1)
    if (last !== undefined && low <= last[1] + 1) out[out.length - 1] = [last[0], Math.max(last[1], high)]
    else out.push([low, high])
  }
  return out.flatMap(([low, high]) => {
    const parts: CodeRange[] = []
    if (low < SURROGATES[0]) parts.push([low, Math.min(high, SURROGATES[0] - 1)])
    if (high > SURROGATES[1]) parts.push([Math.max(low, SURROGATES[1] + 1), high])
    return parts
  })
}

export function except(ranges: readonly CodeRange[], without: readonly CodeRange[]): readonly CodeRange[] {
  let left = normal(ranges)
  for (const [low, high] of normal(without)) {
    left = left.flatMap(([from, to]) => {
      if (to < low || from > high) return [[from, to] as const]
      const parts: CodeRange[] = []
      if (from < low) parts.push([from, low - 1])
      if (to > high) parts.push([high + 1, to])
      return parts
    })
  }
  return left
}

export function common(a: readonly CodeRange[], b: readonly CodeRange[]): readonly CodeRange[] {
  return except(a, except(ANY, b))
}

/** One character out of `ranges`, as its UTF-8 (the range splitting of R. Cox, utf8-ranges / RE2). */
export function character(ranges: readonly CodeRange[]): Expression {
  const parts = normal(ranges).flatMap(range => encodings(range))
  const single = parts.filter(part => part.length === 1).map(([range]) => range!)
  const longer = parts.filter(part => part.length > 1).map(part => all(...part.map(range => bytes(range))))
  const options = single.length === 0 ? longer : [bytes(...single), ...longer]
  return options.length === 0 ? IMPOSSIBLE : one(...options)
}

/** Splits a range so that in each part every byte runs over a range of its own. */
function encodings([low, high]: CodeRange): readonly (readonly CodeRange[])[] {
  for (const edge of [0x7f, 0x7ff, 0xffff]) if (low <= edge && high > edge) return [...encodings([low, edge]), ...encodings([edge + 1, high])]
  if (high <= 0x7f) return [[[low, high]]]
  // Below a byte that differs, the ones after it must run over all they can.
  for (const bits of [6, 12, 18]) {
    const mask = (1 << bits) - 1
    if ((low & ~mask) === (high & ~mask)) break
    if ((low & mask) !== 0) return [...encodings([low, low | mask]), ...encodings([(low | mask) + 1, high])]
    if ((high & mask) !== mask) return [...encodings([low, (high & ~mask) - 1]), ...encodings([high & ~mask, high])]
  }
  const from = utf8(low)
  const to = utf8(high)
  return [from.map((byte, at) => [byte, to[at]!] as const)]
}

function utf8(code: number): readonly number[] {
  if (code <= 0x7f) return [code]
  const tail = (shift: number): number => 0x80 | ((code >> shift) & 0x3f)
  if (code <= 0x7ff) return [0xc0 | (code >> 6), tail(0)]
  if (code <= 0xffff) return [0xe0 | (code >> 12), tail(6), tail(0)]
  return [0xf0 | (code >> 18), tail(12), tail(6), tail(0)]
}
