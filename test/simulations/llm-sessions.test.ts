import assert from 'node:assert/strict'
import { MeshError } from '../../protocols/errors.ts'
import { generationRequest, type GenerationEvent, type GenerationRequest } from '../../protocols/generation.ts'
import type { PeerId } from '../../protocols/ids.ts'
import type { Story } from '../../simulations/scenarios/llm-clients.ts'
import { llmWorld, SERVICE, type LlmPeer, type LlmShape, type LlmWorld } from '../../simulations/scenarios/llm.ts'

const SHAPE: LlmShape = { stages: 2, standbys: 1, model: { layers: 4, vocab: 80, contextTokens: 512, kvTokens: 2_048, layerMs: 4, positionMs: 0.05, astray: 0 }, askEveryMs: 0, prompt: 100, tokens: 100 }

async function up(shape: Partial<LlmShape> = {}, peers = 5, seed = 3): Promise<LlmWorld> {
  const llm = llmWorld({ seed, peers }, { ...SHAPE, ...shape }, { weather: { delayMs: [2, 6], loss: 0, duplicate: 0 } })
  await llm.world.startAll()
  await llm.world.drive(llm.prepare(), 120_000)
  return llm
}

/** The peer that drives a story's session, and where its stages are. */
function driven({ world }: LlmWorld, story: Story): { readonly origin: LlmPeer; readonly plan: ReturnType<LlmPeer['peer']['generations']['driving']>[number]['plan'] } {
  for (const peer of world.peers.values()) {
    const found = peer.peer.generations.driving().find(({ session }) => session === story.session)
    if (found !== undefined) return { origin: peer, plan: found.plan }
  }
  assert.fail('nobody drives the session')
}

async function reach({ world }: LlmWorld, story: Story, tokens: number): Promise<void> {
  const clock = world.kernel.clock()
  const wait = async (): Promise<void> => {
    while (story.tokens.length < tokens && story.wrong === undefined) await clock.sleep(1)
  }
  await world.drive(wait(), 60_000)
}

function begin(llm: LlmWorld, options: Partial<Parameters<LlmWorld['clients']['ask']>[0]> = {}): { readonly story: Story; readonly asked: Promise<Story> } {
  const asked = llm.clients.ask({ prompt: 100, tokens: 100, temperature: 1, ...options })
  return { story: llm.clients.stories.at(-1)!, asked }
}

function crash({ world }: LlmWorld, ...peers: readonly PeerId[]): void {
  for (const host of world.hosts) if (peers.includes(host.peer)) world.crash(host)
}

function gaps({ times }: Story): { readonly median: number; readonly longest: number } {
  const sorted = times.slice(1).map((time, at) => time - times[at]!).sort((a, b) => a - b)
  return { median: sorted[Math.floor(sorted.length / 2)]!, longest: sorted.at(-1)! }
}

function request(change: Partial<GenerationRequest> = {}): GenerationRequest {
  return generationRequest.parse({ model: SERVICE, prompt: [1, 2, 3], maxTokens: 50, sampling: { temperature: 0, seed: 1 }, ignoreEnd: true, ...change })
}

async function collect(events: AsyncIterable<GenerationEvent>): Promise<readonly GenerationEvent[]> {
  const all: GenerationEvent[] = []
  for await (const event of events) all.push(event)
  return all
}

function refusal(work: Promise<unknown>): Promise<MeshError> {
  return work.then(() => assert.fail('it was not refused'), (error: unknown) => {
    assert(error instanceof MeshError)
    return error
  })
}

describe('a session of a split model', function () {
  this.timeout(60_000)
  const never = new AbortController().signal
  const peerOf = (llm: LlmWorld, at: number) => [...llm.world.peers.values()][at]!.peer

  it('moves from an instance that is to go without a pause, and lets it go', async () => {
    const llm = await up({ stages: 3 })
    const { story, asked } = begin(llm, { tokens: 200 })
    await reach(llm, story, 40)
    const leaving = driven(llm, story).plan[1]!
    const stopped = llm.world.peers.get(leaving.host)!.peer.instances.stop(leaving.instance, 60_000, 'the test asks')
    let gone = false
    void stopped.then(() => {
      gone = true
    })
    await reach(llm, story, 120)
    assert.notEqual(driven(llm, story).plan[1]!.instance, leaving.instance)
    assert(gone, 'the instance went when its session had left')
    await llm.world.drive(asked, 60_000)
    assert.equal(story.wrong, undefined)
    const { median, longest } = gaps(story)
    assert.ok(longest <= 3 * median, `${longest} ms where a token takes ${median}`)
  })

  it('survives the death of every stage but the origin at once, and of a stage that has no standby', async () => {
    for (const standbys of [1, 0]) {
      const llm = await up({ standbys, stages: 2 }, 7)
      const { story, asked } = begin(llm)
      await reach(llm, story, 30)
      const { origin, plan } = driven(llm, story)
      const victims = standbys === 0 ? [plan[1]!.host] : plan.map(({ host }) => host)
      crash(llm, ...victims.filter(host => host !== origin.peer.view.self))
      await llm.world.drive(asked, 300_000)
      assert.deepEqual([story.wrong, story.end?.reason], [undefined, 'length'])
    }
  })

  it('survives the deaths of a primary and its standby together', async () => {
    const llm = await up({ standbys: 2 }, 8)
    const { story, asked } = begin(llm)
    await reach(llm, story, 50)
    const { origin, plan } = driven(llm, story)
    crash(llm, ...[plan[0]!.host, plan[0]!.standby?.host ?? ''].filter(host => host !== origin.peer.view.self))
    await llm.world.drive(asked, 300_000)
    assert.deepEqual([story.wrong, story.end?.reason], [undefined, 'length'])
  })

  it('is the same for the same key from any peer, and is read from any peer, from any token on, also long after its end', async () => {
    const llm = await up()
    const start = (at: number) => peerOf(llm, at).generations.start(request(), { key: 'one', deadlineMs: 60_000 })
    const sessions = await llm.world.drive(Promise.all([start(0), start(1), start(2)]))
    assert.equal(new Set(sessions).size, 1)
    const read = (at: number, after: number) => collect(peerOf(llm, at).generations.follow(sessions[0]!, after, never))
    const [all, later] = await llm.world.drive(Promise.all([read(3, 0), read(4, 20)]), 60_000)
    assert.equal(all!.length, 51)
    assert.deepEqual(later, all!.slice(20))
    assert.equal(await llm.world.drive(start(4)), sessions[0])
    await llm.world.run(llm.world.now + 20_000)
    assert.deepEqual(await llm.world.drive(read(2, 49), 60_000), all!.slice(49))
  })

  it('is one though several peers begin it in the same moment, and compute already when they are told', async () => {
    for (const seed of [3, 4]) {
      const llm = await up({}, 5, seed)
      const started = Promise.all([1, 2, 3].map(at => peerOf(llm, at).generations.start(request({ prompt: Array.from({ length: 100 }, (_, index) => index % 80) }), { key: 'all', deadlineMs: 60_000 })))
      await llm.world.drive(started, 60_000)
      const sessions = await started
      assert.equal(new Set(sessions).size, 1)
      const read = Promise.all([1, 2, 3].map(at => collect(peerOf(llm, at).generations.follow(sessions[0]!, 0, never))))
      await llm.world.drive(read, 60_000)
      const [one, ...others] = await read
      assert.equal(one!.length, 51)
      for (const other of others) assert.deepEqual(other, one)
      await llm.world.drive(llm.world.kernel.clock().sleep(40_000), 60_000)
      assert.deepEqual([...llm.world.peers.values()].flatMap(({ peer }) => peer.generations.inspect().stages.seats), [])
    }
  })

  it('is cancelled from any peer, ends at its deadline, and leaves no seat behind', async () => {
    const llm = await up()
    const long = request({ maxTokens: 400 })
    const { generations } = peerOf(llm, 0)
    const [cancelled, late] = await llm.world.drive(Promise.all([generations.start(long, { deadlineMs: 600_000 }), generations.start(long, { deadlineMs: 1_500 })]))
    await llm.world.run(llm.world.now + 500)
    await llm.world.drive(peerOf(llm, 3).generations.cancel(cancelled!))
    const ends = await llm.world.drive(Promise.all([cancelled!, late!].map(async session => (await collect(peerOf(llm, 2).generations.follow(session, 0, never))).at(-1))), 60_000)
    assert.deepEqual(ends.map(end => end?.kind === 'end' && [end.reason, end.failure?.code]), [['cancelled', undefined], ['error', 'DEADLINE']])
    await llm.world.run(llm.world.now + 1_000)
    for (const { peer } of llm.world.peers.values()) assert.deepEqual(peer.generations.inspect().stages.seats, [])
  })

  it('is refused when no stage has KV for it, with when to ask again; then nothing of it is left', async () => {
    const llm = await up({ standbys: 0 })
    const big = request({ prompt: Array.from({ length: 100 }, () => 1), maxTokens: 400 })
    const { generations } = peerOf(llm, 1)
    const began = await llm.world.drive(Promise.all(Array.from({ length: 4 }, () => generations.start(big, { deadlineMs: 600_000 }))))
    const error = await llm.world.drive(refusal(generations.start(big, { deadlineMs: 600_000 })))
    assert.equal(error.code, 'NO_CAPACITY')
    assert.ok(error.retryable && Number(error.details['retryAfterMs']) > 0)
    for (const session of began) await llm.world.drive(generations.cancel(session))
    await llm.world.run(llm.world.now + 1_000)
    await llm.world.drive(generations.start(big, { deadlineMs: 600_000 }))
  })

  it('says what is wrong with what was asked', async () => {
    const llm = await up()
    const { generations } = peerOf(llm, 0)
    const refused = async (change: Partial<GenerationRequest>) => (await llm.world.drive(refusal(generations.start(request(change), { deadlineMs: 1_000 })))).code
    assert.equal(await refused({ model: 'unknown' }), 'NOT_FOUND')
    assert.equal(await refused({ prompt: [1, 99] }), 'BAD_INPUT')
    assert.equal(await refused({ prompt: Array.from({ length: 512 }, () => 1) }), 'BAD_INPUT')
    assert.equal((await llm.world.drive(refusal(collect(generations.follow('gen-00', 0, never))), 60_000)).code, 'NOT_FOUND')
  })

  it('finds the prefix that an earlier one left', async () => {
    const llm = await up({ standbys: 0 })
    const { generations } = peerOf(llm, 0)
    const prompt = Array.from({ length: 200 }, (_, at) => at % 70)
    const ends: (GenerationEvent | undefined)[] = []
    for (let time = 0; time < 2; time += 1) {
      const session = await llm.world.drive(generations.start(request({ prompt, maxTokens: 4 }), { deadlineMs: 60_000 }))
      const events = await llm.world.drive(collect(generations.follow(session, 0, never)), 60_000)
      ends.push(events.at(-1))
      await llm.world.run(llm.world.now + 500)
    }
    assert.deepEqual(ends.map(end => end?.kind === 'end' && end.cachedTokens), [0, 192])
  })

  it('goes on after the whole mesh has stopped and started again', async () => {
    const llm = await up()
    const { story, asked } = begin(llm)
    await reach(llm, story, 40)
    for (const host of llm.world.hosts) llm.world.crash(host)
    for (const host of llm.world.hosts) llm.world.restart(host)
    await llm.world.drive(asked, 300_000)
    assert.deepEqual([story.wrong, story.end?.reason], [undefined, 'length'])
  })
})
