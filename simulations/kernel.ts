import { MeshError } from '../protocols/errors.ts'
import type { Millis } from '../protocols/ids.ts'
import { Heap } from '../src/lib/heap.ts'
import type { Clock } from '../src/ports.ts'
import { SeededRandom } from './random.ts'
import { setTraps, sprungTrap } from './traps.ts'

/** One stay of a peer in memory. What it scheduled dies with it. */
export type Life = { alive: boolean }

/** Something to be done at an instant, unless the life it belongs to has ended by then. */
export interface Step {
  readonly life: Life | undefined
  run(): void
}

class Task implements Step {
  readonly life: Life
  #run: (() => void) | undefined

  constructor(life: Life, run: () => void) {
    this.life = life
    this.#run = run
  }

  run(): void {
    this.#run?.()
  }

  cancel(): void {
    this.#run = undefined
  }
}

/** Work kept doing zero-length steps: virtual time would never move again. */
const TASKS_PER_INSTANT = 5_000_000
const REASONS = 1_000
/** Instants for each turn of the event loop, which asks the system for real events that there are none of. */
const INSTANTS_A_TURN = 64
/** Most of what is scheduled is due within so many milliseconds, a power of two: it waits in a ring with a place for each. */
const NEAR = 4_096

/** Who follows a deadline: what the platform does for each listener costs as much as a message. */
const FOLLOWERS = Symbol('followers')
type Followed = AbortSignal & { [FOLLOWERS]?: (() => void)[] }

/** Calls `run` once `signal` aborts, unless the returned function is called before. */
export function onAbort(signal: Followed, run: () => void): () => void {
  const followers = signal[FOLLOWERS]
  if (followers === undefined) {
    signal.addEventListener('abort', run, { once: true })
    return () => signal.removeEventListener('abort', run)
  }
  followers.push(run)
  return () => {
    const at = followers.lastIndexOf(run)
    if (at >= 0) followers.splice(at, 1)
  }
}

const ETERNAL: Life = { alive: true }
const EPOCH = 1_700_000_000_000
// Taken before any trap is set: the only real waiting a simulation is allowed.
const macrotask = setImmediate
const idle = setTimeout

/**
 * Virtual time in integer milliseconds. Tasks due at one instant run in the order they were scheduled; then one
 * macrotask drains every promise continuation, so time never moves under a running await.
 */
export class Kernel {
  readonly seed: number
  readonly random: SeededRandom
  readonly #reasons = new Map<Millis, MeshError>()
  readonly #near: (Step[] | undefined)[] = Array.from({ length: NEAR }, () => undefined)
  #nearInstants = 0
  /** No place of the ring before this instant is taken. */
  #nearFrom: Millis = 0
  readonly #far = new Map<Millis, Step[]>()
  readonly #farInstants = new Heap<Millis>((a, b) => a < b)
  #now: Millis = 0
  #tasksRun = 0
  #running = false

  constructor(seed: number) {
    this.seed = seed
    this.random = new SeededRandom(`seed ${seed}`)
  }

  get now(): Millis {
    return this.#now
  }

  get tasksRun(): number {
    return this.#tasksRun
  }

  /** Runs `run` after `duration` of virtual time, unless cancelled or its life has ended by then. */
  after(duration: Millis, run: () => void, life: Life = ETERNAL): () => void {
    const task = new Task(life, run)
    this.enter(duration, task)
    return () => task.cancel()
  }

  /** The same for a step that is an object already, and that nobody cancels here. */
  enter(duration: Millis, step: Step): void {
    const when = this.#now + Math.max(0, Math.round(duration))
    if (when - this.#now >= NEAR) {
      const steps = this.#far.get(when)
      if (steps !== undefined) steps.push(step)
      else {
        this.#far.set(when, [step])
        this.#farInstants.push(when)
      }
      return
    }
    const place = when & (NEAR - 1)
    const steps = this.#near[place]
    if (steps !== undefined) steps.push(step)
    else {
      this.#near[place] = [step]
      this.#nearInstants += 1
      if (when < this.#nearFrom) this.#nearFrom = when
    }
  }

  /** The Clock port of one life. `skewMs` shifts its wall clock against the others'. */
  clock(life: Life = ETERNAL, skewMs: Millis = 0): Clock {
    return {
      monotonic: () => this.#now,
      unix: () => EPOCH + this.#now + skewMs,
      after: (duration, run) => this.after(duration, run, life),
      sleep: (duration, signal) => this.#sleep(duration, signal, life),
      deadline: (duration, parent) => this.#deadline(duration, parent, life),
    }
  }

  /** Runs everything due up to and including `until`; `afterEach` is called at the end of each instant. */
  async run(until: Millis, afterEach?: () => void): Promise<void> {
    await this.#advance(() => this.#next() <= until, afterEach)
    this.#now = Math.max(this.#now, until)
  }

  /** Runs until `work` settles. Throws when it waits for something that nothing will ever do, or `limit` ms passed. */
  async drive<T>(work: Promise<T>, limit: Millis = 3_600_000, afterEach?: () => void): Promise<T> {
    const end = this.#now + limit
    let settled = false
    const settle = (): void => {
      settled = true
    }
    work.then(settle, settle)
    await drain()
    await this.#advance(() => !settled && this.#next() <= end, afterEach)
    if (settled) return await work
    throw new Error(this.#next() === Infinity ? 'the work waits, and nothing is scheduled that could wake it' : `the work did not finish within ${limit} ms of virtual time`)
  }

  /**
   * Lets virtual time run whenever everybody waits, for tests that await things themselves. Without traps: a test may
   * use the real world. Ends when the returned function is called.
   */
  runFreely(): () => void {
    let stopped = false
    const step = (): void => {
      if (stopped) return
      this.#instant()
      if (this.#next() < Infinity) macrotask(step)
      else idle(step, 1)
    }
    macrotask(step)
    return () => {
      stopped = true
    }
  }

  async #advance(more: () => boolean, afterEach: (() => void) | undefined): Promise<void> {
    if (this.#running) throw new Error('the kernel is already running')
    this.#running = true
    const removeTraps = setTraps()
    try {
      await new Promise<void>((resolve, reject) => {
        let due = 0
        let lived = false
        let over = false
        // Between two macrotasks, of one batch too, every continuation runs.
        const turn = (): void => {
          due -= 1
          if (over) return
          try {
            if (lived) {
              afterEach?.()
              const violation = sprungTrap()
              if (violation !== undefined) throw violation
            }
            if (more()) {
              lived = true
              this.#instant()
              if (due === 0) for (; due < INSTANTS_A_TURN; due += 1) macrotask(turn)
              return
            }
            over = true
            resolve()
          } catch (error) {
            over = true
            reject(error)
          }
        }
        due += 1
        turn()
      })
    } finally {
      removeTraps()
      this.#running = false
    }
  }

  /** When something is due next; Infinity when nothing is. */
  #next(): Millis {
    const far = this.#farInstants.peek() ?? Infinity
    if (this.#nearInstants === 0) return far
    let near = Math.max(this.#now, this.#nearFrom)
    while (this.#near[near & (NEAR - 1)] === undefined) near += 1
    this.#nearFrom = near
    return Math.min(near, far)
  }

  #instant(): void {
    const when = this.#next()
    if (when === Infinity) return
    this.#now = when
    if (this.#farInstants.peek() === when) {
      this.#farInstants.pop()
      // What was scheduled that long ago was scheduled before all that is in the ring.
      this.#run(this.#far.get(when) ?? [])
      this.#far.delete(when)
    }
    const place = when & (NEAR - 1)
    const steps = this.#near[place]
    if (steps === undefined) return
    // Tasks that schedule more for this very instant append to the same list.
    this.#run(steps)
    this.#near[place] = undefined
    this.#nearInstants -= 1
  }

  #run(steps: readonly Step[]): void {
    for (let at = 0; at < steps.length; at += 1) {
      const step = steps[at]!
      if (step.life?.alive !== false) {
        this.#tasksRun += 1
        step.run()
      }
      if (at > TASKS_PER_INSTANT) throw new Error(`more than ${TASKS_PER_INSTANT} steps at ${this.#now} ms: something schedules itself without waiting`)
    }
  }

  /** Most deadlines pass long after the work is done: they share their reason. */
  #passed(duration: Millis): MeshError {
    const known = this.#reasons.get(duration)
    if (known !== undefined) return known
    const made = new MeshError('DEADLINE', `the deadline of ${duration} ms passed`)
    if (this.#reasons.size < REASONS) this.#reasons.set(duration, made)
    return made
  }

  #sleep(duration: Millis, signal: AbortSignal | undefined, life: Life): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal === undefined) {
        this.after(duration, resolve, life)
        return
      }
      if (signal.aborted) {
        reject(signal.reason)
        return
      }
      const abort = (): void => {
        cancel()
        reject(signal.reason)
      }
      const cancel = this.after(duration, () => {
        unfollow()
        resolve()
      }, life)
      const unfollow = onAbort(signal, abort)
    })
  }

  #deadline(duration: Millis, parent: AbortSignal | undefined, life: Life): AbortSignal {
    const controller = new AbortController()
    const signal: Followed = controller.signal
    if (parent?.aborted === true) {
      controller.abort(parent.reason)
      return signal
    }
    const followers: (() => void)[] = []
    signal[FOLLOWERS] = followers
    const abort = (reason: unknown): void => {
      controller.abort(reason)
      for (const follow of followers.splice(0)) follow()
    }
    const cancel = this.after(duration, () => {
      unfollow?.()
      abort(this.#passed(duration))
    }, life)
    const unfollow = parent === undefined ? undefined : onAbort(parent, () => {
      cancel()
      abort(parent.reason)
    })
    return signal
  }
}

function drain(): Promise<void> {
  return new Promise(resolve => {
    macrotask(resolve)
  })
}
