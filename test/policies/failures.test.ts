import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import { Town } from '../blocks/town.ts'

const RULE = (body: string): string => `export default class { constructor() { this.seen = [] }
  eval(parameters, input) { this.seen.push(input); ${body} }
  management(action) { return { action, seen: this.seen } } }`

/** What a failure rule saw, on whichever peers it was asked. */
async function seen(town: Town, uri: string): Promise<readonly Json[]> {
  const all: Json[] = []
  for (const { peer } of town.world.peers.values()) {
    const answer = await town.world.drive(peer.policies.management({ policyRuleURI: uri, parameters: {}, settings: {} }, 'list', null, 'failure'))
    all.push(...Object(answer).seen)
  }
  return all
}

describe('failure policies', function () {
  this.timeout(60_000)

  it('hook failure policy: executed on request, tried again with backoff when it fails, and put before a person when it cannot settle it', async () => {
    const town = await new Town(2).open()
    await town.rule('mends:1.0-x', RULE('return { success: true, data: { did: input.what } }'))
    await town.rule('flaky:1.0-x', RULE('if (this.seen.length < 3) throw new Error("not yet"); return { success: true, data: this.seen.length }'))
    await town.rule('helpless:1.0-x', RULE('return { success: false, data: { needs: "somebody" } }'))
    await town.rule('broken:1.0-x', 'export default { eval: () => { throw new Error("always") } }')
    const { failures, reviews } = town.at(0)
    const execute = (policyRuleURI: string, inputs: Json) => town.world.drive(failures.execute({ policyRuleURI, parameters: {}, settings: {} }, inputs))
    assert.deepEqual(await execute('mends:1.0-x', { what: 'a disk' }), { success: true, data: { did: 'a disk' }, attempts: 1, escalated: false, because: 'mends:1.0-x' })
    const flaky = await execute('flaky:1.0-x', {})
    assert.deepEqual([flaky.success, flaky.attempts, flaky.escalated], [true, 3, false])
    const helpless = await execute('helpless:1.0-x', { what: 'a fire' })
    assert.deepEqual([helpless.success, helpless.attempts, helpless.escalated], [false, 1, true])
    const broken = await execute('broken:1.0-x', { what: 'everything' })
    assert.equal(broken.success, false)
    assert.ok(broken.attempts >= 2)
    await town.later(200)
    const waiting = await town.world.drive(reviews.list())
    assert.deepEqual(waiting.map(({ request, decided }) => [request, decided]), [[{ what: 'everything' }, 'open'], [{ what: 'a fire' }, 'open']])
    const open = waiting[0]
    assert.ok(open)
    assert.equal((await town.world.drive(reviews.decide(open.id, 'approved'))).decided, 'approved')
    // The circuit is open: the rule is not asked for a while.
    await execute('broken:1.0-x', {})
    const resting = await execute('broken:1.0-x', {})
    assert.match(resting.because, /rests for/)
  })

  it('asks the block’s policy by itself when an instance, a host or a policy of the block fails', async () => {
    const town = await new Town(5).open()
    await town.rule('told:1.0-x', RULE('return { success: true }'))
    await town.rule('worse:1.0-x', 'export default { eval: () => { throw new Error("no balance") } }')
    let crashing = true
    town.manners.livesMs = (_, block) => (crashing && block === 'frail' ? 400 : undefined)
    await town.block({ blockId: 'frail', minInstances: 1, maxInstances: 1, policyRulesSpec: [{ values: { name: 'failurePolicy', policyRuleURI: 'told:1.0-x' } }, { values: { name: 'loadBalancer', policyRuleURI: 'worse:1.0-x' } }] })
    await town.until('it was told of a crash', () => town.told.filter(({ what }) => what === 'started').length > 6, 60_000)
    crashing = false
    await town.untilReady('frail', 1, 60_000)
    await town.later(2_000)
    await town.world.drive(town.call(town.at(0), 'frail', 1))
    await town.later(2_000)
    const kinds = (await seen(town, 'told:1.0-x')).map(one => Object(one).kind)
    assert.ok(kinds.includes('instance') && kinds.includes('policy'), kinds.join(', '))
    const steward = town.anybody().placement.stewardOf('frail')
    const host = town.anybody().view.instancesOf('frail')[0]?.host
    if (host !== steward) {
      town.world.crash(town.host(host))
      await town.untilReady('frail', 1, 30_000)
      await town.later(5_000)
      const lost = (await seen(town, 'told:1.0-x')).filter(one => Object(one).kind === 'node')
      assert.equal(lost.length, 1)
      assert.equal(Object(lost[0]).node_id, host)
    }
  })

  it('asks the vDAG’s policy when a run fails, once, and a failure policy that fails asks nobody', async () => {
    const town = await new Town(3).open()
    await town.rule('runs:1.0-x', RULE('return { success: true }'))
    await town.rule('loops:1.0-x', RULE('throw new Error("again")'))
    await town.block({ blockId: 'node', minInstances: 1, maxInstances: 1, blockInitData: { failure_policy_id: 'loops:1.0-x' }, policyRulesSpec: [{ values: { name: 'pre_processing', policyRuleURI: 'gone:1.0-x' } }] })
    await town.untilReady('node', 1)
    const { actions, runs } = town.at(0)
    await town.world.drive(actions.createVdag({ vdagName: 'fails', vdagVersion: { version: '1.0', releaseTag: 'x' }, controller: { failurePolicy: { policyRuleURI: 'runs:1.0-x' } }, nodes: [{ nodeLabel: 'a', manualBlockId: 'node' }], graph: {} }))
    town.manners.refuses = true
    const { run } = await town.world.drive(actions.submit('fails:1.0-x', { n: 1 }, {}))
    await town.until('it was asked', () => town.counted('failure_policies_total', { outcome: 'handled' }) > 0, 60_000)
    const told = await seen(town, 'runs:1.0-x')
    assert.deepEqual(told.map(one => [Object(one).kind, Object(one).run_id, Object(one).vdag_uri]), [['run', run, 'fails:1.0-x']])
    assert.match(String(Object(told[0]).failure_reason), /COMPONENT_ERROR/)
    assert.equal((await town.world.drive(runs.list())).find(one => one.run === run)?.state, 'aborted')
  })
})
