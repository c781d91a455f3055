/** A directed network to cut between vertex 0 and vertex 1. Vertices are made by use. */
export class FlowNetwork {
  readonly #first: number[] = [-1, -1]
  readonly #next: number[] = []
  readonly #to: number[] = []
  readonly #capacity: number[] = []

  vertex(): number {
    return this.#first.push(-1) - 1
  }

  edge(from: number, to: number, capacity: number): void {
    this.#half(from, to, capacity)
    this.#half(to, from, 0)
  }

  /**
   * The vertices on the sink's side of the minimum cut that lies nearest to the sink, or undefined when every cut is
   * infinite (Edmonds and Karp 1972; the nearest cut is what can still reach the sink in the residual network).
   */
  sinkSide(): ReadonlySet<number> | undefined {
    for (;;) {
      const by = this.#shortestPath()
      if (by === undefined) break
      let flow = Infinity
      for (let at = 1; at !== 0; at = this.#to[by[at]! ^ 1]!) flow = Math.min(flow, this.#capacity[by[at]!]!)
      if (flow === Infinity) return undefined
      for (let at = 1; at !== 0; at = this.#to[by[at]! ^ 1]!) {
        this.#capacity[by[at]!]! -= flow
        this.#capacity[by[at]! ^ 1]! += flow
      }
    }
    const side = new Set([1])
    for (const at of side) for (let edge = this.#first[at]!; edge !== -1; edge = this.#next[edge]!) if (this.#capacity[edge ^ 1]! > 0) side.add(this.#to[edge]!)
    return side
  }

  #half(from: number, to: number, capacity: number): void {
    this.#to.push(to)
    this.#capacity.push(capacity)
    this.#next.push(this.#first[from]!)
    this.#first[from] = this.#to.length - 1
  }

  #shortestPath(): Int32Array | undefined {
    const by = new Int32Array(this.#first.length).fill(-1)
    by[0] = -2
    const queue = [0]
    for (const at of queue) {
      for (let edge = this.#first[at]!; edge !== -1; edge = this.#next[edge]!) {
        const to = this.#to[edge]!
        if (this.#capacity[edge]! <= 0 || by[to] !== -1) continue
        by[to] = edge
        if (to === 1) return by
        queue.push(to)
      }
    }
    return undefined
  }
}
