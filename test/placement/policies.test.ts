import assert from 'node:assert/strict'
import type { BlockRecord } from '../../protocols/specs.ts'
import type { World } from '../../simulations/world.ts'
import { running, started, untilReady, type HostingPeer } from './mesh.ts'

/** Publishes a rule and returns how a block refers to it. */
async function publish(world: World<HostingPeer>, name: string, source: string, parameters: BlockRecord['parameters'] = {}): Promise<BlockRecord['policies'][string]> {
  const { catalogue, ports } = world.peers.get(world.hosts[0]!.peer)!
  const uri = `${name}:1-stable`
  await world.drive(catalogue.publishPolicy({ policyRuleURI: uri, name, version: '1', releaseTag: 'stable', description: '', tags: [], codeType: 'js_module_v1', settings: {}, parameters: {}, inputSchema: {}, outputSchema: {}, managementCommands: {}, author: ports.identity.peer }, source))
  await world.run(world.now + 1_000)
  return { policyRuleURI: uri, parameters, settings: {} }
}

describe('the policies of a placement', () => {
  it('selection leaves out, post_dry_run chooses', async () => {
    const { world, block } = await started({ peers: 4 })
    const [left, chosen] = [world.hosts[1]!.peer, world.hosts[2]!.peer]
    const clusterAllocator = await publish(world, 'allocator', `export default (parameters, input) => input.action === 'selection'
      ? { clusters: input.filter_result.filter(cluster => cluster.id !== parameters.left) }
      : input.clusters.find(cluster => cluster.id === parameters.chosen)`, { left, chosen })
    const wanted = block({ policies: { clusterAllocator } })
    const { candidates, chosen: named } = await world.drive(world.peers.get(left)!.placement.explain(wanted))
    assert.equal(named, chosen)
    assert.ok(candidates.some(({ peer, step, ok }) => peer === left && step === 'selection' && !ok))
    assert.equal(candidates.filter(({ step }) => step === 'bid').length, 3)
    await world.drive(world.peers.get(left)!.catalogue.putBlock(wanted))
    await untilReady(world, 'b', 1)
    assert.equal(running(world, 'b')[0]?.host, chosen)
  })

  it('a filter by metrics, in the words of AIOS\'s samples, asks the hosts what they measure now', async () => {
    const { world, block } = await started({ peers: 4 })
    const { placement, metrics, capacity } = world.peers.get(world.hosts[0]!.peer)!
    const loads = capacity.ads().map(({ cpuLoad, total }) => (cpuLoad * total.cpuMilli) / 1_000)
    const most = (Math.min(...loads) + Math.max(...loads)) / 2
    const filter = { clusterMetricsQuery: { variable: 'cluster.vcpu.load_15m', operator: '<', value: String(most) } }
    const clusterAllocator = await publish(world, 'allocator', 'export default (parameters, input) => input.action === "selection" ? { clusters: input.filter_result } : input.clusters[0]', { filter })
    const pulls = (): number => world.telemetry.counters.get('metrics_pulls_total') ?? 0
    const before = pulls()
    const { candidates } = await world.drive(placement.explain(block({ policies: { clusterAllocator } })))
    assert.equal(pulls() - before, 4)
    const left = candidates.filter(({ step, ok }) => step === 'filter' && !ok).map(({ peer }) => peer).sort()
    assert.deepEqual(left, capacity.ads().filter((_, at) => loads[at]! >= most).map(({ peer }) => peer).sort())
    assert.ok(left.length > 0 && (await world.drive(metrics.clusters())).length === 4)
  })

  it('a host whose resource allocator declines makes no bid, and the next best is taken', async () => {
    const { world, block } = await started({ peers: 3 })
    const refuses = world.hosts[0]!.peer
    const resourceAllocator = await publish(world, 'host-rule', `export default (parameters, input) => {
      const node_id = input.payload.healthy_nodes[0].id
      if (node_id === parameters.refuses) return {}
      return input.action === 'dry_run' ? { selection_score_data: { score: 7, node_info: { node_id, gpus: [] } } } : { node_id, gpus: [] }
    }`, { refuses })
    const explanation = await world.drive(world.peers.get(refuses)!.placement.explain(block({ policies: { resourceAllocator } })))
    assert.ok(explanation.candidates.some(({ peer, step, because }) => peer === refuses && step === 'ask' && /declines/.test(because)))
    const bids = explanation.candidates.filter(({ step }) => step === 'bid')
    assert.deepEqual(bids.map(({ score }) => score), [1, 1], 'a score above 1 is clamped')
  })

  it('the resource allocator is asked for an allocation at first, for a scale when more are wanted, for a reassignment when one is lost, and its no to each counts', async () => {
    for (const declined of ['allocation', 'scale', 'reassignment']) {
      const { world, block } = await started({ peers: 3 })
      const resourceAllocator = await publish(world, 'picky', `export default (parameters, input) => {
        const node_id = input.payload.healthy_nodes[0].id
        if (input.action === parameters.declined) return {}
        const expected = ['block', 'cluster', 'cluster_metrics', 'healthy_nodes'].every(key => key in input.payload)
        return input.action === 'dry_run' ? { selection_score_data: { score: expected ? 1 : 0, node_info: { node_id, gpus: [] } } } : { node_id, gpus: [] }
      }`, { declined })
      const { catalogue, placement } = world.peers.get(world.hosts[0]!.peer)!
      const wanted = block({ policies: { resourceAllocator } })
      const stuck = (ready: number): boolean => {
        const steward = world.peers.get(placement.stewardOf('b') ?? '')
        return running(world, 'b').filter(({ state }) => state === 'ready').length === ready && JSON.stringify(steward?.placement.lastPlacement('b') ?? '').includes('declines')
      }
      const untilStuck = async (ready: number): Promise<void> => {
        for (let tries = 0; !stuck(ready); tries += 1) {
          assert.ok(tries < 300, `${declined}: ${JSON.stringify(running(world, 'b'))}`)
          await world.run(world.now + 100)
        }
      }
      await world.drive(catalogue.putBlock(wanted))
      if (declined === 'allocation') {
        await untilStuck(0)
        continue
      }
      await untilReady(world, 'b', 1)
      if (declined === 'scale') {
        await world.drive(catalogue.putBlock({ ...wanted, minInstances: 2, revision: 1 }))
        await untilStuck(1)
        continue
      }
      const host = running(world, 'b')[0]?.host
      const victim = world.hosts.find(({ peer }) => peer === host)
      assert.ok(victim !== undefined)
      world.crash(victim)
      await world.run(world.now + 8_000)
      assert.deepEqual(running(world, 'b'), [])
      const survivor = [...world.peers.values()][0]
      const steward = world.peers.get(survivor?.placement.stewardOf('b') ?? '')
      assert.match(JSON.stringify(steward?.placement.lastPlacement('b') ?? ''), /declines/)
    }
  })

  it('what replaces an awarded instance is a reassignment, whoever notices: also when its steward dies with its host, and when its block changes', async () => {
    for (const seed of [1, 2, 3, 4]) {
      const { world, block } = await started({ peers: 7, seed })
      // Says no to whatever is not a reassignment.
      const resourceAllocator = await publish(world, 'replacements-only', `export default (parameters, input) => {
        const node_id = input.payload.healthy_nodes[0].id
        if (input.action === 'scale' || input.action === 'allocation') return {}
        return input.action === 'dry_run' ? { selection_score_data: { score: 1, node_info: { node_id, gpus: [] } } } : { node_id, gpus: [] }
      }`)
      const living = (): typeof world.hosts => world.hosts.filter(({ peer }) => world.peers.has(peer))
      const placement = () => world.peers.get(living()[0]!.peer)!.placement
      await world.drive(world.peers.get(world.hosts[0]!.peer)!.catalogue.putBlock(block({ minInstances: 2 })))
      await untilReady(world, 'b', 2)
      const before = running(world, 'b').map(({ instance }) => instance)
      await world.drive(world.peers.get(world.hosts[0]!.peer)!.catalogue.putBlock(block({ minInstances: 2, parameters: { changed: true }, policies: { resourceAllocator }, revision: 1 })))
      for (let tries = 0; running(world, 'b').length !== 2 || running(world, 'b').some(({ instance, state }) => before.includes(instance) || state !== 'ready'); tries += 1) {
        assert.ok(tries < 600, `seed ${seed}: ${JSON.stringify(running(world, 'b'))}`)
        await world.run(world.now + 100)
      }
      const [one, two] = running(world, 'b').map(({ host }) => host)
      const dying = new Set([placement().stewardOf('b'), one, ...(seed % 2 === 0 ? [two] : [])])
      for (const host of world.hosts) if (dying.has(host.peer)) world.crash(host)
      await untilReady(world, 'b', 2)
    }
  })

  it('each host is shown with the score it gave itself, in whatever order they answer, and without a rule the highest is taken', async () => {
    for (const seed of [1, 2, 3]) {
      const { world, block } = await started({ peers: 4, seed, weather: { delayMs: [1, 120], loss: 0, duplicate: 0 } })
      const scores = Object.fromEntries(world.hosts.map(({ peer }, at) => [peer, [0.1, 0.95, 0.4, 0.2][(at + seed) % 4]!]))
      const best = Object.keys(scores).find(peer => scores[peer] === 0.95)
      const resourceAllocator = await publish(world, 'scores', `export default (parameters, input) => {
        const node_id = input.payload.healthy_nodes[0].id
        return input.action === 'dry_run' ? { selection_score_data: { score: parameters[node_id], node_info: { node_id, gpus: [] } } } : { node_id, gpus: [] }
      }`, scores)
      const clusterAllocator = await publish(world, 'notary', `export default (parameters, input) => input.action === 'selection' ? { clusters: input.filter_result }
        : { ...[...input.clusters].sort((a, b) => a.score_data.score - b.score_data.score)[0], because: JSON.stringify(input.clusters.map(({ id, score_data }) => [id.slice(-4), score_data.score])) }`)
      const { placement } = world.peers.get(world.hosts[0]!.peer)!
      const plain = await world.drive(placement.explain(block({ policies: { resourceAllocator } })))
      assert.equal(plain.chosen, best)
      for (const { peer, score } of plain.candidates.filter(({ step }) => step === 'bid')) assert.equal(score, scores[peer])
      const witnessed = await world.drive(placement.explain(block({ policies: { resourceAllocator, clusterAllocator } })))
      const line = witnessed.candidates.find(({ step }) => step === 'post_dry_run')
      assert.ok(line !== undefined)
      for (const [peer, score] of Object.entries(scores)) assert.ok(line.because.includes(`["${peer.slice(-4)}",${score}]`), line.because)
      assert.equal(line.because.match(/\["/g)?.length, 4, 'each once')
      assert.equal(scores[witnessed.chosen ?? ''], 0.1, 'what the rule picks is taken, whatever the default would be')
    }
  })

  it('a rule that names GPUs that are not there is not obeyed, and the platform decides', async () => {
    const { world, block } = await started({ peers: 2 })
    const resourceAllocator = await publish(world, 'dreamer', `export default (parameters, input) => input.action === 'dry_run'
      ? { selection_score_data: { score: 0.9, node_info: { gpus: ['imaginary'] } } } : { gpus: ['imaginary'] }`)
    const explanation = await world.drive(world.peers.get(world.hosts[0]!.peer)!.placement.explain(block({ policies: { resourceAllocator } })))
    assert.ok(explanation.chosen !== undefined)
    assert.ok(explanation.candidates.filter(({ step }) => step === 'bid').every(({ because }) => /imaginary/.test(because)))
  })

  it('a host that cannot write is no host and no steward: the award goes to the next best, the role to the next in line', async () => {
    for (const seed of [1, 2, 3, 4]) {
      const { world, block } = await started({ peers: 3, seed })
      const [author] = world.hosts
      const { chosen } = await world.drive(world.peers.get(author!.peer)!.placement.explain(block()))
      world.hosts.find(({ peer }) => peer === chosen)!.disk.limitBytes = 0
      await world.drive(world.peers.get(author!.peer)!.catalogue.putBlock(block()))
      await untilReady(world, 'b', 1)
      assert.notEqual(running(world, 'b')[0]?.host, chosen)
      assert.notEqual(world.peers.get(author!.peer)!.placement.stewardOf('b'), chosen)
    }
  })
})
