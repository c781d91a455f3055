import assert from 'node:assert/strict'
import type { RunEvent } from '../../protocols/runs.ts'
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
    for (let at = 0; at < 50; at += 1) {
      const { mesh, run, events } = await killed(at, 5 + at * 11)
      finishedOnce(mesh, run, events, `killed after ${5 + at * 11} ms`)
    }
  })

  it('is finished by its coordinator when that comes back at once', async () => {
    for (let at = 0; at < 20; at += 1) {
      const { mesh, run, events } = await killed(at, 5 + at * 27, mesh => mesh.restart(0))
      finishedOnce(mesh, run, events, `restarted after ${5 + at * 27} ms`)
    }
  })
})
