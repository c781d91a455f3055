import type { PeerId } from '../../protocols/ids.ts'

/**
 * The first of `voters` that answers decides among those who ask at once; where it grants, the others are asked together. An empty
 * answer of `ask`: that voter cannot be reached and has no say. Rejects as `ask` does.
 */
export async function vote<A>(voters: readonly PeerId[], ask: (voter: PeerId) => Promise<readonly A[]>, grants: (answer: A) => boolean): Promise<readonly A[]> {
  const answers: A[] = []
  let at = 0
  for (; at < voters.length && answers.length === 0; at += 1) answers.push(...await ask(voters[at]!))
  const [first] = answers
  if (first !== undefined && grants(first)) answers.push(...(await Promise.all(voters.slice(at).map(ask))).flat())
  return answers
}
