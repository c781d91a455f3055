import { LlmNet, promptOf } from './llm-net.ts'
import { rounded } from './peers.ts'

const TOKENS = 48
const PROMPT = 16
const ROUNDS = 3
const CROWDS = [4, 8]

/**
 * Tokens a second of a model in two stages on two daemons, one thread each, against one daemon that serves it whole with one
 * thread, with as many sessions at once. `ratio`: a graph of plain operators, which computes one session a run, so that only
 * filling the pipeline counts; `ratio_batched`: a fused graph, where one run computes all sessions that wait and the whole model gains
 * from larger batches what the stages gain from working at once. The best crowd counts; each is told.
 */
export async function run(): Promise<Record<string, number>> {
  return { ...await measure('', 'plain'), ...await measure('_batched', 'fused') }
}

async function measure(suffix: string, variant: string): Promise<Record<string, number>> {
  await using net = await LlmNet.start(2)
  const folder = await net.make({ preset: '125m', variant })
  await net.serve(folder, 'halves', { shards: 2, standbys: 0, contextTokens: 256, sessions: Math.max(...CROWDS), threads: 1 })
  await net.serve(folder, 'whole', { shards: 1, standbys: 0, contextTokens: 256, sessions: Math.max(...CROWDS), threads: 1 })
  const figures: Record<string, number> = {}
  for (const crowd of CROWDS) {
    const rate = async (name: string, round: number): Promise<number> => {
      const began = performance.now()
      await Promise.all(Array.from({ length: crowd }, (_, at) => net.stream(net.net.peer(at % 2), name, { prompt: promptOf(PROMPT, 32_000, round * crowd + at), maxTokens: TOKENS })))
      return (crowd * TOKENS * 1_000) / (performance.now() - began)
    }
    const ratios: number[] = []
    for (let round = 0; round < ROUNDS; round += 1) {
      const whole = await rate('whole', round)
      ratios.push(await rate('halves', round) / whole)
    }
    figures[`ratio${suffix}_${crowd}`] = rounded(ratios.toSorted((a, b) => a - b)[Math.floor(ROUNDS / 2)] ?? 0)
  }
  return { [`ratio${suffix}`]: Math.max(...Object.values(figures)), ...figures }
}
