import assert from 'node:assert/strict'
import { MeshError } from '../../protocols/errors.ts'
import type { GenerationEvent } from '../../protocols/generation.ts'
import type { PeerId } from '../../protocols/ids.ts'
import type { Story } from '../../simulations/scenarios/llm-clients.ts'
import { llmWorld, type LlmShape, type LlmWorld } from '../../simulations/scenarios/llm.ts'
import { FailingStages } from './failing-stages.ts'

const PROMPT = 100
const SHAPE: LlmShape = { stages: 2, standbys: 1, model: { layers: 4, vocab: 80, contextTokens: 1_024, kvTokens: 4_096, layerMs: 4, positionMs: 0.05, astray: 0 }, askEveryMs: 0, prompt: PROMPT, tokens: 100 }
/** Nobody waits longer than that for an answer that is not coming, in virtual ms. */
const BOUND_MS = 400_000

type Failing = LlmWorld & { readonly failing: FailingStages }

async function up(standbys: number, peers = 5): Promise<Failing> {
  const failing = new FailingStages()
  const llm = llmWorld({ seed: 3, peers, corrupt: failing.corrupt }, { ...SHAPE, standbys }, { weather: { delayMs: [2, 6], loss: 0, duplicate: 0 } })
  await llm.world.startAll()
  await llm.world.drive(llm.prepare(), 120_000)
  return { ...llm, failing }
}

/** Asks a peer that has nothing of the model, so that whatever dies is another; or one that has. */
function begin(llm: LlmWorld, serves = false): { readonly peer: PeerId; readonly story: Story; readonly asked: Promise<Story> } {
  const [peer, { peer: { generations } }] = [...llm.world.peers].find(([, { peer }]) => peer.instances.running().length > 0 === serves) ?? assert.fail('no such peer')
  const asked = llm.clients.ask({ prompt: PROMPT, tokens: 100, temperature: 1, door: { peer, generations, alive: () => true } })
  return { peer, story: llm.clients.stories.at(-1)!, asked }
}

async function reach({ world }: LlmWorld, story: Story, tokens: number): Promise<void> {
  const wait = async (): Promise<void> => {
    while (story.tokens.length < tokens && story.wrong === undefined) await world.kernel.clock().sleep(1)
  }
  await world.drive(wait(), 60_000)
}

function driven({ world }: LlmWorld, { session }: Story) {
  for (const [peer, { peer: { generations } }] of world.peers) {
    const found = generations.driving().find(each => each.session === session)
    if (found !== undefined) return { origin: peer, plan: found.plan }
  }
  assert.fail('nobody drives the session')
}

function crash({ world }: LlmWorld, peers: readonly PeerId[]): void {
  for (const host of world.hosts) if (peers.includes(host.peer)) world.crash(host)
}

/** Asked for, it comes to its end, right or with an honest failure. */
async function ended(llm: LlmWorld, asked: Promise<Story>): Promise<Story> {
  await llm.world.drive(asked, BOUND_MS)
  return asked
}

function right({ wrong, end }: Story): void {
  assert.deepEqual([wrong, end?.reason], [undefined, 'length'])
}

/** When it ends early it says why, and all that it said before was right. */
function honest({ end, tokens, expected }: Story, code: string, message: RegExp): void {
  assert.deepEqual([end?.reason, end?.failure?.code], ['error', code], end?.failure?.message)
  assert.match(end?.failure?.message ?? '', message)
  assert.deepEqual(tokens, expected.slice(0, tokens.length))
}

async function nothingLeft({ world, failing }: Failing): Promise<void> {
  failing.step = () => undefined
  failing.place = () => undefined
  await world.run(world.now + 40_000)
  for (const { peer } of world.peers.values()) assert.deepEqual(peer.generations.inspect().stages.seats, [])
}

describe('a session whose stages fail', function () {
  this.timeout(60_000)

  for (const standbys of [1, 0]) {
    const beside = standbys === 0 ? 'no standby' : 'a standby'
    it(`goes on when a step fails once, of the prompt or of the answer, where there is ${beside}`, async () => {
      const llm = await up(standbys)
      for (const at of [0, PROMPT + 40]) {
        for (const first of [0, 2]) {
          const before = llm.failing.failed
          llm.failing.step = ({ position, count }, where) => (llm.failing.failed === before && where.first === first && position + count > at ? 'throws' : undefined)
          right(await ended(llm, begin(llm).asked))
          assert.equal(llm.failing.failed, before + 1)
        }
      }
      await nothingLeft(llm)
    })

    it(`ends with what is wrong when a step fails wherever and whenever it is tried, where there is ${beside}`, async () => {
      const llm = await up(standbys)
      for (const at of [0, PROMPT + 40]) {
        llm.failing.step = ({ position, count }, { first }) => (first === 2 && position + count > at ? 'throws' : undefined)
        const story = await ended(llm, begin(llm).asked)
        honest(story, 'INSTANCE_FAILED', /the runtime refused the step/)
        assert.equal(story.tokens.length, at === 0 ? 0 : 41)
      }
      assert.ok(llm.failing.failed < 20, `${llm.failing.failed} steps were tried`)
      await nothingLeft(llm)
    })
  }

  it('goes on at the standby when an instance answers nothing any more and does not die', async () => {
    const llm = await up(1)
    for (const stage of [0, 1]) {
      const { story, asked } = begin(llm)
      await reach(llm, story, 30)
      const stuck = driven(llm, story).plan[stage]!
      llm.failing.step = (_, { host, first }) => (host === stuck.host && first === stuck.first ? 'hangs' : undefined)
      right(await ended(llm, asked))
      llm.failing.step = () => undefined
      await llm.world.run(llm.world.now + 6_000)
    }
    await nothingLeft(llm)
  })

  it('ends with what is wrong when no instance of a stage answers any more', async () => {
    const llm = await up(0)
    for (const after of [0, 30]) {
      if (after === 0) llm.failing.step = (_, { first }) => (first === 2 ? 'hangs' : undefined)
      const { story, asked } = begin(llm)
      await reach(llm, story, after)
      llm.failing.step = (_, { first }) => (first === 2 ? 'hangs' : undefined)
      honest(await ended(llm, asked), 'DEADLINE', /no output within/)
      llm.failing.step = () => undefined
    }
    await nothingLeft(llm)
  })

  it('goes on elsewhere when a standby has no place for it after all, or never says so', async () => {
    for (const how of ['forgets', 'hangs'] as const) {
      const llm = await up(1, 6)
      const { story, asked } = begin(llm)
      await reach(llm, story, 30)
      const { origin, plan } = driven(llm, story)
      const lost = plan.find(({ host }) => host !== origin)!
      llm.failing.place = ({ host, first }) => (host === lost.standby?.host && first === lost.first ? how : undefined)
      crash(llm, [lost.host])
      right(await ended(llm, asked))
    }
  })

  it('begins elsewhere when the instance beside its origin never says whether it has room', async () => {
    const llm = await up(2, 4)
    let origin: PeerId | undefined
    llm.failing.place = ({ host }) => (host === origin ? 'hangs' : undefined)
    for (let turn = 0; turn < 4; turn += 1) {
      const { peer, asked } = begin(llm, true)
      origin = peer
      right(await ended(llm, asked))
    }
  })

  it('ends with what is missing when all instances of a stage are gone and none can be had', async () => {
    const llm = await up(1, 6)
    const { story, asked } = begin(llm)
    await reach(llm, story, 30)
    const { origin, plan } = driven(llm, story)
    llm.failing.starts = false
    const victims = plan.flatMap(({ host, standby }) => [host, ...(standby === undefined ? [] : [standby.host])]).filter(host => host !== origin)
    crash(llm, victims)
    honest(await ended(llm, asked), 'NO_INSTANCE', /block simulated-s\d has no ready instance for layers/)
    assert.equal(story.session?.startsWith('gen-'), true)
  })

  it('is given up by its readers when its origin and all its mirrors are gone', async () => {
    const llm = await up(1, 6)
    const { story } = begin(llm)
    await reach(llm, story, 20)
    const { origin } = driven(llm, story)
    const knowing = [...llm.world.peers].filter(([peer, { peer: { generations } }]) => peer !== origin && generations.inspect().logs.some(({ session }) => session === story.session)).map(([peer]) => peer)
    const reader = [...llm.world.peers].find(([peer]) => peer !== origin && !knowing.includes(peer))![1]
    const read = async (): Promise<string> => {
      const events: GenerationEvent[] = []
      try {
        for await (const event of reader.peer.generations.follow(story.session!, story.tokens.length, new AbortController().signal)) events.push(event)
      } catch (error) {
        return error instanceof MeshError ? error.code : 'no mesh error'
      }
      return `ended after ${events.length}`
    }
    const reading = read()
    await llm.world.run(llm.world.now + 50)
    crash(llm, [origin, ...knowing])
    assert.equal(await llm.world.drive(reading, BOUND_MS), 'PEER_UNREACHABLE')
  })
})
