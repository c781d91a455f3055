import { AloneModel } from './llm-alone.ts'
import { gaps, LlmNet, promptOf } from './llm-net.ts'
import { quantile, rounded } from './peers.ts'

const ROUNDS = 12
const TOKENS = 128
const HOPS = 2

/**
 * What one hop of a decode step costs beyond computing: a token of a small model in two stages on two daemons (the client's peer
 * hosts the first: there and back are two hops, each with both instances' pipes), less a token of the same model whole in one
 * process, by two. What HTTP takes to the client is in it.
 */
export async function run(): Promise<Record<string, number>> {
  await using net = await LlmNet.start(2)
  const folder = await net.make({ preset: 'tiny', variant: 'fused' })
  await net.serve(folder, 'halves', { shards: 2, standbys: 0, contextTokens: 512, sessions: 2 })
  using alone = await AloneModel.open(folder, 1)
  const [split, whole]: [number[], number[]] = [[], []]
  for (let round = 0; round < ROUNDS; round += 1) {
    const prompt = promptOf(16, 512, round)
    const streamed = await net.stream(net.net.peer(0), 'halves', { prompt, maxTokens: TOKENS })
    const { ms } = await alone.greedy(prompt, TOKENS)
    if (round === 0) continue
    split.push(...gaps(streamed).slice(1))
    whole.push(...ms.slice(2))
  }
  const [one, other] = [quantile(split, 0.5), quantile(whole, 0.5)]
  return { ms_p50: rounded((one - other) / HOPS), token_ms: rounded(one), compute_ms: rounded(other) }
}
