import type { InstanceId } from '../../protocols/ids.ts'
import { Lru } from '../lib/lru.ts'
import type { RunningInstance } from '../ports.ts'

const INSTANCES = 64
const LINES = 100

type Printed = { readonly next: number; readonly lines: readonly string[] }
const NOTHING: Printed = { next: 0, lines: [] }

/**
 * Keeps what instances of this host printed before their processes ended by themselves: one that is started again under its name goes on
 * with its log, and shows what it died of.
 */
export class LastWords {
  readonly #printed = new Lru<InstanceId, Printed>(INSTANCES)

  ended(instance: InstanceId, running: RunningInstance, because: string): void {
    const before = this.#before(instance)
    const said = running.logs(LINES)
    this.#printed.set(instance, { next: before.next + (running.logsFrom?.(Number.MAX_SAFE_INTEGER).next ?? said.length) + 1, lines: [...before.lines, ...said, `(${because})`].slice(-LINES) })
  }

  forget(instance: InstanceId): void {
    this.#printed.delete(instance)
  }

  /** The last `tail` lines of all its processes. */
  tail(instance: InstanceId, running: RunningInstance, tail: number): readonly string[] {
    const said = running.logs(tail)
    return said.length >= tail ? said : [...this.#before(instance).lines.slice(said.length - tail), ...said]
  }

  /** Lines from number `from` on, counted over all its processes. A runtime that cannot tell gives its last ones, once. */
  from(instance: InstanceId, running: RunningInstance, from: number): Printed {
    if (running.logsFrom === undefined) return { next: Number.MAX_SAFE_INTEGER, lines: from === Number.MAX_SAFE_INTEGER ? [] : running.logs(LINES) }
    const before = this.#before(instance)
    const now = running.logsFrom(Math.max(0, from - before.next))
    return { next: before.next + now.next, lines: [...before.lines.slice(Math.max(0, from - before.next + before.lines.length)), ...now.lines] }
  }

  #before(instance: InstanceId): Printed {
    return this.#printed.peek(instance) ?? NOTHING
  }
}
