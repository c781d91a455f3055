import type { ChildProcess } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import type { Json } from '../../protocols/ids.ts'
import { DaemonClient } from '../cli/daemon-client.ts'
import { AloneModel } from './llm-alone.ts'
import { makeModel, promptOf, read } from './llm-net.ts'
import { other, quantile, rounded } from './peers.ts'

/** Half of 100 ms there and back. */
const DELAY_MS = 50
const TOKENS = 128
const ROUNDS = 3
const VOCAB = 8_192

type Far = { readonly child: ChildProcess; readonly client: DaemonClient; readonly http: string }
type Asked = { readonly text: string; readonly perSecond: number }

/**
 * Guessing ahead over two stages whose hosts are 100 ms apart (messages are held back by the peers themselves). `ratio`: tokens a
 * second with a draft on the client's peer, the same model in 8 bits, against none; `acceptance`: how often that draft says what the
 * model says. `ratio_worst`: the worst of answers where guesses are what the text repeats, and it repeats nothing: it must switch itself
 * off. `same`: how many answers were, token by token, those without guesses.
 */
export async function run(): Promise<Record<string, number>> {
  const dir = await mkdtemp(join(tmpdir(), 'aios-far-'))
  const peers: Far[] = []
  try {
    const [exact, draft] = [await makeModel(dir, { preset: 'small', variant: 'fused' }), await makeModel(dir, { preset: 'small', variant: 'fused-q8' })]
    const first = await start(join(dir, '0'), 'near')
    peers.push(first)
    const { invite } = z.object({ invite: z.string() }).loose().parse(await first.client.send('POST', '/mesh/invite', {}))
    peers.push(await start(join(dir, '1'), 'far', invite))
    for (const [path, name] of [[exact, 'exact'], [draft, 'draft']] as const) {
      for await (const line of first.client.lines('POST', '/mesh/models', { path, name: `${name}:1.0.0-stable` })) if (JSON.stringify(line).startsWith('{"error"')) throw new Error(JSON.stringify(line))
    }
    const serve = (body: Readonly<Record<string, Json>>): Promise<Json> => first.client.send('POST', '/mesh/services', { standbys: 0, contextTokens: 256, sessions: 2, wait: true, ...body })
    await serve({ model: 'draft:1.0.0-stable', service: 'draft', shards: 1, labels: { place: 'near' } })
    for (const [service, by] of [['plain', undefined], ['drafted', 'draft'], ['looked-up', 'looked-up']] as const) {
      await serve({ model: 'exact:1.0.0-stable', service, shards: 2, aim: 'throughput', ...(by === undefined ? {} : { draft: by }) })
    }
    const drafted = await compare(first.http, 'drafted')
    const lookedUp = await compare(first.http, 'looked-up')
    return {
      ratio: rounded(quantile(drafted.ratios, 0.5)), acceptance: rounded(await acceptance(exact, draft)), ratio_worst: rounded(Math.min(...lookedUp.ratios)),
      same: drafted.same + lookedUp.same, of: 2 * ROUNDS, tokens_per_second: rounded(drafted.perSecond, 1), plain_tokens_per_second: rounded(drafted.plain, 1),
    }
  } finally {
    for (const { child } of peers) child.kill('SIGKILL')
    await rm(dir, { recursive: true, force: true })
  }
}

async function start(dir: string, place: string, invite?: string): Promise<Far> {
  const { child, said } = await other('./llm-far-peer.ts', [dir, String(DELAY_MS), place, ...(invite === undefined ? [] : [invite])])
  return { child, http: z.object({ http: z.string() }).loose().parse(said).http, client: await DaemonClient.find(dir, new AbortController().signal) }
}

async function compare(http: string, model: string): Promise<{ readonly ratios: readonly number[]; readonly same: number; readonly perSecond: number; readonly plain: number }> {
  const [ratios, rates, plains]: [number[], number[], number[]] = [[], [], []]
  let same = 0
  for (let round = 0; round < ROUNDS; round += 1) {
    const prompt = promptOf(24, VOCAB, round)
    const plain = await ask(http, 'plain', prompt)
    const guessed = await ask(http, model, prompt)
    ratios.push(guessed.perSecond / plain.perSecond)
    rates.push(guessed.perSecond)
    plains.push(plain.perSecond)
    same += plain.text === guessed.text ? 1 : 0
  }
  return { ratios, same, perSecond: quantile(rates, 0.5), plain: quantile(plains, 0.5) }
}

async function ask(http: string, model: string, prompt: readonly number[]): Promise<Asked> {
  const began = performance.now()
  const response = await fetch(`${http}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model, prompt, max_tokens: TOKENS, temperature: 0, ignore_eos: true, stream: true }) })
  const { text, arrivals } = await read(response, began)
  // From the first token on: what came before it is the prompt's.
  const first = arrivals[0] ?? began
  return { text, perSecond: ((TOKENS - 1) * 1_000) / ((arrivals.at(-1) ?? began) - first) }
}

/** How often the draft would say what the model says, over the answers of the bench. */
async function acceptance(exact: string, draft: string): Promise<number> {
  using one = await AloneModel.open(exact, 1)
  using two = await AloneModel.open(draft, 1)
  let right = 0
  for (let round = 0; round < ROUNDS; round += 1) {
    const prompt = promptOf(24, VOCAB, round)
    const { ids } = await one.greedy(prompt, TOKENS)
    const guesses = await two.greedy(prompt, TOKENS, ids)
    right += guesses.ids.filter((id, at) => id === ids[at]).length
  }
  return right / (ROUNDS * TOKENS)
}
