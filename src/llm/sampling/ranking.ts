/** The id of the greatest logit, the lowest id of those that tie; NaN counts as least. -1 when there is none above -Infinity. */
export function greatest(logits: Float32Array): number {
  let best = -1
  let most = -Infinity
  for (let id = 0; id < logits.length; id += 1) {
    const value = logits[id]!
    if (value > most) {
      most = value
      best = id
    }
  }
  return best
}

/** Ids of the `count` greatest logits, greatest first, ties to the lowest id. One pass and a heap of `count`: the vocabulary is never sorted. */
export function greatestOf(logits: Float32Array, count: number): readonly number[] {
  const heap: number[] = []
  const worse = (a: number, b: number): boolean => logits[a]! < logits[b]! || (logits[a] === logits[b] && a > b)
  const sink = (from: number): void => {
    for (let at = from; ;) {
      let child = at * 2 + 1
      if (child >= heap.length) return
      if (child + 1 < heap.length && worse(heap[child + 1]!, heap[child]!)) child += 1
      if (!worse(heap[child]!, heap[at]!)) return
      const held = heap[at]!
      heap[at] = heap[child]!
      heap[child] = held
      at = child
    }
  }
  let bar = -Infinity
  for (let id = 0; id < logits.length; id += 1) {
    const value = logits[id]!
    if (heap.length < count) {
      if (!(value > -Infinity)) continue
      heap.push(id)
      if (heap.length < count) continue
      for (let at = (count >> 1) - 1; at >= 0; at -= 1) sink(at)
    } else if (value > bar) {
      heap[0] = id
      sink(0)
    } else continue
    bar = logits[heap[0]!]!
  }
  return heap.sort((a, b) => logits[b]! - logits[a]! || a - b)
}

/** Natural log of the sum of all e^logit, in doubles. -Infinity when every logit is. */
export function logSumExp(logits: Float32Array): number {
  const best = greatest(logits)
  if (best < 0) return -Infinity
  const most = logits[best]!
  let sum = 0
  for (let id = 0; id < logits.length; id += 1) {
    const value = logits[id]!
    if (value > -Infinity) sum += Math.exp(value - most)
  }
  return most + Math.log(sum)
}
