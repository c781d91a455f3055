import { AloneModel } from './llm-alone.ts'
import { gaps, LlmNet, promptOf } from './llm-net.ts'
import { quantile, rounded } from './peers.ts'

const ROUNDS = 8
const TOKENS = 64
const PROMPT = 16
const VOCAB = 32_000

/**
 * Decoding of a model of 125 M parameters, split in two over two daemons and read as a client reads it, against the same
 * model whole in one process without a mesh, one thread each; in turns, so that both meet the same machine. `…_standby`: with a
 * second instance of each stage that keeps the keys and values too, as models are served by default. `…_paged`: against the
 * whole model in a process that is given large pages, which instances ask for themselves: what splitting alone costs.
 */
export async function run(): Promise<Record<string, number>> {
  return { ...await measure('fp32', 'fused'), ...await measure('q4', 'fused-q4') }
}

async function measure(label: string, variant: string): Promise<Record<string, number>> {
  await using net = await LlmNet.start(2)
  const folder = await net.make({ preset: '125m', variant })
  await net.serve(folder, 'halves', { shards: 2, standbys: 0, contextTokens: 1_024, sessions: 2, threads: 1 })
  using alone = await AloneModel.open(folder, 1)
  using paged = await AloneModel.open(folder, 1, true)
  const bare = await inTurns(net, 'halves', alone, paged)
  await net.net.peer(0).client.send('DELETE', '/mesh/services/halves', undefined)
  await net.serve(folder, 'doubled', { shards: 2, standbys: 1, contextTokens: 1_024, sessions: 2, threads: 1 })
  const doubled = await inTurns(net, 'doubled', alone, paged)
  return {
    [`ratio_${label}`]: rounded(bare.alone / bare.split), [`ms_${label}`]: rounded(bare.split, 2), [`alone_ms_${label}`]: rounded(bare.alone, 2),
    [`ratio_${label}_standby`]: rounded(doubled.alone / doubled.split), [`ratio_${label}_paged`]: rounded(bare.paged / bare.split),
  }
}

async function inTurns(net: LlmNet, name: string, alone: AloneModel, paged: AloneModel): Promise<{ readonly split: number; readonly alone: number; readonly paged: number }> {
  const [split, whole, wholePaged]: [number[], number[], number[]] = [[], [], []]
  for (let round = 0; round < ROUNDS; round += 1) {
    const prompt = promptOf(PROMPT, VOCAB, round)
    const streamed = await net.stream(net.net.peer(0), name, { prompt, maxTokens: TOKENS })
    const one = await alone.greedy(prompt, TOKENS)
    const other = await paged.greedy(prompt, TOKENS)
    // The first round warms all up.
    if (round === 0) continue
    split.push(...gaps(streamed).slice(1))
    whole.push(...one.ms.slice(2))
    wholePaged.push(...other.ms.slice(2))
  }
  return { split: quantile(split, 0.5), alone: quantile(whole, 0.5), paged: quantile(wholePaged, 0.5) }
}
