import type { Packet } from '../protocols/invoke.ts'
import type { BlockClock } from './clock.ts'

export type MuxerLimits = {
  /** Incomplete groups held; the oldest is dropped for a new one. */
  readonly pending: number
  /** An incomplete group older than this is dropped. */
  readonly waitMs: number
}

/**
 * Fan-in: joins `count` packets of one session and sequence number into one whose data is `{ inputs: […] }`, in order of
 * arrival, with their files one after another.
 */
export class Muxer {
  readonly count: number
  readonly #limits: MuxerLimits
  #clock: Pick<BlockClock, 'monotonic'> | undefined
  readonly #groups = new Map<string, { readonly since: number; readonly packets: Packet[] }>()
  #dropped = 0

  /** `count`: a number, or AIOS's `{ N }`. */
  constructor(given: number | { readonly N: number }, limits: Partial<MuxerLimits> = {}, clock?: Pick<BlockClock, 'monotonic'>) {
    const count = typeof given === 'number' ? given : given.N
    if (!Number.isInteger(count) || count < 1) throw new RangeError(`a muxer joins a whole number of packets, at least 1; got ${count}`)
    this.count = count
    this.#limits = { pending: limits.pending ?? 1_024, waitMs: limits.waitMs ?? 60_000 }
    this.#clock = clock
  }

  /** Groups given up on because their other packets never came. */
  get dropped(): number {
    return this.#dropped
  }

  get pending(): number {
    return this.#groups.size
  }

  /** Whoever runs the block lends its clock; without one, incomplete groups are bounded in number only. */
  useClock(clock: Pick<BlockClock, 'monotonic'>): void {
    this.#clock ??= clock
  }

  /**
   * The joined packet once its group is complete, else undefined: the packet waits for its siblings. One that holds as
   * many `inputs` already was joined on the way, and passes.
   */
  process(packet: Packet): Packet | undefined {
    if (inputsOf(packet) === this.count) return packet
    if (this.count === 1) return join([packet])
    const now = this.#clock?.monotonic() ?? 0
    this.#expire(now)
    const key = JSON.stringify([packet.sessionId, packet.seqNo])
    let group = this.#groups.get(key)
    if (group === undefined) {
      group = { since: now, packets: [] }
      this.#groups.set(key, group)
    }
    group.packets.push(packet)
    if (group.packets.length === this.count) {
      this.#groups.delete(key)
      return join(group.packets)
    }
    if (this.#groups.size > this.#limits.pending) this.#dropOldest()
    return undefined
  }

  /** AIOS's name for `process`. */
  process_packet(packet: Packet): Packet | undefined {
    return this.process(packet)
  }

  #expire(now: number): void {
    for (const group of this.#groups.values()) {
      if (now - group.since < this.#limits.waitMs) break
      this.#dropOldest()
    }
  }

  #dropOldest(): void {
    const oldest = this.#groups.keys().next()
    if (oldest.done === true) return
    this.#groups.delete(oldest.value)
    this.#dropped++
  }
}

/** For packets that a vDAG's engine sends: it joins what arrives at a node before it calls, so no sibling will come. */
export function alreadyJoined(packet: Packet): Packet {
  return inputsOf(packet) === undefined ? join([packet]) : packet
}

function inputsOf({ data }: Packet): number | undefined {
  if (data === null || typeof data !== 'object' || Array.isArray(data) || !('inputs' in data)) return undefined
  return Object.keys(data).length === 1 && Array.isArray(data.inputs) ? data.inputs.length : undefined
}

function join(packets: readonly Packet[]): Packet {
  const last = packets[packets.length - 1]!
  return {
    sessionId: last.sessionId,
    seqNo: last.seqNo,
    ts: last.ts,
    data: { inputs: packets.map(packet => packet.data) },
    files: packets.flatMap(packet => packet.files),
  }
}
