import type { Host } from './draws.ts'

/**
 * How others divide a model, in our own words, after their sources as of summer 2026: Parallax (GradientHQ) gives layers in
 * proportion to compute and fills pipelines by a dynamic programme or greedily; exo gives them in proportion to memory.
 */

/** The water level at which hosts, each with layers in proportion to its TFLOPS up to what it holds, have all of them. */
export function waterFill(hosts: readonly Host[], layers: number): readonly number[] | undefined {
  if (hosts.reduce((sum, host) => sum + host.layers, 0) < layers) return undefined
  let low = 0
  let high = Math.max(...hosts.map(({ layers, tflops }) => layers / tflops))
  for (let step = 0; step < 60; step += 1) {
    const level = (low + high) / 2
    if (hosts.reduce((sum, host) => sum + Math.min(host.layers, level * host.tflops), 0) < layers) low = level
    else high = level
  }
  return rounded(hosts.map(host => Math.min(host.layers, high * host.tflops)), hosts.map(host => host.layers), layers)
}

/** In proportion to memory, at least one each; undefined where a host would have more than it holds. */
export function memoryShares(hosts: readonly Host[], layers: number): readonly number[] | undefined {
  const memory = hosts.reduce((sum, { memoryGb }) => sum + memoryGb, 0)
  const shares = rounded(hosts.map(({ memoryGb }) => memoryGb / memory * layers), hosts.map(() => layers), layers).map(share => Math.max(1, share))
  for (let excess = shares.reduce((sum, share) => sum + share, 0) - layers; excess > 0; excess -= 1) {
    const largest = shares.indexOf(Math.max(...shares))
    shares[largest] = shares[largest]! - 1
  }
  return shares.every((share, at) => share <= hosts[at]!.layers) ? shares : undefined
}

/** Whole parts, then the largest remainders where there is room. */
function rounded(exact: readonly number[], most: readonly number[], total: number): number[] {
  const whole = exact.map(Math.floor)
  let rest = total - whole.reduce((sum, one) => sum + one, 0)
  const order = exact.map((value, at) => ({ at, part: value - Math.floor(value) })).sort((a, b) => b.part - a.part).map(({ at }) => at)
  for (let round = 0; rest > 0 && round < total; round += 1) {
    for (const at of order) {
      if (rest === 0 || whole[at]! >= most[at]!) continue
      whole[at] = whole[at]! + 1
      rest -= 1
    }
  }
  return whole
}

export type Pipelines = readonly (readonly number[])[]

/** One pipeline at a time from the hosts with most room; the smallest that closes it, as long as another whole one is still possible. */
export function greedyPipelines(hosts: readonly Host[], layers: number): Pipelines {
  const left = hosts.map((_, at) => at).sort((a, b) => hosts[b]!.layers - hosts[a]!.layers)
  const pipelines: number[][] = []
  while (left.reduce((sum, at) => sum + hosts[at]!.layers, 0) >= layers) {
    const pipeline: number[] = []
    let missing = layers
    while (missing > 0) {
      const closing = left.filter(at => hosts[at]!.layers >= missing)
      const smallest = closing.at(-1)
      const after = left.reduce((sum, at) => sum + hosts[at]!.layers, 0) - (smallest === undefined ? 0 : hosts[smallest]!.layers)
      const pick = smallest !== undefined && after >= layers ? smallest : left[0]!
      left.splice(left.indexOf(pick), 1)
      pipeline.push(pick)
      missing -= hosts[pick]!.layers
    }
    pipelines.push(pipeline)
  }
  return pipelines
}

/** For each number of pipelines the fewest hosts in all; of those numbers the one with the best k²/hosts. Exponential: give up after `budget` states. */
export function programmedPipelines(hosts: readonly Host[], layers: number, budget: number): Pipelines | undefined {
  const total = hosts.reduce((sum, host) => sum + host.layers, 0)
  let best: { readonly worth: number; readonly pipelines: Pipelines } | undefined
  let states = 0
  for (let wanted = 1; wanted <= Math.floor(total / layers); wanted += 1) {
    const known = new Map<string, number>()
    const solve = (at: number, open: readonly number[], finished: number): number => {
      if (finished === wanted) return 0
      if (at === hosts.length) return Infinity
      const key = `${at} ${open.join(',')} ${finished}`
      const before = known.get(key)
      if (before !== undefined) return before
      if ((states += 1) > budget) return Infinity
      const least = Math.min(...choices(at, open, finished).map(({ cost, next }) => cost + solve(at + 1, next.open, next.finished)))
      known.set(key, least)
      return least
    }
    const choices = (at: number, open: readonly number[], finished: number) => {
      const room = Math.min(hosts[at]!.layers, layers)
      const out: { readonly cost: number; readonly next: { readonly open: readonly number[]; readonly finished: number }; readonly joins: number }[] = [{ cost: 0, next: { open, finished }, joins: -1 }]
      for (const [index, missing] of open.entries()) {
        if (index > 0 && open[index - 1] === missing) continue
        const rest = open.toSpliced(index, 1)
        out.push({ cost: 1, next: missing <= room ? { open: rest, finished: finished + 1 } : { open: [...rest, missing - room].sort((a, b) => a - b), finished }, joins: missing })
      }
      if (open.length + finished < wanted) out.push({ cost: 1, next: room >= layers ? { open, finished: finished + 1 } : { open: [...open, layers - room].sort((a, b) => a - b), finished }, joins: 0 })
      return out
    }
    const least = solve(0, [], 0)
    if (states > budget) return undefined
    if (least === Infinity) continue
    const worth = wanted * wanted / least
    if (best !== undefined && worth <= best.worth) continue
    // Walks the same choices again to see who went where.
    const pipelines: { members: number[]; missing: number }[] = []
    let open: readonly number[] = []
    let finished = 0
    for (let at = 0; at < hosts.length && finished < wanted; at += 1) {
      const rest = solve(at, open, finished)
      const taken = choices(at, open, finished).find(({ cost, next }) => cost + solve(at + 1, next.open, next.finished) === rest)
      if (taken === undefined) break
      const room = Math.min(hosts[at]!.layers, layers)
      if (taken.joins === 0) pipelines.push({ members: [at], missing: layers - room })
      else if (taken.joins > 0) {
        const pipeline = pipelines.find(({ missing }) => missing === taken.joins)
        pipeline?.members.push(at)
        if (pipeline !== undefined) pipeline.missing -= room
      }
      open = taken.next.open
      finished = taken.next.finished
    }
    best = { worth, pipelines: pipelines.filter(({ missing }) => missing <= 0).map(({ members }) => members) }
  }
  return best?.pipelines ?? []
}

/** Tokens a millisecond of all pipelines, each divided by water-filling. */
export function pipelinesRate(hosts: readonly Host[], layers: number, pipelines: Pipelines): number {
  return pipelines.reduce((sum, pipeline) => {
    const members = pipeline.map(at => hosts[at]!)
    const shares = waterFill(members, layers)
    return sum + (shares === undefined ? 0 : 1 / Math.max(...shares.map((share, at) => share * members[at]!.layerMs)))
  }, 0)
}
