import assert from 'node:assert/strict'
import { MeshError, type ErrorCode } from '../../protocols/errors.ts'
import { runClaim, runMirror, runRead, type RunEvent } from '../../protocols/runs.ts'
import { seal } from '../../src/trust/seal.ts'
import { FakeMesh } from './fake-mesh.ts'

const RUN = 'run-0123'
const began = async (mesh: FakeMesh): Promise<RunEvent> => {
  const { content } = mesh.peer(0).ports
  return { type: 'began', run: RUN, key: '', vdag: 'v:1', plan: await content.putRecord({ plan: 1 }), input: await content.putRecord({ input: 1 }), submitter: mesh.host(0).peer, at: 0 }
}

/** Peer `by` says something to peer 1, signed by `as`. */
function claim(mesh: FakeMesh, by: number, epoch: number, { as = by, coordinator = by }: { readonly as?: number; readonly coordinator?: number } = {}): Promise<{ readonly granted: boolean; readonly epoch: number; readonly coordinator: string; readonly finished: boolean }> {
  const { network } = mesh.peer(by).ports
  const body = { run: RUN, coordinator: mesh.host(coordinator).peer, epoch, issuedAt: 0 }
  return mesh.drive(network.request(mesh.host(1).peer, runClaim, seal(mesh.peer(as).ports.identity, 'run-claim', body)))
}

function mirror(mesh: FakeMesh, by: number, epoch: number, from: number, events: readonly RunEvent[], more: { readonly previous?: number; readonly records?: readonly Uint8Array[] } = {}): Promise<{ readonly accepted: boolean; readonly have: number; readonly epoch: number }> {
  const { network, identity } = mesh.peer(by).ports
  return mesh.drive(network.request(mesh.host(1).peer, runMirror, seal(identity, 'run-mirror', { run: RUN, epoch, from, events, issuedAt: 0, ...more })))
}

async function refused(work: Promise<unknown>, code: ErrorCode): Promise<void> {
  await assert.rejects(work, error => error instanceof MeshError && error.code === code)
}

const coordinator = (mesh: FakeMesh, index: number, epoch: number): RunEvent => ({ type: 'coordinator', peer: mesh.host(index).peer, epoch, at: 0 })
const up = (): Promise<FakeMesh> => new FakeMesh(1, 3).up()

describe('a registrar', () => {
  it('grants a run to the first who asks, and to the same one again', async () => {
    const mesh = await up()
    assert.equal((await claim(mesh, 0, 1)).granted, true)
    assert.equal((await claim(mesh, 0, 1)).granted, true)
    const second = await claim(mesh, 2, 1)
    assert.deepEqual([second.granted, second.coordinator], [false, mesh.host(0).peer])
  })

  it('remembers what it granted after kill -9', async () => {
    const mesh = await up()
    await claim(mesh, 0, 7)
    mesh.crash(1)
    await mesh.restart(1)
    const second = await claim(mesh, 2, 7)
    assert.deepEqual([second.granted, second.epoch], [false, 7])
  })

  it('gives it to a higher epoch when the one who has it does not drive it', async () => {
    const mesh = await up()
    await claim(mesh, 0, 1)
    assert.equal((await claim(mesh, 2, 2)).granted, true)
    assert.equal((await claim(mesh, 0, 1)).granted, false)
  })

  it('keeps it for the one who drives it, whatever epoch another brings', async () => {
    const mesh = await up()
    mesh.addVdag('v:1', ['a'], [])
    mesh.serviceMs = [60_000, 60_000]
    const { run } = await mesh.drive(mesh.engine(0).submit({ vdagUri: 'v:1', input: 0, submitter: mesh.host(0).peer }))
    const { network, identity } = mesh.peer(2).ports
    const answer = await mesh.drive(network.request(mesh.host(1).peer, runClaim, seal(identity, 'run-claim', { run, coordinator: mesh.host(2).peer, epoch: 99, issuedAt: 0 })))
    assert.deepEqual([answer.granted, answer.coordinator, answer.epoch], [false, mesh.host(0).peer, 1])
  })

  it('takes no claim from one peer for another', async () => {
    const mesh = await up()
    await refused(claim(mesh, 0, 1, { as: 2, coordinator: 2 }), 'FORBIDDEN')
    await refused(claim(mesh, 0, 1, { coordinator: 2 }), 'FORBIDDEN')
  })
})

describe('a mirror', () => {
  it('holds the records that events name before it accepts them', async () => {
    const mesh = await up()
    const first = await began(mesh)
    assert.deepEqual(await mirror(mesh, 0, 1, 0, [first, coordinator(mesh, 0, 1)]), { accepted: true, have: 2, epoch: 1 })
    assert.ok(first.type === 'began')
    assert.equal(await mesh.peer(1).ports.content.has(first.plan), true)
    assert.equal(await mesh.peer(1).ports.content.has(first.input), true)
  })

  it('has what it accepted after kill -9', async () => {
    const mesh = await up()
    await mirror(mesh, 0, 1, 0, [await began(mesh), coordinator(mesh, 0, 1)])
    mesh.crash(1)
    await mesh.restart(1)
    const { events } = await mesh.drive(mesh.peer(2).ports.network.request(mesh.host(1).peer, runRead, { run: RUN, from: 0, waitMs: 0 }))
    assert.deepEqual(events.map(({ type }) => type), ['began', 'coordinator'])
  })

  it('refuses an older epoch, and another coordinator in the same', async () => {
    const mesh = await up()
    const first = await began(mesh)
    await mirror(mesh, 0, 2, 0, [first, coordinator(mesh, 0, 2)])
    await refused(mirror(mesh, 0, 1, 2, []), 'EPOCH_FENCED')
    await refused(mirror(mesh, 2, 2, 2, []), 'EPOCH_FENCED')
  })

  it('asks for what it misses, and for everything when its own copy is another', async () => {
    const mesh = await up()
    const first = await began(mesh)
    assert.deepEqual(await mirror(mesh, 0, 1, 5, []), { accepted: false, have: 0, epoch: 1 })
    const failed: RunEvent = { type: 'failed', label: 'a', attempt: 1, code: 'X', message: '', retryable: false, at: 0 }
    await mirror(mesh, 0, 1, 0, [first, coordinator(mesh, 0, 1), failed, failed])
    // Its successor never saw the failures: its own events take their place.
    assert.deepEqual(await mirror(mesh, 2, 2, 3, [], { previous: 2 }), { accepted: false, have: 0, epoch: 2 })
    assert.deepEqual(await mirror(mesh, 2, 2, 0, [first, coordinator(mesh, 0, 1), coordinator(mesh, 2, 2)]), { accepted: true, have: 3, epoch: 2 })
  })

  it('keeps one of events that come twice', async () => {
    const mesh = await up()
    const events = [await began(mesh), coordinator(mesh, 0, 1)]
    await mirror(mesh, 0, 1, 0, events)
    assert.deepEqual(await mirror(mesh, 0, 1, 0, events), { accepted: true, have: 2, epoch: 1 })
  })

  it('refuses records that no event names, and events of another run', async () => {
    const mesh = await up()
    const first = await began(mesh)
    await refused(mirror(mesh, 0, 1, 0, [first], { records: [Uint8Array.of(0xa0)] }), 'CONTENT_CORRUPT')
    assert.ok(first.type === 'began')
    await refused(mirror(mesh, 0, 1, 0, [{ ...first, run: 'run-9' }]), 'MESSAGE_INVALID')
  })
})
