import { AloneModel } from './llm-alone.ts'
import { gaps, LlmNet, promptOf } from './llm-net.ts'
import { quantile, rounded } from './peers.ts'

/** The first warms all up. */
const ROUNDS = 16
const TOKENS = 64
const PROMPT = 16
const VOCAB = 32_000

/**
 * Decoding of a model of 125 M parameters, split in two over two daemons and read as a client reads it, against the same
 * model whole in one process without a mesh, one thread each; in turns, and the middle of the ratios of single turns, so that both meet
 * the same machine: its speed changes from one second to the next. `…_standby`: with a
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
    [`ratio_${label}`]: rounded(middle(bare, turn => turn.alone / turn.split)), [`ms_${label}`]: rounded(middle(bare, turn => turn.split), 2), [`alone_ms_${label}`]: rounded(middle(bare, turn => turn.alone), 2),
    [`ratio_${label}_standby`]: rounded(middle(doubled, turn => turn.alone / turn.split)), [`ratio_${label}_paged`]: rounded(middle(bare, turn => turn.paged / turn.split)),
  }
}

/** Milliseconds a token of one answer, each way. */
type Turn = { readonly split: number; readonly alone: number; readonly paged: number }

async function inTurns(net: LlmNet, name: string, alone: AloneModel, paged: AloneModel): Promise<readonly Turn[]> {
  const turns: Turn[] = []
  for (let round = 0; round < ROUNDS; round += 1) {
    const prompt = promptOf(PROMPT, VOCAB, round)
    const streamed = await net.stream(net.net.peer(0), name, { prompt, maxTokens: TOKENS })
    const one = await alone.greedy(prompt, TOKENS)
    const other = await paged.greedy(prompt, TOKENS)
    turns.push({ split: quantile(gaps(streamed).slice(1), 0.5), alone: quantile(one.ms.slice(2), 0.5), paged: quantile(other.ms.slice(2), 0.5) })
  }
  return turns.slice(1)
}

function middle(turns: readonly Turn[], of: (turn: Turn) => number): number {
  return quantile(turns.map(of), 0.5)
}
