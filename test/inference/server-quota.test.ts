import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import { asMeshError } from '../../protocols/errors.ts'
import { Town } from '../clusters/town.ts'

describe('the quotas of an inference server', () => {
  let town: Town
  before(async () => {
    town = await Town.started(2)
    await town.component()
    for (const blockId of ['one', 'two']) await town.do(town.peer(0).actions.createBlock({ blockId, blockComponentURI: 'node.sample:1-stable', minInstances: 1, maxInstances: 1 }))
    await town.until('both run', () => town.hostsOf('one').length + town.hostsOf('two').length === 2)
  })

  const ask = async (peer: number, block: string, sessionId: string): Promise<string> => {
    const { inference, ports } = town.peer(peer)
    const packet = { sessionId, seqNo: 0, ts: 0, data: {}, files: [] }
    return inference.infer({ block }, packet, { deadlineMs: 10_000, signal: ports.clock.deadline(10_000) }).then(() => 'ok', (error: unknown) => asMeshError(error).code)
  }
  const asks = (...asked: readonly (readonly [peer: number, block: string, session: string])[]): Promise<readonly string[]> => town.do(Promise.all(asked.map(one => ask(...one))))
  const limit = async (id: string, by: number, metadata: Json): Promise<void> => {
    const shelf = town.peer(by).shelves.inferenceServers
    await town.do(shelf.get(id).then(() => shelf.update(id, { inference_server_metadata: metadata }), () => shelf.create({ inference_server_id: id, inference_server_name: 'here', inference_server_metadata: metadata })))
    await town.pass(2_000)
  }

  it('so many a second: in all, of a session, of a block; a second later there is room again', async () => {
    await limit(town.id(0), 0, { quota_management_data: { requests_per_second_total: 4, requests_per_second_per_session: 3, requests_per_second_per_block_id: 2 } })
    assert.deepEqual(await asks([0, 'one', 'a'], [0, 'one', 'a'], [0, 'one', 'a'], [0, 'two', 'b'], [0, 'two', 'b']), ['ok', 'ok', 'RATE_LIMITED', 'ok', 'RATE_LIMITED'])
    await town.pass(1_100)
    assert.deepEqual(await asks([0, 'two', 'a']), ['ok'])
    // Another peer is another server.
    assert.deepEqual(await asks([1, 'one', 'a'], [1, 'one', 'a'], [1, 'one', 'a']), ['ok', 'ok', 'ok'])
  })

  it('so many in all, of a session and of a block', async () => {
    await limit(town.id(1), 1, { quota_management_data: { requests_per_session_id: 2, requests_per_block_id: 3 } })
    assert.deepEqual(await asks([1, 'two', 'x'], [1, 'two', 'x'], [1, 'two', 'x']), ['ok', 'ok', 'RATE_LIMITED'])
    assert.deepEqual(await asks([1, 'two', 'y']), ['RATE_LIMITED'])
  })

  it('by a rule that its entry names', async () => {
    await town.rule('no-guests', `export default (parameters, input) => ({ allowed: input.session_id !== 'guest' && input.quota > 0 })`)
    await limit(town.id(0), 0, { quotaChecker: { quotaCheckerPolicyRule: { policyRuleURI: 'no-guests:1-stable' } } })
    assert.deepEqual(await asks([0, 'one', 'guest'], [0, 'one', 'member']), ['RATE_LIMITED', 'ok'])
  })

  it('that somebody else writes under its name close nothing', async () => {
    const other = await Town.started(2)
    await other.component()
    await other.do(other.peer(0).actions.createBlock({ blockId: 'one', blockComponentURI: 'node.sample:1-stable', minInstances: 1, maxInstances: 1 }))
    await other.until('it runs', () => other.hostsOf('one').length === 1)
    await other.do(other.peer(1).shelves.inferenceServers.create({ inference_server_id: other.id(0), inference_server_metadata: { quota_management_data: { requests_per_second_total: 0 } } }))
    await other.pass(2_000)
    const { inference, ports } = other.peer(0)
    await other.do(inference.infer({ block: 'one' }, { sessionId: 's', seqNo: 0, ts: 0, data: {}, files: [] }, { deadlineMs: 10_000, signal: ports.clock.deadline(10_000) }))
  })
})
