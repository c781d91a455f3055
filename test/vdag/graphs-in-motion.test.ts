import assert from 'node:assert/strict'
import { z } from 'zod'
import { decode } from '../../protocols/codec.ts'
import { MeshError, type ErrorCode } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { CALM } from '../../simulations/links.ts'
import { FakeMesh } from './fake-mesh.ts'

const NEVER = new AbortController().signal
const rule = (policyRuleURI: string): { policyRuleURI: string; parameters: Record<string, Json>; settings: Record<string, Json> } => ({ policyRuleURI, parameters: {}, settings: {} })

async function run(mesh: FakeMesh, vdagUri: string, input: Json): Promise<Readonly<Record<string, Json>>> {
  const engine = mesh.engine(0)
  return mesh.drive((async () => {
    const { run } = await engine.submit({ vdagUri, input, submitter: mesh.host(0).peer })
    return engine.result(run, NEVER)
  })())
}

async function refused(work: Promise<unknown>, code: ErrorCode, message: RegExp): Promise<void> {
  await assert.rejects(work, error => {
    assert.ok(error instanceof MeshError)
    assert.equal(error.code, code)
    assert.match(error.message, message)
    return true
  })
}

const up = (peers = 1): Promise<FakeMesh> => new FakeMesh(1, peers).up()

describe('a nested vDAG', () => {
  it('takes its inputs from what precedes it and gives its outputs to what follows', async () => {
    const mesh = await up()
    mesh.addVdag('inner:1', ['left', 'right', 'sum'], ['left>sum', 'right>sum'])
    mesh.addVdag('outer:1', ['first', { label: 'sub', vdagURI: 'inner:1' }, 'last'], ['first>sub', 'sub>last'])
    assert.deepEqual(await run(mesh, 'outer:1', 0), { last: { last: { sum: { inputs: [{ left: { first: 0 } }, { right: { first: 0 } }] } } } })
    assert.deepEqual(mesh.calls.map(({ label }) => label).sort(), ['first', 'last', 'sub/left', 'sub/right', 'sub/sum'])
  })

  it('with several outputs is a join for its successor', async () => {
    const mesh = await up()
    mesh.addVdag('inner:1', ['x', 'y'], [])
    mesh.addVdag('outer:1', [{ label: 'sub', vdagURI: 'inner:1' }, 'last'], ['sub>last'])
    assert.deepEqual(await run(mesh, 'outer:1', 0), { last: { last: { inputs: [{ x: 0 }, { y: 0 }] } } })
  })

  it('has its node\'s policies before its inputs and after its outputs', async () => {
    const mesh = await up()
    mesh.rules.set('before:1', () => ({ packet: { data: 'before' } }))
    mesh.rules.set('after:1', input => ({ packet: { data: ['after', (input as { packet: { data: Json } }).packet.data] } }))
    mesh.addVdag('inner:1', ['x'], [])
    mesh.addVdag('outer:1', [{ label: 'sub', vdagURI: 'inner:1', preprocessingPolicyRule: rule('before:1'), postprocessingPolicyRule: rule('after:1') }], [])
    assert.deepEqual(await run(mesh, 'outer:1', 0), { 'sub/x': ['after', { x: 'before' }] })
  })

  it('that contains itself is refused with the way round', async () => {
    const mesh = await up()
    mesh.addVdag('a:1', [{ label: 'b', vdagURI: 'b:1' }], [])
    mesh.addVdag('b:1', [{ label: 'a', vdagURI: 'a:1' }], [])
    await refused(run(mesh, 'a:1', 0), 'GRAPH_INVALID', /a:1 → b:1 → a:1 contain one another/)
  })

  it('that does not exist is named with its node', async () => {
    const mesh = await up()
    mesh.addVdag('a:1', [{ label: 'b', vdagURI: 'ghost:1' }], [])
    await refused(run(mesh, 'a:1', 0), 'GRAPH_INVALID', /node "b" runs the vDAG ghost:1, which does not exist/)
  })
})

describe('the blocks of a vDAG', () => {
  it('may serve several nodes', async () => {
    const mesh = await up()
    mesh.addVdag('v:1', [{ label: 'one', blockId: 'shared' }, { label: 'two', blockId: 'shared' }], ['one>two'])
    assert.deepEqual(await run(mesh, 'v:1', 0), { two: { shared: { shared: 0 } } })
  })

  it('are named when they do not exist', async () => {
    const mesh = await up()
    mesh.addVdag('v:1', ['a', 'b'], ['a>b'])
    mesh.blocks.clear()
    await refused(run(mesh, 'v:1', 0), 'GRAPH_INVALID', /node "a" runs on block a, which does not exist.*node "b" runs on block b/)
  })

  it('can be any of a component, the next one after a failure', async () => {
    const mesh = await up()
    mesh.addBlock('copy-1', () => {
      throw new MeshError('INSTANCE_FAILED', 'broken')
    }, { componentURI: 'node.c:1.0.0-stable' })
    mesh.addBlock('copy-2', data => ({ ok: data }), { componentURI: 'node.c:1.0.0-stable' })
    mesh.addVdag('v:1', [{ label: 'a', componentURI: 'node.c:1.0.0-stable' }], [])
    assert.deepEqual(await run(mesh, 'v:1', 0), { a: { ok: 0 } })
    assert.deepEqual(mesh.calls.map(({ block }) => block), ['copy-1', 'copy-2'])
  })

  it('are chosen by an assignment policy that returns exactly one of them', async () => {
    const mesh = await up()
    for (const id of ['slow', 'quick']) mesh.addBlock(id)
    mesh.rules.set('pick:1', input => (input as { blockId: string }[]).filter(({ blockId }) => blockId === 'quick'))
    mesh.rules.set('both:1', input => input)
    mesh.addVdag('v:1', [{ label: 'a', assignmentPolicyRule: rule('pick:1') }], [])
    mesh.addVdag('v:2', [{ label: 'a', assignmentPolicyRule: rule('both:1') }], [])
    assert.deepEqual(await run(mesh, 'v:1', 0), { a: { quick: 0 } })
    await refused(run(mesh, 'v:2', 0), 'GRAPH_INVALID', /node "a" could not be assigned: both:1 must return exactly one of the 2 blocks.*returned 2 blocks/)
  })
})

describe('node policies', () => {
  it('route to some of the successors; a join runs with what still arrives, what gets nothing is skipped', async () => {
    const mesh = await up()
    mesh.rules.set('route:1', input => ({ packet: (input as { packet: { data: Json } }).packet, route: ['cheap'] }))
    mesh.addVdag('v:1', [{ label: 'triage', postprocessingPolicyRule: rule('route:1') }, 'cheap', 'dear', 'deep', 'report'], ['triage>cheap', 'triage>dear', 'dear>deep', 'cheap>report', 'deep>report'])
    assert.deepEqual(await run(mesh, 'v:1', 0), { report: { report: { cheap: { triage: 0 } } } })
    assert.deepEqual(mesh.calls.map(({ label }) => label), ['triage', 'cheap', 'report'])
    const [row] = await mesh.engine(0).list()
    const events = await mesh.events(0, row!.run)
    assert.deepEqual(events.flatMap(event => (event.type === 'skipped' ? [[event.label, event.because]] : [])), [['dear', 'triage routed elsewhere'], ['deep', 'dear skipped']])
  })

  it('see what AIOS shows them', async () => {
    const mesh = await up()
    let seen: Readonly<Record<string, Json>> = {}
    mesh.rules.set('look:1', (input, settings) => {
      seen = settings
      return input
    })
    mesh.addVdag('v:1', ['a', { label: 'b', preprocessingPolicyRule: rule('look:1'), modelParameters: { temperature: 0 } }], ['a>b'])
    await run(mesh, 'v:1', 0)
    assert.deepEqual(Object.keys(seen).sort(), ['assignment_info', 'block', 'block_id', 'connections', 'graph', 'modelParameters', 'node', 'node_label', 'rev_mapping', 'vdag'])
    assert.deepEqual([seen['node_label'], seen['block_id'], seen['modelParameters'], seen['assignment_info'], seen['connections']], ['b', 'b', { temperature: 0 }, { a: 'a', b: 'b' }, [{ nodeLabel: 'b', inputs: [{ nodeLabel: 'a', outputNames: [] }] }]])
  })

  it('that fail, or route to a stranger, leave the packet and the graph as they were', async () => {
    const mesh = await up()
    mesh.rules.set('throws:1', () => {
      throw new Error('oops')
    })
    mesh.rules.set('stranger:1', () => ({ packet: { data: 'rewritten' }, route: ['ghost'] }))
    mesh.addVdag('v:1', [{ label: 'a', preprocessingPolicyRule: rule('throws:1'), postprocessingPolicyRule: rule('stranger:1') }, 'b'], ['a>b'])
    assert.deepEqual(await run(mesh, 'v:1', 0), { b: { b: { a: 0 } } })
  })

  it('on an edge convert, or fail the node', async () => {
    const mesh = await up()
    mesh.rules.set('celsius:1', input => ({ packet: { data: { c: (input as { packet: { data: { a: number } } }).packet.data.a } } }))
    mesh.addVdag('v:1', ['a', 'b'], ['a>b'])
    const spec = mesh.vdags.get('v:1')!
    mesh.vdags.set('v:1', { ...spec, edges: [{ ...spec.edges[0]!, converter: rule('celsius:1') }] })
    assert.deepEqual(await run(mesh, 'v:1', 7), { b: { b: { c: 7 } } })
    mesh.rules.delete('celsius:1')
    await refused(run(mesh, 'v:1', 7), 'POLICY_FAILED', /node "b" failed: the converter celsius:1 on the edge a → b did not convert/)
  })
})

describe('a node that fails', () => {
  const failing = (times: number, code: ErrorCode) => (data: Json, { count }: { readonly count: number }): Json => {
    if (count <= times) throw new MeshError(code, `failure ${count}`)
    return { ok: data }
  }

  it('is tried again when that may help', async () => {
    const mesh = await up()
    mesh.addBlock('a', failing(2, 'INSTANCE_FAILED'))
    mesh.addVdag('v:1', ['a'], [])
    assert.deepEqual(await run(mesh, 'v:1', 0), { a: { ok: 0 } })
    assert.equal(mesh.calls.length, 3)
  })

  it('is not tried again when it cannot help, and the run ends with its reason', async () => {
    const mesh = await up()
    mesh.addBlock('a', failing(9, 'COMPONENT_ERROR'))
    mesh.addVdag('v:1', ['a', 'b'], ['a>b'])
    await refused(run(mesh, 'v:1', 0), 'COMPONENT_ERROR', /node "a" failed: failure 1/)
    assert.equal(mesh.calls.length, 1)
  })

  it('ends the run when its attempts are spent', async () => {
    const mesh = await up()
    mesh.addBlock('a', failing(9, 'INSTANCE_FAILED'))
    mesh.addVdag('v:1', ['a'], [])
    await refused(run(mesh, 'v:1', 0), 'INSTANCE_FAILED', /node "a" failed after 3 attempts: failure 3/)
  })

  it('gives way to its fallbacks in order, which take its inputs and its place', async () => {
    const mesh = await up()
    mesh.addBlock('model', failing(9, 'COMPONENT_ERROR'))
    mesh.addBlock('rules', failing(9, 'COMPONENT_ERROR'))
    mesh.addVdag('v:1', ['prepare', { label: 'model', fallbacks: ['rules', 'human'] }, 'rules', 'human', 'report'], ['prepare>model', 'model>report'])
    assert.deepEqual(await run(mesh, 'v:1', 0), { report: { report: { human: { prepare: 0 } } } })
    assert.deepEqual(mesh.calls.map(({ block }) => block), ['prepare', 'model', 'rules', 'human', 'report'])
  })
})

describe('what a run passes on', () => {
  it('may be larger than a block of the content store', async () => {
    const mesh = await up(3)
    mesh.addBlock('a', () => ({ text: 'x'.repeat(3_000_000) }))
    mesh.addBlock('b', data => ({ length: (data as { text: string }).text.length }))
    mesh.addVdag('v:1', ['a', 'b'], ['a>b'])
    assert.deepEqual(await run(mesh, 'v:1', 0), { b: { length: 3_000_000 } })
  })

  it('lies with a mirror before anything follows from it, large or small', async () => {
    for (const size of [10, 400_000, 3_000_000]) {
      const mesh = await up(3)
      mesh.addBlock('a', () => ({ text: 'x'.repeat(size) }))
      mesh.addBlock('b', data => ({ length: (data as { text: string }).text.length }))
      mesh.addVdag('v:1', ['a', 'b'], ['a>b'])
      const engine = mesh.engine(0)
      const { run } = await mesh.drive(engine.submit({ vdagUri: 'v:1', input: 0, submitter: mesh.host(0).peer }))
      await mesh.drive((async () => {
        for await (const event of engine.follow(run, 0, NEVER)) if (event.type === 'finished') return
      })())
      mesh.crash(0)
      const events = await mesh.events(1, run)
      assert.deepEqual(mesh.rerun(run, events), [])
      assert.deepEqual(await mesh.drive(mesh.engine(2).result(run, NEVER)), { b: { length: size } }, `${size} characters`)
    }
  })

  it('is nothing where a block gives nothing: its branch ends', async () => {
    const mesh = await up()
    mesh.silent.add('a')
    mesh.addVdag('v:1', ['a', 'b'], ['a>b'])
    assert.deepEqual(await run(mesh, 'v:1', 0), {})
    assert.deepEqual(mesh.calls.map(({ label }) => label), ['a'])
  })
})

describe('many runs at once', () => {
  it('all end, also when a host dies among them under loss', async () => {
    const mesh = new FakeMesh(9, 5)
    mesh.addVdag('v:1', ['a', 'b', 'c', 'd'], ['a>b', 'a>c', 'b>d', 'c>d'])
    await mesh.up()
    mesh.world.weather({ ...CALM, loss: 0.02 })
    const submitted = await mesh.drive(Promise.all(Array.from({ length: 40 }, (_, at) => mesh.engine(at % 5).submit({ vdagUri: 'v:1', input: at, key: `k${at}`, submitter: mesh.host(at % 5).peer }))))
    mesh.crash(2)
    const results = await mesh.drive(Promise.all(submitted.map(({ run }) => mesh.engine(0).result(run, NEVER))), 600_000)
    assert.equal(results.length, 40)
    for (const { run } of submitted) assert.deepEqual(mesh.rerun(run, await mesh.events(1, run)), [])
  })

  it('are refused beyond what a peer may drive', async () => {
    const mesh = new FakeMesh(1, 1, { activeRuns: 2 })
    mesh.addVdag('v:1', ['a'], [])
    await mesh.up()
    mesh.serviceMs = [1_000, 1_000]
    const submit = (): Promise<unknown> => mesh.drive(mesh.engine(0).submit({ vdagUri: 'v:1', input: 0, submitter: mesh.host(0).peer }))
    await submit()
    await submit()
    await refused(submit(), 'OVERLOADED', /drives 2 runs already/)
  })
})

describe('ended runs', () => {
  it('are known as ended by everybody who answers for them, however many they are, and listed by when they began', async () => {
    const mesh = new FakeMesh(1, 5)
    mesh.addVdag('v:1', ['a'], [])
    await mesh.up()
    const runs: string[] = []
    for (let at = 0; at < 90; at += 1) {
      const engine = mesh.engine(at % 5)
      const { run } = await mesh.drive(engine.submit({ vdagUri: 'v:1', input: at, key: `k${at}`, submitter: mesh.host(at % 5).peer }))
      await mesh.drive(engine.result(run, NEVER))
      runs.push(run)
    }
    const known = async (): Promise<number> => (await Promise.all([0, 1, 2, 3, 4].map(peer => mesh.engine(peer).list()))).flat().filter(({ state, vdag }) => state === 'completed' && vdag === 'v:1').length
    const before = await known()
    assert.deepEqual([0, 1, 2, 3, 4].flatMap(peer => mesh.engine(peer).inspect()).filter(({ state }) => state !== 'completed'), [])
    await mesh.world.run(mesh.world.now + 60_000)
    for (const peer of [0, 1, 2, 3, 4]) {
      const rows = await mesh.engine(peer).list()
      assert.deepEqual([rows.filter(({ state, vdag }) => state !== 'completed' || vdag !== 'v:1'), rows.map(({ run }) => run)], [[], runs.filter(run => rows.some(row => row.run === run)).reverse()])
    }
    // Whoever only vouched for a run has heard of its end meanwhile.
    assert.ok(await known() > before, `${await known()} of ${before}`)
    for (const peer of [0, 1, 2, 3, 4]) {
      const { journal } = mesh.peer(peer).ports
      const heads = await mesh.drive(journal.keys('run-head/').then(keys => Promise.all(keys.map(async key => decode(z.looseObject({ end: z.unknown() }), (await journal.get(key))!, 1_048_576, key)))))
      assert.ok(heads.length > 0 && heads.every(({ end }) => end !== undefined))
    }
  })

  it('are forgotten by count, their answers last', async () => {
    const mesh = new FakeMesh(1, 1, { book: { endedRuns: 2, endedMs: 3_600_000, keys: 100, keysMs: 3_600_000, eventsPerRun: 1_000 } })
    mesh.addVdag('v:1', ['a'], [])
    await mesh.up()
    const engine = mesh.engine(0)
    const submit = (key: string): Promise<{ run: string; existing: boolean }> => mesh.drive(engine.submit({ vdagUri: 'v:1', input: key, key, submitter: mesh.host(0).peer }))
    for (const key of ['k1', 'k2', 'k3', 'k4']) {
      await mesh.drive(engine.result((await submit(key)).run, NEVER))
      await mesh.world.run(mesh.world.now + 1_000)
    }
    await mesh.world.run(mesh.world.now + 10_000)
    const { run, existing } = await submit('k1')
    assert.equal(existing, true)
    assert.deepEqual((await mesh.events(0, run)).map(({ type }) => type), ['completed'])
    assert.deepEqual(await mesh.drive(engine.result(run, NEVER)), { a: { a: 'k1' } })
    assert.equal(mesh.calls.length, 4)
  })
})
