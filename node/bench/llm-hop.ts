import { AloneModel } from './llm-alone.ts'
import { gaps, LlmNet, promptOf } from './llm-net.ts'
import { quantile, rounded } from './peers.ts'

/** V8 compiles for a thousand or two of tokens what takes part in each; then it stays as it is. */
const WARM = 16
const ROUNDS = 16
const TOKENS = 128
const HOPS = 2

/**
 * What one hop of a decode step costs beyond computing: a token of a small model in two stages on two daemons (the client's peer
 * hosts the first: there and back are two hops, each with both instances' pipes), less a token of the same model whole in one
 * process, by two. What HTTP takes to the client is in it. Both are measured warm; `early_ms_p50` is the hop of the first
 * tokens that these daemons ever computed, while their code was still being compiled.
 */
export async function run(): Promise<Record<string, number>> {
  await using net = await LlmNet.start(2)
  const folder = await net.make({ preset: 'tiny', variant: 'fused' })
  await net.serve(folder, 'halves', { shards: 2, standbys: 0, contextTokens: 512, sessions: 2 })
  using alone = await AloneModel.open(folder, 1)
  const [early, split, whole]: [number[], number[], number[]] = [[], [], []]
  for (let round = 0; round < WARM + ROUNDS; round += 1) {
    const prompt = promptOf(16, 512, round)
    const streamed = await net.stream(net.net.peer(0), 'halves', { prompt, maxTokens: TOKENS })
    const { ms } = await alone.greedy(prompt, TOKENS)
    if (round === 0) continue
    if (round < WARM) early.push(...gaps(streamed).slice(1))
    else {
      split.push(...gaps(streamed).slice(1))
      whole.push(...ms.slice(2))
    }
  }
  const [one, first, other] = [quantile(split, 0.5), quantile(early, 0.5), quantile(whole, 0.5)]
  return { ms_p50: rounded((one - other) / HOPS), early_ms_p50: rounded((first - other) / HOPS), token_ms: rounded(one), compute_ms: rounded(other) }
}
