import assert from 'node:assert/strict'
import type { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { Sandbox } from '../../src/ports.ts'
import { at, policyMesh, publish } from './mesh.ts'

const DOUBLE = 'export default (parameters, input) => ({ doubled: input.n * (parameters.by ?? 2) })'
const COUNT = 'let n = 0\nexport default { eval: (parameters, input) => ({ n: ++n, input }), management: (action, data) => { n = data.to; return { n } } }'

async function refusal(work: Promise<unknown>): Promise<MeshError> {
  try {
    await work
  } catch (error) {
    return error as MeshError
  }
  assert.fail('expected a refusal')
}

async function until<T>(world: { run(until: number): Promise<void>; drive<R>(work: Promise<R>): Promise<R>; readonly now: number }, look: () => Promise<T>, good: (value: T) => boolean, limitMs = 60_000): Promise<T> {
  const ends = world.now + limitMs
  for (;;) {
    const value = await world.drive(look())
    if (good(value)) return value
    assert(world.now < ends, `not within ${limitMs} ms: ${JSON.stringify(value)}`)
    await world.run(world.now + 250)
  }
}

describe('policies on an executor', () => {
  it('runs a rule once on the peer that was named, on the idlest when none is, with the caller\'s parameters last', async () => {
    const world = await policyMesh({ peers: 3 })
    const policy = await publish(world, 'double', DOUBLE, { policy_parameters: { by: 10 }, policy_parameters_schema: { by: { type: 'number' } }, policy_input_schema: { n: { type: 'number', required: true } } })
    const [asker, other] = [at(world, 0), at(world, 1)]
    const request = { policy, input: { n: 4 }, parameters: {}, settings: {} }
    assert.deepEqual(await world.drive(asker.executors.execute(other.peer, request)), { value: { doubled: 40 }, fuel: 1, host: other.peer })
    assert.deepEqual((await world.drive(asker.executors.execute('', { ...request, parameters: { by: 3 } }))).value, { doubled: 12 })

    await world.drive(asker.executors.create({ executor_id: 'executor-001', executor_host_uri: `aios://${other.peer}`, executor_metadata: { tags: ['amd_64'] } }))
    await world.run(world.now + 1_000)
    assert.equal((await world.drive(at(world, 2).executors.execute('executor-001', request))).host, other.peer)
    assert.equal((await world.drive(asker.executors.get('executor-001')))['executor_status'], 'healthy')

    assert.match((await refusal(world.drive(asker.executors.execute(other.peer, { ...request, input: { n: 'much' } })))).message, /double:1-stable: its input does not fit: n: "much" must be a number/)
    const wrong = await refusal(world.drive(asker.executors.execute(other.peer, { ...request, parameters: { by: 'ten' } })))
    assert.deepEqual([wrong.code, wrong.details['field']], ['BAD_INPUT', 'parameters.by'])
    assert.equal((await refusal(world.drive(asker.executors.execute('nobody', request)))).code, 'NOT_FOUND')
  })

  it('keeps nothing of one caller for the next', async () => {
    const world = await policyMesh({ peers: 2 })
    const policy = await publish(world, 'counter', COUNT)
    const request = { policy, input: {}, parameters: {}, settings: {} }
    for (let i = 0; i < 3; i += 1) assert.deepEqual((await world.drive(at(world, 0).executors.execute(at(world, 1).peer, request))).value, { n: 1, input: {} })
  })

  it('callables that the asker serves travel as their answers, and a rule that calls what nobody sent says so', async () => {
    const world = await policyMesh({ peers: 2 })
    const policy = await publish(world, 'metrics', 'export default class AIOSv1PolicyRule { constructor(id, settings) { this.settings = settings } eval() { return this.settings.get_metrics.load } }')
    const request = { policy, input: {}, parameters: {}, settings: { get_metrics: { load: 7 } } }
    assert.equal((await world.drive(at(world, 0).executors.execute(at(world, 1).peer, request))).value, 7)
    const failure = await refusal(world.drive(at(world, 0).executors.execute(at(world, 1).peer, { ...request, settings: {} })))
    assert.equal(failure.code, 'POLICY_FAILED')
    assert.match(failure.message, /metrics:1-stable: .*(get_metrics|undefined)/)
  })

  it('executorAllocator: a rule chooses the executor where none is named, and what it cannot choose is not taken', async () => {
    const world = await policyMesh({ peers: 3, labels: index => ({ zone: `z${index}` }) })
    const chosen = at(world, 2).peer
    const pick = await publish(world, 'pick', 'export default (parameters, input) => ({ executor_id: Object.entries(input.cluster_data).find(([, { data }]) => data.node_id === parameters.wanted)?.[0] ?? "nobody", replicas: 2 })')
    const choose = (wanted: string) => world.drive(at(world, 0).executors.choose({ executor: '', nodeSelector: {}, allocator: { policyRuleURI: pick, parameters: { wanted }, settings: {} }, policy: 'x:1-s', type: 'function' }))
    assert.deepEqual(await choose(chosen), { host: chosen, replicas: 2 })
    assert.notEqual((await choose('12D3KooWnobody')).replicas, 2)
    assert.equal((await world.drive(at(world, 0).executors.choose({ executor: '', nodeSelector: { zone: 'z1' }, policy: 'x:1-s', type: 'job' }))).host, at(world, 1).peer)
    assert.match((await refusal(world.drive(at(world, 0).executors.choose({ executor: '', nodeSelector: { zone: 'mars' }, policy: 'x:1-s', type: 'job' })))).message, /zone=mars/)
  })

  it('resourceEstimator: an executor\'s own rule is asked with its metrics before it takes what comes with an estimate', async () => {
    const world = await policyMesh({ peers: 2 })
    const policy = await publish(world, 'double', DOUBLE)
    const estimator = await publish(world, 'room', 'export default class AIOSv1PolicyRule { constructor(id, settings) { this.settings = settings } eval(parameters, { policy, type_ }) { const { cluster_metrics } = this.settings.get_metrics; return { allowed: type_ === "job" && cluster_metrics.cluster.memory.freeMem > 0, node_id: cluster_metrics.nodes[0].nodeId, reason: `no ${type_}s, not even ${policy.name}` } } }')
    await world.drive(at(world, 0).executors.create({ executor_id: 'small', executor_host_uri: at(world, 1).peer, resource_estimator: { policyRuleURI: estimator } }))
    await world.run(world.now + 1_000)
    assert.deepEqual(await world.drive(at(world, 0).executors.estimate('small', { name: 'double' }, 'job')).then(({ allowed, node_id }) => ({ allowed, node_id })), { allowed: true, node_id: at(world, 1).peer })
    const { job } = await world.drive(at(world, 0).jobs.submit({ name: 'j', policy_rule_uri: policy, inputs: { n: 1 } }, 'small', { estimate: true }))
    assert.ok(job)
    const denied = await refusal(world.drive(at(world, 0).functions.create({ name: 'f', policy_rule_uri: policy }, 'small', { estimate: true })))
    assert.deepEqual([denied.code, /no functions, not even double/.test(denied.message)], ['POLICY_DENIED', true])
  })
})

describe('policy jobs', () => {
  it('runs once where it was sent, and any peer tells what came of it', async () => {
    const world = await policyMesh({ peers: 4 })
    const policy = await publish(world, 'double', DOUBLE)
    const { job } = await world.drive(at(world, 0).jobs.submit({ name: 'nightly', policy_rule_uri: policy, policy_rule_parameters: { by: 5 }, inputs: { n: 3 } }, at(world, 2).peer))
    const done = await until(world, () => at(world, 3).jobs.get(job), ({ job_status }) => job_status !== 'in_progress')
    assert.deepEqual([done['job_status'], done['job_output_data'], done['node_id'], done['job_policy_rule_uri']], ['completed', { doubled: 15 }, at(world, 2).peer, policy])
    assert.deepEqual((await world.drive(at(world, 1).jobs.list())).map(({ job_id }) => job_id), [job])
    assert.equal((await refusal(world.drive(at(world, 1).jobs.get('job-never')))).code, 'NOT_FOUND')
  })

  it('a job that fails says why, and the same id is the same job', async () => {
    const world = await policyMesh({ peers: 3 })
    const policy = await publish(world, 'sour', 'export default () => { throw new Error("no lemons") }')
    const document = { job_id: 'job-lemons', name: 'lemonade', policy_rule_uri: policy, inputs: { n: 1 } }
    assert.deepEqual(await world.drive(at(world, 0).jobs.submit(document, '')), { job: 'job-lemons', existing: false })
    const failed = await until(world, () => at(world, 1).jobs.get('job-lemons'), ({ job_status }) => job_status === 'failed')
    assert.match(JSON.stringify(failed['job_output_data']), /no lemons/)
    assert.deepEqual(await world.drive(at(world, 2).jobs.submit(document, '')), { job: 'job-lemons', existing: true })
    assert.equal((await refusal(world.drive(at(world, 2).jobs.submit({ ...document, inputs: { n: 2 } }, '')))).code, 'CONFLICT')
    assert.match((await refusal(world.drive(at(world, 0).jobs.submit({ name: 'x' }, '')))).message, /policy_rule_uri/)
  })

  it('an output too large to be kept fails the job, an input too large is refused', async () => {
    const world = await policyMesh({ peers: 2 })
    const policy = await publish(world, 'long-winded', 'export default (parameters, input) => "ü".repeat(input.n)')
    const { job } = await world.drive(at(world, 0).jobs.submit({ name: 'j', policy_rule_uri: policy, inputs: { n: 140_000 } }, at(world, 1).peer))
    const failed = await until(world, () => at(world, 0).jobs.get(job), ({ job_status }) => job_status !== 'in_progress')
    assert.match(JSON.stringify(failed['job_output_data']), /its output has 280002 bytes/)
    assert.match((await refusal(world.drive(at(world, 0).jobs.submit({ name: 'j', policy_rule_uri: policy, inputs: 'ü'.repeat(140_000) }, '')))).message, /job: inputs: /)
  })

  it('an executor that dies in the middle is replaced, and a submitter that dies changes nothing: one result', async () => {
    for (const seed of [1, 2, 3]) {
      const begun: string[] = []
      // Jobs take four seconds, so that somebody can die in the middle of one.
      const slow = (given: Sandbox, ports: { readonly identity: { readonly peer: string }; readonly clock: { sleep(ms: number): Promise<void> } }): Sandbox => ({
        open: async (source, init) => {
          const opened = await given.open(source, init)
          if (!opened.ok || init.purpose !== 'job') return opened
          return { ok: true, rule: { ...opened.rule, eval: async (...args) => {
            begun.push(ports.identity.peer)
            await ports.clock.sleep(4_000)
            return opened.rule.eval(...args)
          } } }
        },
      })
      const world = await policyMesh({ peers: 5, seed, sandbox: slow })
      const policy = await publish(world, 'double', DOUBLE)
      const executor = world.hosts[2]!
      const { job } = await world.drive(at(world, 4).jobs.submit({ name: 'long', policy_rule_uri: policy, inputs: { n: 8 } }, executor.peer))
      await world.run(world.now + 1_000)
      assert.deepEqual(begun, [executor.peer])
      world.crash(executor, seed === 2)
      world.crash(world.hosts[4]!)
      const done = await until(world, () => at(world, 0).jobs.get(job), ({ job_status }) => job_status === 'completed')
      assert.notEqual(done['node_id'], executor.peer)
      assert.deepEqual(done['job_output_data'], { doubled: 16 })
      world.restart(executor)
      world.restart(world.hosts[4]!)
      await world.run(world.now + 20_000)
      const told = await Promise.all([0, 1, 2, 3, 4].map(index => world.drive(at(world, index).jobs.get(job))))
      assert.equal(new Set(told.map(document => JSON.stringify(document))).size, 1, `seed ${seed}: ${JSON.stringify(told)}`)
    }
  })
})

describe('policy functions', () => {
  const create = (more: Readonly<Record<string, Json>> = {}): Json => ({ name: 'counting', policy_rule_uri: 'counter:1-stable', function_tags: ['network'], ...more })

  it('keeps its state with its copy, is called and told from any peer, and is gone when removed', async () => {
    const world = await policyMesh({ peers: 3 })
    await publish(world, 'counter', COUNT, { management_commands_schema: [{ name: 'set', description: '', schema: { to: { type: 'number', required: true } } }] })
    const made = await world.drive(at(world, 0).functions.create(create(), at(world, 1).peer))
    assert.deepEqual([made['function_id'], made['function_executor_id'], made['function_executor_uri']], ['counting', at(world, 1).peer, `aios://${at(world, 1).peer}`])
    await world.run(world.now + 500)
    for (let n = 1; n <= 6; n += 1) assert.deepEqual(await world.drive(at(world, n % 3).functions.call('counting', { from: n })), { n, input: { from: n } })
    assert.deepEqual(Object.values(await world.drive(at(world, 2).functions.manage('counting', 'set', { to: 40 }))), [{ n: 40 }])
    assert.match(JSON.stringify(await world.drive(at(world, 2).functions.manage('counting', 'set', { to: 'many' }))), /BAD_INPUT.*set: to: /)
    assert.match(JSON.stringify(await world.drive(at(world, 2).functions.manage('counting', 'burn', {}))), /no command burn: it has set/)
    assert.deepEqual(await world.drive(at(world, 0).functions.call('counting', 1)), { n: 41, input: 1 })
    const lines = await world.drive(at(world, 0).functions.logs('counting'))
    assert.ok(lines.some(line => /started/.test(line)) && lines.some(line => /no command burn/.test(line)), lines.join('\n'))
    assert.equal((await refusal(world.drive(at(world, 0).functions.create(create(), '')))).code, 'ALREADY_EXISTS')
    await world.drive(at(world, 2).functions.remove('counting'))
    await world.run(world.now + 1_000)
    assert.equal((await refusal(world.drive(at(world, 0).functions.call('counting', 1)))).code, 'NOT_FOUND')
  })

  it('loses no answered call with a dead host: the copy goes on elsewhere from the state it had, an epoch later', async () => {
    for (const seed of [1, 2, 3]) {
      const world = await policyMesh({ peers: 5, seed, weather: { delayMs: [1, 30], loss: 0.02, duplicate: 0.02 } })
      await publish(world, 'counter', COUNT)
      const made = await world.drive(at(world, 0).functions.create(create(), at(world, 2).peer))
      const [{ replica }] = made['replicas'] as [{ replica: string }]
      await world.run(world.now + 1_000)
      let answered = 0
      const asker = () => [...world.peers.values()][0]!
      const count = async (): Promise<void> => {
        for (;;) {
          try {
            const { n } = (await asker().functions.call('counting', 1, { deadlineMs: 30_000 })) as { n: number }
            assert.ok(n > answered, `seed ${seed}: ${n} after ${answered}`)
            answered = n
            return
          } catch (error) {
            // Its request or answer was lost on the way: nobody was told that it counted.
            if ((error as MeshError).code !== 'DEADLINE') throw error
          }
        }
      }
      for (let i = 0; i < 5; i += 1) await world.drive(count())
      world.crash(world.hosts[2]!, seed === 2)
      for (let i = 0; i < 5; i += 1) await world.drive(count())
      const after = await world.drive(asker().functions.get('counting'))
      const [moved] = after['replicas'] as [{ replica: string; host: string; epoch: number }]
      assert.deepEqual([moved.replica, moved.epoch, moved.host === world.hosts[2]!.peer], [replica, 2, false])
      // The next host dies, too, and the one that was away comes back: it is not the copy's host any more.
      world.restart(world.hosts[2]!)
      await world.run(world.now + 4_000)
      world.crash(world.hosts.find(({ peer }) => peer === moved.host)!)
      for (let i = 0; i < 5; i += 1) await world.drive(count())
      assert.ok(answered >= 15)
    }
  })

  it('a host that starts anew goes on where its copy was, and one that is not saved says so', async () => {
    const world = await policyMesh({ peers: 3 })
    await publish(world, 'counter', COUNT)
    await world.drive(at(world, 0).functions.create(create(), at(world, 1).peer))
    await world.drive(at(world, 0).functions.create({ ...(create() as object), name: 'forgetting', stateless: true }, at(world, 1).peer))
    await world.run(world.now + 1_000)
    for (const name of ['counting', 'forgetting']) for (let n = 1; n <= 3; n += 1) await world.drive(at(world, 0).functions.call(name, n))
    world.crash(world.hosts[1]!)
    world.restart(world.hosts[1]!)
    await world.run(world.now + 500)
    assert.deepEqual(await world.drive(at(world, 0).functions.call('counting', 'x', { deadlineMs: 30_000 })), { n: 4, input: 'x' })
    assert.deepEqual(await world.drive(at(world, 0).functions.call('forgetting', 'x', { deadlineMs: 30_000 })), { n: 1, input: 'x' })
    assert.ok((await world.drive(at(world, 0).functions.logs('counting'))).some(line => /started from state 3 of epoch 1/.test(line)))
  })

  it('a state too large to be kept is refused, and the copy goes on from the one before', async () => {
    const world = await policyMesh({ peers: 3 })
    await publish(world, 'hoard', 'let held = []\nexport default (parameters, input) => { held.push("x".repeat(input)); return held.length }')
    await world.drive(at(world, 0).functions.create(create({ policy_rule_uri: 'hoard:1-stable' }), at(world, 1).peer))
    await world.run(world.now + 1_000)
    assert.equal(await world.drive(at(world, 0).functions.call('counting', 10)), 1)
    // The sandbox of this world saves what was asked.
    const failure = await refusal(world.drive(at(world, 0).functions.call('counting', 'y'.repeat(600_000))))
    assert.match(failure.message, /holds 600\d{3} bytes; a function may hold 524288/)
    assert.equal(await world.drive(at(world, 0).functions.call('counting', 10)), 2)
  })

  it('spreads its copies over hosts, and those of a dead host go on elsewhere in their state', async () => {
    const world = await policyMesh({ peers: 4 })
    await publish(world, 'counter', COUNT)
    const made = await world.drive(at(world, 0).functions.create(create({ replicas: 3 }), ''))
    const hosts = (made['replicas'] as { host: string }[]).map(({ host }) => host)
    assert.equal(new Set(hosts).size, 3)
    await world.run(world.now + 1_500)
    await world.drive(at(world, 0).functions.manage('counting', 'set', { to: 1_000 }))
    const victim = world.hosts.find(({ peer, index }) => hosts.includes(peer) && index !== 0)!
    world.crash(victim)
    // Calls go on meanwhile.
    for (let i = 0; i < 10; i += 1) await world.drive(at(world, 0).functions.call('counting', i))
    const after = await until(world, () => at(world, 0).functions.get('counting'), document => (document['replicas'] as { host: string }[]).every(({ host }) => host !== victim.peer) && (document['replicas'] as unknown[]).length === 3)
    const left = (made['replicas'] as { replica: string; host: string }[]).filter(({ host }) => host !== victim.peer)
    for (const kept of left) assert.ok((after['replicas'] as { replica: string }[]).some(({ replica }) => replica === kept.replica), 'a copy on a live host stays, and its state with it')
    await world.run(world.now + 1_000)
    const seen = new Set<number>()
    for (let i = 0; i < 30; i += 1) seen.add(((await world.drive(at(world, 0).functions.call('counting', i))) as { n: number }).n)
    assert.ok([...seen].every(n => n > 1_000), 'all copies go on')
  })

  it('takes more copies when they are busy, up to the most, and fewer when they have long been idle', async () => {
    const slow = (given: Sandbox, ports: { readonly clock: { sleep(ms: number): Promise<void> } }): Sandbox => ({
      open: async (source, init) => {
        const opened = await given.open(source, init)
        if (!opened.ok || init.purpose !== 'function') return opened
        return { ok: true, rule: { ...opened.rule, eval: async (...args) => {
          await ports.clock.sleep(400)
          return opened.rule.eval(...args)
        } } }
      },
    })
    const world = await policyMesh({ peers: 3, sandbox: slow })
    await publish(world, 'counter', COUNT)
    await world.drive(at(world, 0).functions.create(create({ autoscaling: { enabled: true, min_replicas: 1, max_replicas: 3, target_cpu_utilization_percentage: 50 } }), ''))
    const copies = async (): Promise<number> => ((await at(world, 0).functions.get('counting'))['replicas'] as unknown[]).length
    await world.run(world.now + 1_000)
    assert.equal(await world.drive(copies()), 1)
    let calling = true
    const callers = Promise.all(Array.from({ length: 4 }, async () => {
      while (calling) await at(world, 1).functions.call('counting', 1)
    }))
    await until(world, copies, count => count === 3, 20_000)
    await world.run(world.now + 6_000)
    assert.equal(await world.drive(copies()), 3, 'never more than max_replicas')
    calling = false
    await world.drive(callers)
    await until(world, copies, count => count === 1, 120_000)
  })
})

describe('policy graphs', () => {
  const GRAPH = {
    graph_name: 'risk', graph_version: '1.0', graph_release_tag: 'stable', graph_function_ids: ['funcA', 'funcB', 'funcC', 'funcD'],
    graph_connection_data: { funcA: ['funcB', 'funcC'], funcB: ['funcD'], funcC: ['funcD'] }, graph_search_tags: ['ip'], graph_input_schema: { n: { type: 'number', required: true } }, graph_output_schema: { got: { type: 'array' } },
  }

  it('runs from any peer: the root takes the input, one before gives its output, several a list of theirs', async () => {
    const world = await policyMesh({ peers: 3 })
    const policy = await publish(world, 'step', 'export default (parameters, input) => Array.isArray(input) ? { got: input, by: parameters.name } : { n: input.n + 1, by: parameters.name }')
    for (const [index, name] of GRAPH.graph_function_ids.entries()) await world.drive(at(world, index % 3).functions.create({ name, policy_rule_uri: policy, policy_rule_parameters: { name } }, ''))
    const { graph_uri } = await world.drive(at(world, 0).graphs.create(GRAPH))
    await world.run(world.now + 2_000)
    for (const index of [0, 1, 2]) assert.deepEqual(await world.drive(at(world, index).graphs.execute(graph_uri, { n: 1 })), { got: [{ n: 3, by: 'funcB' }, { n: 3, by: 'funcC' }], by: 'funcD' })
    assert.match((await refusal(world.drive(at(world, 1).graphs.execute(graph_uri, { n: 'one' })))).message, /risk:1\.0-stable: its input does not fit: n: /)
    assert.equal((await refusal(world.drive(at(world, 1).graphs.create({ ...GRAPH, graph_description: 'another' })))).code, 'IMMUTABLE')
    await world.drive(at(world, 0).functions.remove('funcC'))
    await world.run(world.now + 1_000)
    assert.match((await refusal(world.drive(at(world, 0).graphs.execute(graph_uri, { n: 1 })))).message, /risk:1\.0-stable: funcC: no function/)
  })

  it('refuses cycles, two leaves and strangers, naming them', async () => {
    const world = await policyMesh({ peers: 1 })
    const wrong = async (more: object): Promise<string> => {
      const failure = await refusal(world.drive(at(world, 0).graphs.create({ ...GRAPH, ...more })))
      assert.equal(failure.code, 'GRAPH_INVALID')
      return failure.message
    }
    assert.match(await wrong({ graph_connection_data: { funcA: ['funcB'], funcB: ['funcC'], funcC: ['funcA', 'funcD'] } }), /funcA, funcB, funcC, funcD wait for one another/)
    assert.match(await wrong({ graph_connection_data: { funcA: ['funcB', 'funcC', 'funcD'] } }), /funcB and funcC and funcD: exactly one/)
    assert.match(await wrong({ graph_connection_data: { funcA: ['funcE'] } }), /funcE is connected but not listed/)
  })
})
