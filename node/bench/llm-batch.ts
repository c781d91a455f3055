import { gaps, LlmNet, promptOf, type Streamed } from './llm-net.ts'
import { quantile, rounded } from './peers.ts'

const SESSIONS = 8
const TOKENS = 48
const PROMPT = 16
const ROUNDS = 3

/**
 * Eight sessions at once against the same eight one after another, on one daemon that serves the whole model with one thread.
 * `ratio`: of all they ask for, their prompts too, which gain nothing from company; `decode`: of the time between their tokens alone;
 * `same`: how many of them gave the same text both times.
 */
export async function run(): Promise<Record<string, number>> {
  return { ...await measure('', 'fused'), ...await measure('_q4', 'fused-q4') }
}

async function measure(suffix: string, variant: string): Promise<Record<string, number>> {
  await using net = await LlmNet.start(1)
  await net.serve(await net.make({ preset: '125m', variant }), 'whole', { shards: 1, standbys: 0, contextTokens: 512, sessions: SESSIONS, threads: 1 })
  const ask = (seed: number): Promise<Streamed> => net.stream(net.net.peer(0), 'whole', { prompt: promptOf(PROMPT, 32_000, seed), maxTokens: TOKENS })
  await ask(99)
  const ratios: number[] = []
  const decodes: number[] = []
  let same = 0
  for (let round = 0; round < ROUNDS; round += 1) {
    const seeds = Array.from({ length: SESSIONS }, (_, at) => round * SESSIONS + at)
    const began = performance.now()
    const alone: Streamed[] = []
    for (const seed of seeds) alone.push(await ask(seed))
    const between = performance.now()
    const together = await Promise.all(seeds.map(ask))
    ratios.push((between - began) / (performance.now() - between))
    decodes.push((SESSIONS * gap(alone)) / gap(together))
    same += together.filter(({ text }, at) => text === alone[at]?.text).length
  }
  return { [`ratio${suffix}`]: rounded(quantile(ratios, 0.5)), [`decode${suffix}`]: rounded(quantile(decodes, 0.5)), [`same${suffix}`]: same, [`of${suffix}`]: ROUNDS * SESSIONS }
}

function gap(answers: readonly Streamed[]): number {
  return quantile(answers.flatMap(gaps), 0.5)
}
