/** What a stage has of a session: KV for [0, have), and what it sent on for [logFrom, have). */
export type Holding = { readonly have: number; readonly logFrom: number }

/**
 * From which position each stage needs its input, so that all hold [0, known) in the end and compute no position that is
 * held already. Worked out from the last stage to the first: what a stage needs its predecessor sends again where it still
 * has it, and computes again where it has not.
 */
export function restartFrom(stages: readonly Holding[], known: number): readonly number[] {
  const starts: number[] = []
  let needed = known
  for (const [back, { have, logFrom }] of [...stages].reverse().entries()) {
    const held = Math.min(have, known)
    // The last stage owes nobody anything; others must give what is needed after them.
    needed = back === 0 || needed >= Math.min(logFrom, have) ? held : Math.min(held, needed)
    starts.unshift(needed)
  }
  return starts
}

/**
 * Epochs of one session: rounds, and a mark of who began the round, so that two peers that both believe to be the origin
 * never speak in the same epoch.
 */
export function epochOf(round: number, mark: number): number {
  return round * MARKS + (mark % MARKS)
}

export function roundOf(epoch: number): number {
  return Math.floor(epoch / MARKS)
}

const MARKS = 16_777_216
