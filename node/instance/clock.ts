import type { BlockClock } from '../../sdk/clock.ts'

/** Real time, for blocks. */
export const instanceClock: BlockClock = {
  monotonic: () => performance.now(),
  unix: () => Date.now(),
  after(ms, run) {
    const timer = setTimeout(run, ms)
    return () => clearTimeout(timer)
  },
}
