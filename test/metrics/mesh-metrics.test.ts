import assert from 'node:assert/strict'
import { ManualClock, Metrics } from '../../sdk/index.ts'
import { toJson, type JsonObject } from '../../src/lib/json.ts'
import { ask, BLOCK, Village } from '../blocks/village.ts'
import { ready, running, started, untilReady } from '../placement/mesh.ts'

function instancesOf(document: JsonObject | undefined): readonly JsonObject[] {
  return (document?.['instances'] ?? []) as readonly JsonObject[]
}

async function village(peers: number): Promise<Village> {
  const made = await new Village(peers).open()
  for (let at = 0; at < peers; at += 1) await made.world.drive(made.at(at).metrics.start())
  return made
}

describe('metrics of the mesh', () => {
  it('any peer tells the metrics of any block, at most two seconds old, and asks a host once a second however many want to know', async () => {
    const made = await village(3)
    await made.place(1, 'in-a')
    await made.place(2, 'in-b')
    for (let n = 0; n < 6; n += 1) await ask(made, 0, n)
    const { metrics } = made.at(0)
    const pulls = (): number => made.world.telemetry.counters.get('metrics_pulls_total') ?? 0
    const [document] = (await made.world.drive(Promise.all([metrics.blocks([BLOCK]), metrics.blocks([BLOCK]), metrics.fresh({ block: BLOCK }).then(({ block_metrics }) => [block_metrics])])))[2]!
    assert.equal(pulls(), 2)
    assert.equal(instancesOf(document).reduce((sum, { tasks_processed: done }) => sum + Number(done), 0), 6)
    assert.deepEqual(instancesOf(document).map(({ nodeId }) => nodeId), [1, 2].map(at => made.at(at).ports.network.self))
    await ask(made, 0, 'one more')
    await made.world.run(made.world.now + 1_100)
    assert.equal(instancesOf((await made.world.drive(metrics.blocks([BLOCK])))[0]).reduce((sum, { tasks_processed: done }) => sum + Number(done), 0), 7)
  })

  it('an instance that is gone is gone from the documents, and nothing else ever is', async () => {
    const made = await village(2)
    await made.place(1, 'in-a')
    await made.place(1, 'in-b')
    const [both] = await made.world.drive(made.at(0).metrics.blocks([BLOCK]))
    assert.equal(instancesOf(both).length, 2)
    made.ads.delete('in-a')
    await made.world.run(made.world.now + 45 * 60_000)
    const [left] = await made.world.drive(made.at(0).metrics.blocks([BLOCK]))
    assert.deepEqual(instancesOf(left).map(({ instanceId }) => instanceId), ['in-b'])
    assert.ok(made.at(0).ports.clock.unix() / 1_000 - Number(instancesOf(left)[0]?.['timestamp']) < 5)
  })

  it('a host speaks for itself alone: what it says of its id, and of instances that others advertise, is not believed', async () => {
    const made = await village(3)
    await made.place(1, 'in-a')
    const reported = new Metrics(new ManualClock())
    reported.gauge('nodeId').set(1)
    reported.gauge('llm_active_sessions').set(4)
    made.reported = toJson(reported.snapshot())
    const [document] = await made.world.drive(made.at(0).metrics.blocks([BLOCK]))
    assert.deepEqual(instancesOf(document).map(({ nodeId, llm_active_sessions: sessions }) => [nodeId, sessions]), [[made.at(1).ports.network.self, 4]])
  })

  it('a load balancer reads the metrics of the block and its cluster with get_metrics()', async () => {
    const made = new Village(2, { policies: { loadBalancer: { policyRuleURI: 'idle:1.0-stable', parameters: {}, settings: {} } } })
    made.rules.set('idle:1.0-stable', `export default class { constructor(id, settings) { this.settings = settings }
      eval() {
        const { block_metrics, cluster_metrics } = this.settings.get_metrics()
        if (!Array.isArray(cluster_metrics.nodes)) throw new Error('no nodes')
        return { instance_id: block_metrics.instances.toSorted((a, b) => a.llm_active_sessions - b.llm_active_sessions || a.queue_length - b.queue_length)[0].instanceId }
      } }`)
    await made.open()
    for (const at of [0, 1]) await made.world.drive(made.at(at).metrics.start())
    await made.place(1, 'in-a', 1, { queued: 9 })
    await made.place(1, 'in-b', 1, { queued: 0 })
    const answers = await ask(made, 0, 1)
    assert.deepEqual(answers.map(answer => (answer as JsonObject)['by']), ['in-b'])
  })

  it('a cluster of several peers is measured by all of them, and one that does not answer is told from its ad', async () => {
    const { world, block } = await started({ peers: 4 })
    const [first] = [...world.peers.values()]
    assert.ok(first)
    await world.drive(first.catalogue.putBlock(block({ minInstances: 2 })))
    await untilReady(world, 'b', 2)
    assert.equal(ready(world, 'b'), 2)
    const clusters = await world.drive(first.metrics.clusters())
    assert.equal(clusters.length, 4)
    const nodes = await world.drive(first.metrics.nodes())
    assert.ok(nodes.every(({ timestamp }) => first.ports.clock.unix() / 1_000 - Number(timestamp) < 5))
    const [hosted] = running(world, 'b')
    const health = await world.drive(first.metrics.health('b'))
    assert.deepEqual([health['healthy'], (health['instances'] as readonly unknown[]).length], [true, 2])
    await assert.rejects(world.drive(first.metrics.node('nobody-at-all')), { code: 'NOT_FOUND' })
    const host = world.hosts.find(({ peer }) => peer === hosted?.host)
    assert.ok(host)
    world.crash(host, false)
    await world.run(world.now + 30_000)
    const survivor = [...world.peers.values()].find(peer => peer.ports.network.self !== host.peer)
    assert.ok(survivor)
    const [left] = await world.drive(survivor.metrics.blocks(['b']))
    assert.ok(!instancesOf(left).some(({ nodeId }) => nodeId === host.peer))
  })
})
