import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { FaultPlan } from '../faults.ts'
import { CALM } from '../links.ts'
import { SeededRandom } from '../random.ts'
import type { Scenario, ScenarioOptions } from '../scenario.ts'
import type { Story } from './llm-clients.ts'
import { drawShape, llmWorld, SERVICE, type LlmPeer, type LlmShape, type LlmWorld } from './llm.ts'

const ROLES = ['stage', 'standby', 'origin'] as const
type Role = (typeof ROLES)[number]
type Kill = { readonly role: Role; readonly at: Millis; readonly tokens: number }
/** One generation with one death in it. `stall`: the gap the client saw around it, in times of a token of the same answer. */
export type Killed = { readonly role: Role; readonly identical: boolean; readonly stall: number; readonly stallMs: Millis }

const TOKENS = 128
const LOOK_MS = 1
const QUIET: FaultPlan = { weather: CALM, crashEveryMs: 1_000_000_000, downMs: [1, 1], silent: 0, spiteful: 0, firstPartitionMs: Infinity, partitionEveryMs: 1_000_000_000, partitionMs: [1, 1], instanceCrash: 0 }

/** Generations one after another, in each of which a stage, a standby or the origin dies at a random token. */
export function drawLlmKill({ seed, peers, seconds, loss, bug }: ScenarioOptions): Scenario<LlmPeer> & { readonly killed: readonly Killed[] } {
  const random = new SeededRandom(`llm kill ${seed}`)
  const weather = { delayMs: [1, 5] as const, loss: loss ?? 0, duplicate: 0 }
  const drawn = drawShape(random.fork('shape'))
  const shape: LlmShape = { ...drawn, standbys: 1, prompt: 200, tokens: TOKENS }
  const llm = llmWorld({ seed, peers, ...(bug === undefined ? {} : { bug }) }, shape, { weather })
  const killed: Killed[] = []
  return {
    drawn: { faults: QUIET, shape },
    world: llm.world,
    killed,
    prepare: llm.prepare,
    work: () => void murder(llm, shape, random.fork('kills'), killed, seconds * 1_000),
    runs: () => llm.clients.stories.filter(({ end }) => end !== undefined).length,
    figures: () => figuresOf(killed),
    settleMs: 120_000,
  }
}

/** What is reported of many kills. */
export function figuresOf(killed: readonly Killed[]): Readonly<Record<string, number>> {
  const of = (role: Role | undefined): readonly number[] => killed.filter(each => role === undefined || each.role === role).map(({ stall }) => stall).sort((a, b) => a - b)
  const at = (stalls: readonly number[], share: number): number => Math.round(10 * (stalls[Math.min(stalls.length - 1, Math.floor(share * stalls.length))] ?? 0)) / 10
  return {
    runs: killed.length, identical: killed.filter(({ identical }) => identical).length,
    stall_p50_tokens: at(of(undefined), 0.5), stall_p99_tokens: at(of(undefined), 0.99),
    ...Object.fromEntries(ROLES.flatMap(role => [[`${role}_p50_tokens`, at(of(role), 0.5)], [`${role}_p99_tokens`, at(of(role), 0.99)]])),
  }
}

async function murder(llm: LlmWorld, shape: LlmShape, random: SeededRandom, killed: Killed[], spanMs: Millis): Promise<void> {
  const { world, clients } = llm
  const clock = world.kernel.clock()
  const end = clock.monotonic() + spanMs
  while (clock.monotonic() < end) {
    await whole(llm, shape)
    const role = random.pick(ROLES)
    const after = 1 + random.below(shape.tokens - 8)
    const asked = clients.ask({ prompt: 1 + random.below(shape.prompt), tokens: shape.tokens, temperature: random.below(2) })
    const story = clients.stories.at(-1)
    if (story === undefined) return
    const kill = await strike(llm, story, role, after)
    await asked
    if (kill !== undefined) killed.push(weigh(story, kill))
  }
}

/** Waits until everything that can be there is there again. */
async function whole({ world }: LlmWorld, { stages, standbys }: LlmShape): Promise<void> {
  const clock = world.kernel.clock()
  const ready = (peer: LlmPeer): boolean => {
    const { view } = peer.peer
    return view.live().length === world.hosts.length && Array.from({ length: stages }, (_, stage) => view.instancesOf(`${SERVICE}-s${stage}`).filter(({ ad }) => ad.state === 'ready').length).every(count => count > standbys)
  }
  while (world.peers.size < world.hosts.length || ![...world.peers.values()].every(ready)) await clock.sleep(100)
}

/** Kills who has the role when the answer has so many tokens; its host comes back some seconds later. */
async function strike({ world }: LlmWorld, story: Story, role: Role, after: number): Promise<Kill | undefined> {
  const clock = world.kernel.clock()
  while (story.tokens.length < after) {
    if (story.end !== undefined || story.refused !== undefined) return undefined
    await clock.sleep(LOOK_MS)
  }
  const victim = victimOf([...world.peers], story, role)
  const host = world.hosts.find(({ peer }) => peer === victim)
  if (host === undefined || story.end !== undefined) return undefined
  const kill: Kill = { role, at: clock.monotonic(), tokens: story.tokens.length }
  world.crash(host)
  world.kernel.after(3_000, () => world.restart(host))
  return kill
}

function victimOf(peers: readonly (readonly [PeerId, LlmPeer])[], { session }: Story, role: Role): PeerId | undefined {
  for (const [peer, { peer: { generations } }] of peers) {
    const driven = generations.driving().find(each => each.session === session)
    if (driven === undefined) continue
    if (role === 'origin') return peer
    const hosts = driven.plan.map(({ host, standby }) => (role === 'stage' ? host : standby?.host)).filter(host => host !== peer)
    return hosts.find(host => host !== undefined)
  }
  return undefined
}

function weigh({ tokens, times, expected, end }: Story, { role, at, tokens: before }: Kill): Killed {
  const gaps = times.slice(1).map((time, index) => time - (times[index] ?? 0)).sort((a, b) => a - b)
  const tokenMs = Math.max(1, gaps[Math.floor(gaps.length / 2)] ?? 1)
  const stallMs = (times[before] ?? at) - (times[before - 1] ?? at)
  return { role, identical: end !== undefined && tokens.length === expected.length && tokens.every((token, index) => token === expected[index]), stallMs, stall: stallMs / tokenMs }
}
