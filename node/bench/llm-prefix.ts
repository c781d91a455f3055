import { LlmNet, promptOf } from './llm-net.ts'
import { quantile, rounded } from './peers.ts'

const PREFIX = 512
const ROUNDS = 5

/** Time to the first token of a prompt of 512 + 8 tokens, the first time and when another session has had the same 512. Two stages on two daemons. */
export async function run(): Promise<Record<string, number>> {
  await using net = await LlmNet.start(2)
  await net.serve(await net.make({ preset: '125m', variant: 'fused' }), 'halves', { shards: 2, standbys: 0, contextTokens: 1_024, sessions: 8 })
  const first = async (prompt: readonly number[]): Promise<number> => {
    const { beganAt, arrivals } = await net.stream(net.net.peer(0), 'halves', { prompt, maxTokens: 2 })
    return (arrivals[0] ?? Infinity) - beganAt
  }
  await first(promptOf(32, 32_000, 99))
  const [cold, warm]: [number[], number[]] = [[], []]
  for (let round = 0; round < ROUNDS; round += 1) {
    const prefix = promptOf(PREFIX, 32_000, round)
    cold.push(await first([...prefix, ...promptOf(8, 32_000, 1_000 + round)]))
    warm.push(await first([...prefix, ...promptOf(8, 32_000, 2_000 + round)]))
  }
  return { ratio: rounded(quantile(cold, 0.5) / quantile(warm, 0.5)), cold_ms: rounded(quantile(cold, 0.5), 1), warm_ms: rounded(quantile(warm, 0.5), 1) }
}
