import type { Explanation } from '../../protocols/placement.ts'

const SHOWN = 4

/** Why those who were asked did not take an instance, in a line; undefined where one did, or nobody said why. */
export function whyNobody(explanation: Explanation | undefined): string | undefined {
  if (explanation === undefined || explanation.chosen !== undefined) return undefined
  const refusals = explanation.candidates.filter(({ ok }) => !ok)
  if (refusals.length === 0) return undefined
  const more = refusals.length > SHOWN ? `; and ${refusals.length - SHOWN} more` : ''
  return `${refusals.slice(0, SHOWN).map(({ peer, because }) => `…${peer.slice(-8)}: ${because}`).join('; ')}${more}`
}
