import assert from 'node:assert/strict'
import { digest, hex, utf8 } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { RunEvent } from '../../protocols/runs.ts'
import { CALM } from '../../simulations/links.ts'
import type { SimulatedHost } from '../../simulations/host.ts'
import { rendezvous } from '../../src/lib/rendezvous.ts'
import { FakeMesh } from './fake-mesh.ts'

const NEVER = new AbortController().signal
const DIAMOND = 'triage:1.0.0-stable'

async function diamond(seed = 1, peers = 3): Promise<FakeMesh> {
  const mesh = new FakeMesh(seed, peers)
  mesh.addVdag(DIAMOND, ['normalise', 'classify', 'rules', 'report'], ['normalise>classify', 'normalise>rules', 'classify>report', 'rules>report'])
  return mesh.up()
}

function count(events: readonly RunEvent[], type: RunEvent['type']): number {
  return events.filter(event => event.type === type).length
}

describe('a run', () => {
  it('goes through its graph and gives its outputs by label', async () => {
    const mesh = await diamond()
    const engine = mesh.engine(0)
    const { run, existing } = await mesh.drive(engine.submit({ vdagUri: DIAMOND, input: { age: 41 }, submitter: mesh.host(0).peer }))
    assert.equal(existing, false)
    assert.deepEqual(await mesh.drive(engine.result(run, NEVER)), { report: { report: { inputs: [{ classify: { normalise: { age: 41 } } }, { rules: { normalise: { age: 41 } } }] } } })
    const events = await mesh.events(1, run)
    assert.equal(count(events, 'finished'), 4)
    assert.equal(count(events, 'completed'), 1)
    assert.equal(mesh.calls.length, 4)
  })
})

/** Submits with a key, kills the coordinator `afterMs` later, and resubmits the key elsewhere. */
async function killed(seed: number, afterMs: number, again: (mesh: FakeMesh) => Promise<void> = async () => {}): Promise<{ readonly mesh: FakeMesh; readonly events: readonly RunEvent[]; readonly run: string }> {
  const mesh = await diamond(seed)
  const submission = { vdagUri: DIAMOND, input: { age: 41 }, key: 'patient-7', submitter: mesh.host(0).peer }
  mesh.engine(0).submit(submission).catch(() => undefined)
  await mesh.world.run(mesh.world.now + afterMs)
  mesh.crash(0)
  await again(mesh)
  const { run } = await mesh.drive(mesh.engine(1).submit({ ...submission, submitter: mesh.host(1).peer }))
  return { mesh, run, events: await mesh.events(1, run) }
}

function finishedOnce(mesh: FakeMesh, run: string, events: readonly RunEvent[], about: string): void {
  assert.equal(count(events, 'completed'), 1, about)
  assert.equal(count(events, 'aborted'), 0, about)
  assert.deepEqual(events.filter(event => event.type === 'finished').map(({ label }) => label).sort(), ['classify', 'normalise', 'report', 'rules'], about)
  assert.deepEqual(mesh.rerun(run, events), [], about)
}

describe('a run whose coordinator is killed', () => {
  it('is finished by a mirror, whenever that happens, with no completed node run again', async () => {
    const inherited = new Set<number>()
    for (let at = 0; at < 50; at += 1) {
      const { mesh, run, events } = await killed(at, 5 + at * 11)
      finishedOnce(mesh, run, events, `killed after ${5 + at * 11} ms`)
      const takeover = events.findIndex(event => event.type === 'coordinator' && event.epoch > 1)
      if (takeover > 0) inherited.add(count(events.slice(0, takeover), 'finished'))
    }
    assert.deepEqual([...inherited].sort(), [0, 1, 2, 3, 4], 'kills must hit runs with none, some and all nodes done')
  })

  it('stays in the trace of whoever submitted it', async () => {
    const mesh = await diamond(4)
    const trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    const traces: (string | undefined)[] = []
    for (const block of ['normalise', 'classify', 'rules', 'report']) {
      const behaviour = mesh.behaviours.get(block)
      assert.ok(behaviour)
      mesh.behaviours.set(block, (data, about) => {
        traces.push(about.options.trace)
        return behaviour(data, about)
      })
    }
    const { run } = await mesh.drive(mesh.engine(0).submit({ vdagUri: DIAMOND, input: 1, submitter: mesh.host(0).peer, trace }))
    await mesh.world.run(mesh.world.now + 40)
    mesh.crash(0)
    const before = traces.length
    finishedOnce(mesh, run, await mesh.events(1, run), 'in a trace')
    assert.ok(traces.length > before && traces.every(said => said === trace), JSON.stringify(traces))
  })

  it('is finished by its coordinator when that comes back at once', async () => {
    for (let at = 0; at < 20; at += 1) {
      const { mesh, run, events } = await killed(at, 5 + at * 27, mesh => mesh.restart(0))
      finishedOnce(mesh, run, events, `restarted after ${5 + at * 27} ms`)
    }
  })

  it('is finished after each event it can have reached', async () => {
    for (let reached = 1; reached <= 10; reached += 1) {
      const mesh = await diamond(reached)
      const engine = mesh.engine(0)
      const { run } = await mesh.drive(engine.submit({ vdagUri: DIAMOND, input: 1, submitter: mesh.host(0).peer }))
      const seen: RunEvent[] = []
      await mesh.drive((async () => {
        for await (const event of engine.follow(run, 0, NEVER)) if (seen.push(event) >= reached || event.type === 'completed') return
      })())
      // Nothing that is still on its way arrives.
      mesh.world.partition([mesh.host(0)], [mesh.host(1), mesh.host(2)])
      mesh.crash(0)
      const events = await mesh.events(2, run)
      assert.deepEqual(events.slice(0, seen.length), seen, 'what was seen stays seen')
      finishedOnce(mesh, run, events, `killed after event ${reached}`)
    }
  })

  it('is finished when a mirror dies with it and one is left', async () => {
    const mesh = await diamond(3, 4)
    const { run } = await mesh.drive(mesh.engine(0).submit({ vdagUri: DIAMOND, input: 1, submitter: mesh.host(0).peer }))
    const holders = [1, 2, 3]
    mesh.crash(0)
    await mesh.world.run(mesh.world.now + 1_500)
    const driver = holders.find(index => mesh.engine(index).driving().includes(run))
    if (driver !== undefined) mesh.crash(driver)
    const reader = holders.find(index => index !== driver)!
    finishedOnce(mesh, run, await mesh.events(reader, run), 'two kills')
  })

  it('goes on under loss', async () => {
    for (let seed = 0; seed < 10; seed += 1) {
      const mesh = await diamond(seed)
      mesh.world.weather({ ...CALM, loss: 0.05 })
      const submission = { vdagUri: DIAMOND, input: 1, key: 'k', submitter: mesh.host(0).peer }
      mesh.engine(0).submit(submission).catch(() => undefined)
      await mesh.world.run(mesh.world.now + 100 + seed * 40)
      mesh.crash(0)
      const { run } = await mesh.drive(mesh.engine(2).submit(submission))
      finishedOnce(mesh, run, await mesh.events(2, run, 120_000), `seed ${seed}`)
    }
  })
})

describe('an idempotency key', () => {
  it('is one run when three peers submit it at once', async () => {
    for (let seed = 0; seed < 10; seed += 1) {
      const mesh = await diamond(seed)
      const answers = await mesh.drive(Promise.all([0, 1, 2].map(index => mesh.engine(index).submit({ vdagUri: DIAMOND, input: 7, key: 'same', submitter: mesh.host(index).peer }))))
      const [first] = answers
      assert.ok(first !== undefined && answers.every(({ run }) => run === first.run))
      assert.equal(answers.filter(({ existing }) => !existing).length, 1, `seed ${seed}`)
      const results = await mesh.drive(Promise.all([0, 1, 2].map(index => mesh.engine(index).result(first.run, NEVER))))
      assert.deepEqual(results[1], results[0])
      assert.deepEqual(results[2], results[0])
      assert.equal(mesh.calls.length, 4, `seed ${seed}`)
    }
  })

  it('answers with the finished run, also after every peer was restarted', async () => {
    const mesh = await diamond()
    const submission = { vdagUri: DIAMOND, input: 1, key: 'once', submitter: mesh.host(0).peer }
    const { run } = await mesh.drive(mesh.engine(0).submit(submission))
    const result = await mesh.drive(mesh.engine(0).result(run, NEVER))
    for (const index of [0, 1, 2]) {
      mesh.crash(index)
      await mesh.restart(index)
    }
    assert.deepEqual(await mesh.drive(mesh.engine(2).submit(submission)), { run, existing: true })
    assert.deepEqual(await mesh.drive(mesh.engine(2).result(run, NEVER)), result)
    assert.equal(mesh.calls.length, 4)
  })

  it('used again for another input is a conflict that names the run, on every peer, while it runs and after it ended', async () => {
    const mesh = await diamond()
    const submission = { vdagUri: DIAMOND, input: { age: 1 }, key: 'mine', submitter: mesh.host(0).peer }
    const { run } = await mesh.drive(mesh.engine(0).submit(submission))
    const otherInput = (index: number): Promise<unknown> => assert.rejects(mesh.drive(mesh.engine(index).submit({ ...submission, input: { age: 2 } })), (error: unknown) => error instanceof MeshError && error.code === 'CONFLICT' && error.message.includes(run) && error.message.includes('mine'))
    for (const index of [0, 1, 2]) await otherInput(index)
    await mesh.drive(mesh.engine(0).result(run, NEVER))
    for (const index of [0, 1, 2]) await otherInput(index)
    mesh.crash(0)
    for (const index of [1, 2]) await otherInput(index)
    assert.equal(mesh.calls.length, 4)
  })

  it('submitted at once with two inputs is one run and one conflict', async () => {
    for (let seed = 0; seed < 10; seed += 1) {
      const mesh = await diamond(seed)
      const answers = await mesh.drive(Promise.allSettled([0, 1].map(index => mesh.engine(index).submit({ vdagUri: DIAMOND, input: index, key: 'same', submitter: mesh.host(index).peer }))))
      assert.deepEqual(answers.map(answer => (answer.status === 'fulfilled' ? 'run' : (answer.reason as MeshError).code)).sort(), ['CONFLICT', 'run'], `seed ${seed}`)
    }
  })

  it('of another vDAG is another run', async () => {
    const mesh = await diamond()
    mesh.addVdag('other:1.0.0-stable', ['rules'], [])
    const [one, other] = await mesh.drive(Promise.all([DIAMOND, 'other:1.0.0-stable'].map(vdagUri => mesh.engine(0).submit({ vdagUri, input: 1, key: 'k', submitter: mesh.host(0).peer }))))
    assert.notEqual(one?.run, other?.run)
  })
})

describe('a coordinator that was replaced', () => {
  it('is fenced by the mirrors and follows the one that took over', async () => {
    const mesh = await diamond(5)
    mesh.serviceMs = [400, 500]
    const { run } = await mesh.drive(mesh.engine(0).submit({ vdagUri: DIAMOND, input: 1, submitter: mesh.host(0).peer }))
    const heal = mesh.world.partition([mesh.host(0)], [mesh.host(1), mesh.host(2)])
    mesh.believeDead(0)
    await mesh.world.run(mesh.world.now + 3_000)
    heal()
    mesh.believeAlive(0)
    // Who followed across the takeover saw what this side wrote first; the record is what stands at the end.
    assert.equal(count(await mesh.events(0, run), 'completed'), 1)
    const events = await mesh.events(0, run)
    assert.deepEqual(events.filter(event => event.type === 'coordinator').map(({ epoch }) => epoch), [1, 2])
    assert.deepEqual(await mesh.events(1, run), events)
    assert.deepEqual(await mesh.events(2, run), events)
    assert.deepEqual(mesh.engine(0).driving(), [])
  })

  it('gives up the result it reached alone for the one of the higher epoch', async () => {
    const mesh = await diamond(5)
    mesh.serviceMs = [400, 500]
    const { run } = await mesh.drive(mesh.engine(0).submit({ vdagUri: DIAMOND, input: 1, submitter: mesh.host(0).peer }))
    const heal = mesh.world.partition([mesh.host(0)], [mesh.host(1), mesh.host(2)])
    mesh.believeDead(0)
    await mesh.world.run(mesh.world.now + 30_000)
    assert.equal(mesh.engine(0).inspect()[0]?.state, 'completed', 'the coordinator finished on its side')
    assert.equal(mesh.engine(1).inspect()[0]?.state, 'completed', 'and a mirror on the other')
    heal()
    mesh.believeAlive(0)
    await mesh.world.run(mesh.world.now + 60_000)
    const events = await mesh.events(1, run)
    assert.deepEqual(await mesh.events(0, run), events)
    assert.deepEqual(mesh.engine(0).inspect(), mesh.engine(1).inspect())
  })
})

describe('a cut that nobody has noticed yet', () => {
  it('leaves one result of a run that both sides ended meanwhile', async () => {
    const mesh = new FakeMesh(3, 6)
    mesh.addBlock('solo', (data, { count }) => ({ data, count }))
    mesh.addVdag('solo:1.0.0-stable', ['solo'], [])
    await mesh.up()
    // What peers compare after their start must not hide what they compare after the cut.
    await mesh.world.run(mesh.world.now + 12_000)
    const all = mesh.world.hosts.map(({ index }) => index)
    // Each side gets one of the two peers that come first of the run: its end is mirrored there, and looks final.
    const run = `run-${hex(digest(utf8('aios-run\0solo:1.0.0-stable\0k'))).slice(0, 32)}`
    const order = rendezvous(run, mesh.world.hosts.map(({ peer }) => peer)).map(peer => mesh.world.hosts.findIndex(host => host.peer === peer))
    const side = (first: number): SimulatedHost[] => order.filter((_, place) => place % 2 === first).map(at => mesh.host(at))
    const heal = mesh.world.partition(side(0), side(1))
    const submitters = order.slice(2, 4)
    const submitted = await mesh.drive(Promise.all(submitters.map(at => mesh.engine(at).submit({ vdagUri: 'solo:1.0.0-stable', input: 1, key: 'k', submitter: mesh.host(at).peer }))))
    assert.deepEqual(submitted.map(one => one.run), [run, run])
    const results = (): Set<string> => new Set(all.flatMap(at => mesh.engine(at).inspect().flatMap(({ state, outputs }) => (state === 'completed' ? JSON.stringify(outputs) : []))))
    while (!submitters.every(at => mesh.engine(at).inspect()[0]?.state === 'completed')) await mesh.world.run(mesh.world.now + 100)
    assert.equal(results().size, 2, 'both sides have a result of their own')
    await mesh.world.run(mesh.world.now + 2_000)
    for (const at of all) mesh.believeDead(at)
    heal()
    for (const at of all) mesh.believeAlive(at)
    await mesh.world.run(mesh.world.now + 15_000)
    assert.equal(results().size, 1)
  })
})

describe('a lone peer', () => {
  it('runs by itself', async () => {
    const mesh = await diamond(1, 1)
    const { run } = await mesh.drive(mesh.engine(0).submit({ vdagUri: DIAMOND, input: 1, key: 'k', submitter: mesh.host(0).peer }))
    assert.equal(count(await mesh.events(0, run), 'completed'), 1)
  })

  it('finishes what it began before it was killed', async () => {
    const mesh = await diamond(1, 1)
    const { run } = await mesh.drive(mesh.engine(0).submit({ vdagUri: DIAMOND, input: 1, key: 'k', submitter: mesh.host(0).peer }))
    await mesh.world.run(mesh.world.now + 70)
    mesh.crash(0)
    await mesh.restart(0)
    finishedOnce(mesh, run, await mesh.events(0, run), 'alone')
  })
})
