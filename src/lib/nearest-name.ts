/**
 * The name that somebody meant who wrote `said`: the closest one by single letters added, left out, changed or swapped
 * (optimal string alignment), case aside, when no more than one letter in four, and at least one, is wrong. Undefined when none is that close.
 */
export function nearestName(said: string, names: Iterable<string>): string | undefined {
  let best: { readonly name: string; readonly slips: number } | undefined
  const lower = said.toLowerCase().slice(0, LONGEST)
  for (const name of names) {
    const most = Math.max(1, Math.floor(Math.min(name.length, lower.length) / 4))
    if (Math.abs(name.length - lower.length) > most) continue
    const slips = distance(lower, name.toLowerCase().slice(0, LONGEST))
    if (slips <= most && (best === undefined || slips < best.slips)) best = { name, slips }
  }
  return best?.name
}

const LONGEST = 100

function distance(a: string, b: string): number {
  let before: number[] = []
  let above = Array.from({ length: b.length + 1 }, (_, at) => at)
  for (let row = 1; row <= a.length; row += 1) {
    const line = [row]
    for (let column = 1; column <= b.length; column += 1) {
      const same = a[row - 1] === b[column - 1]
      let least = Math.min(above[column]! + 1, line[column - 1]! + 1, above[column - 1]! + (same ? 0 : 1))
      if (row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]) least = Math.min(least, before[column - 2]! + 1)
      line.push(least)
    }
    before = above
    above = line
  }
  return above[b.length]!
}
