import { connect } from 'node:net'
import { BrokenStream, gaps, LlmNet, promptOf, type Service, type Streamed } from './llm-net.ts'
import { quantile, rounded } from './peers.ts'

const RUNS = Number(process.env['AIOS_BENCH_RUNS'] ?? 200)
const TOKENS = 128
const VOCAB = 8_192
const PEERS = 4
const LONG = 1_024
const LONG_ROUNDS = 5
const ROLES = ['stage', 'standby', 'origin'] as const

type Story = { readonly role: (typeof ROLES)[number]; readonly identical: boolean; readonly stallMs: number; readonly tokenMs: number; readonly detectMs: number }

/**
 * kill -9 of a peer at a random token: one that computes a stage, one that stands by, or the one that the client talks to, which then
 * reads on from another with the id of its answer. A model of two stages with a standby each on four daemons; each answer is
 * compared with that of the same prompt unharmed. `stall`: the longest silence after the kill, in the times that a token takes
 * otherwise. `detect`: until a connection to the dead, of somebody who does nothing else, is seen to close: the system frees a
 * process's memory before it closes its sockets. Then at 1,024 tokens: the stall against computing 1,024 tokens from nothing.
 */
export async function run(): Promise<Record<string, number>> {
  await using net = await LlmNet.start(PEERS)
  await net.serve(await net.make({ preset: 'small', variant: 'fused' }), 'model', { shards: 2, standbys: 1, contextTokens: 2_048, sessions: 4 })
  const stories: Story[] = []
  for (let at = 0; at < RUNS; at += 1) {
    stories.push(await story(net, at))
    process.stderr.write(`\r${at + 1} of ${RUNS}: ${stories.filter(({ identical }) => identical).length} identical`)
  }
  process.stderr.write('\n')
  const long = await atLength(net)
  const stalls = stories.map(({ stallMs, tokenMs }) => stallMs / tokenMs)
  return {
    runs: RUNS, identical: stories.filter(({ identical }) => identical).length, stall_p50_tokens: rounded(quantile(stalls, 0.5), 1), stall_p99_tokens: rounded(quantile(stalls, 0.99), 1),
    stall_p50_ms: rounded(quantile(stories.map(({ stallMs }) => stallMs), 0.5), 1), detect_p50_ms: rounded(quantile(stories.map(({ detectMs }) => detectMs), 0.5), 1),
    beyond_detection_p50_tokens: rounded(quantile(stories.map(({ stallMs, detectMs, tokenMs }) => (stallMs - detectMs) / tokenMs), 0.5), 1),
    host_p50_tokens: tokensOf(stories.filter(({ role }) => role !== 'origin')), origin_p50_tokens: tokensOf(stories.filter(({ role }) => role === 'origin')),
    token_ms: rounded(quantile(stories.map(({ tokenMs }) => tokenMs), 0.5), 2), ...long,
  }
}

async function story(net: LlmNet, at: number): Promise<Story> {
  const prompt = promptOf(24, VOCAB, at)
  const role = ROLES[Math.floor(Math.random() * ROLES.length)] ?? 'stage'
  const service = await net.settled('model', 2)
  const origin = pick(net.net.running())
  const unharmed = await net.stream(origin, 'model', { prompt, maxTokens: TOKENS })
  const victim = role === 'origin' ? origin.index : hostOf(net, service, origin.index)
  const seen = watch(net.net.peer(victim).http)
  const { text, stallMs, killedAt } = await harmed(net, origin.index, prompt, TOKENS, victim, 1 + Math.floor(Math.random() * (TOKENS - 2)))
  await net.net.up(victim)
  return { role, identical: text === unharmed.text, stallMs, tokenMs: quantile(gaps(unharmed), 0.5), detectMs: await seen - killedAt }
}

/** Streams from `origin`, kills `victim` at token `at`, and reads on elsewhere where it has to. */
async function harmed(net: LlmNet, origin: number, prompt: readonly number[], maxTokens: number, victim: number, at: number): Promise<{ readonly text: string; readonly stallMs: number; readonly killedAt: number }> {
  let killedAt = Infinity
  const kill = (count: number): void => {
    if (count !== at) return
    killedAt = performance.now()
    void net.net.kill(victim)
  }
  const parts: Streamed[] = []
  try {
    parts.push(await net.stream(net.net.peer(origin), 'model', { prompt, maxTokens, onToken: kill }))
  } catch (error) {
    if (!(error instanceof BrokenStream) || victim !== origin) throw error
    parts.push(error.got, await net.again(pick(net.net.running()), error.got.session, error.got.told))
  }
  const arrivals = parts.flatMap(part => part.arrivals)
  const after = arrivals.filter(time => time >= killedAt)
  const stallMs = Math.max(...after.map((time, index) => time - (after[index - 1] ?? killedAt)), 0)
  return { text: parts.map(({ text }) => text).join(''), stallMs, killedAt }
}

function tokensOf(stories: readonly Story[]): number {
  return rounded(quantile(stories.map(({ stallMs, tokenMs }) => stallMs / tokenMs), 0.5), 1)
}

/** When a connection to a peer is seen to close. */
function watch(http: string): Promise<number> {
  const { hostname, port } = new URL(http)
  const socket = connect(Number(port), hostname)
  return new Promise(resolve => {
    socket.on('error', () => undefined)
    socket.once('close', () => resolve(performance.now()))
  })
}

/** What a death costs late in a long answer, beside what it would cost to begin again. */
async function atLength(net: LlmNet): Promise<Record<string, number>> {
  const [stalls, replays]: [number[], number[]] = [[], []]
  for (let round = 0; round < LONG_ROUNDS; round += 1) {
    const service = await net.settled('model', 2)
    const origin = pick(net.net.running())
    const fresh = await net.stream(origin, 'model', { prompt: promptOf(LONG, VOCAB, 5_000 + round), maxTokens: 2 })
    replays.push((fresh.arrivals[0] ?? Infinity) - fresh.beganAt)
    const victim = hostOf(net, service, origin.index)
    const { stallMs } = await harmed(net, origin.index, promptOf(LONG - 16, VOCAB, 9_000 + round), 64, victim, 16)
    stalls.push(stallMs)
    await net.net.up(victim)
  }
  return { stall_1024_ms: rounded(quantile(stalls, 0.5), 1), replay_1024_ms: rounded(quantile(replays, 0.5), 1), replay_ratio: rounded(quantile(replays, 0.5) / quantile(stalls, 0.5), 2) }
}

/** A peer that computes or stands by for a stage, any but the client's. */
function hostOf(net: LlmNet, service: Service, origin: number): number {
  const hosts = new Set(service.stages.flatMap(({ instances }) => instances.map(({ host }) => host)))
  return pick(net.net.running().filter(({ peer, index }) => hosts.has(peer) && index !== origin)).index
}

function pick<T>(from: readonly T[]): T {
  const found = from[Math.floor(Math.random() * from.length)]
  if (found === undefined) throw new Error('nobody is left')
  return found
}
