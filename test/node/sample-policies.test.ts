import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { QuickjsSandbox } from '../../node/adapters/quickjs.ts'
import { readPolicyDirectory } from '../../node/authoring/policy-directory.ts'
import type { Json } from '../../protocols/ids.ts'
import type { SandboxedRule } from '../../src/ports.ts'
import { ROOT } from '../source.ts'

const SAMPLES = join(ROOT, 'sdk/examples/policies')

describe('the sample policies', () => {
  const sandbox = new QuickjsSandbox()
  after(() => sandbox[Symbol.asyncDispose]())

  /** As it would be published, opened as a hook opens it. */
  const open = async (name: string, parameters: Readonly<Record<string, Json>> = {}, settings: Readonly<Record<string, Json>> = {}): Promise<(input: Json, now?: Json) => Promise<Json>> => {
    const { rule, source } = await readPolicyDirectory(join(SAMPLES, name), '12D3KooWAuthorOfSamples')
    assert.ok(typeof source === 'string')
    const given = { ...rule.parameters, ...parameters }
    const opened = await sandbox.open(source, { ruleId: rule.policyRuleURI, settings: { ...rule.settings, ...settings }, parameters: given })
    assert.ok(opened.ok, JSON.stringify(opened))
    rules.set(name, opened.rule)
    return async (input, now) => {
      const result = await opened.rule.eval(given, input, null, now)
      assert.ok(result.ok, JSON.stringify(result))
      return result.value
    }
  }
  const rules = new Map<string, SandboxedRule>()

  it('are listed in their README, all of them', async () => {
    const names = (await readdir(SAMPLES)).filter(name => name !== 'README.md').sort()
    assert.deepEqual(names, ['queue-autoscaler', 'region-guard', 'session-balancer', 'session-quota'])
  })

  it('session-balancer keeps a session where it is, spreads sessions, and moves few when an instance goes', async () => {
    const ask = await open('session-balancer')
    const chosen = async (session: string, instances: readonly string[]): Promise<string> => JSON.stringify(await ask({ mode: 'load_balance', packet: { session_id: session, seq_no: 0, ts: 0, data: null }, instances: [...instances] }))
    const sessions = Array.from({ length: 60 }, (_, at) => `s${at}`)
    const before = await Promise.all(sessions.map(session => chosen(session, ['in-a', 'in-b', 'in-c'])))
    assert.deepEqual(await Promise.all(sessions.map(session => chosen(session, ['in-c', 'in-a', 'in-b']))), before)
    for (const instance of ['in-a', 'in-b', 'in-c']) assert.ok(before.filter(said => said.includes(instance)).length > 8, JSON.stringify(before))
    const after = await Promise.all(sessions.map(session => chosen(session, ['in-a', 'in-b'])))
    assert.deepEqual(after.filter((said, at) => said !== before[at]).length, before.filter(said => said.includes('in-c')).length)
  })

  it('queue-autoscaler goes up while queues are long and down once they stay empty, never below one', async () => {
    const ask = await open('queue-autoscaler', { long: 4, patience: 2 }, { get_metrics: { block_metrics: { instances: [] } } })
    const round = (instances: readonly string[], queue: number): Promise<Json> => ask({ block_data: {}, cluster_data: {}, current_instances: [...instances] }, { get_metrics: { block_metrics: { instances: instances.map(instanceId => ({ instanceId, queue_length: queue })) } } })
    assert.deepEqual(await round(['in-a'], 9), { skip: false, operation: 'upscale', instances_count: 1 })
    assert.deepEqual(await round(['in-a', 'in-b'], 1), { skip: true })
    assert.deepEqual(await round(['in-a', 'in-b'], 0), { skip: true })
    assert.deepEqual(await round(['in-a', 'in-b'], 0), { skip: false, operation: 'downscale', instances_list: ['in-b'] })
    for (let at = 0; at < 4; at += 1) assert.deepEqual(await round(['in-a'], 0), { skip: true })
  })

  it('region-guard lets blocks into the allowed regions only, and says what to write', async () => {
    const ask = await open('region-guard', { regions: ['eu-west', 'eu-north'] })
    const block = (labels: Json): Json => ({ block_data: { blockId: 'b', labels }, cluster_data: {}, cluster_metrics: {} })
    assert.equal((await ask(block({ region: 'eu-west, eu-north' })) as { allowed: boolean }).allowed, true)
    assert.deepEqual(await ask(block({ region: 'us-east' })), { allowed: false, input_data: 'blocks may not run in us-east; allowed are eu-west, eu-north' })
    assert.equal((await ask(block({})) as { allowed: boolean }).allowed, false)
  })

  it('session-quota counts a session to its end, and takes credit', async () => {
    const ask = await open('session-quota', { most: 2 })
    const request = (quota: number): Promise<Json> => ask({ quota_table: {}, input: null, quota, session_id: 'me' })
    assert.deepEqual([await request(2), await request(3)], [{ allowed: true }, { allowed: false }])
    assert.deepEqual(await rules.get('session-quota')?.management('credit', { session_id: 'me', requests: 1 }), { ok: true, value: { session_id: 'me', credit: 1 }, fuel: 0 })
    assert.deepEqual([await request(3), await request(4)], [{ allowed: true }, { allowed: false }])
  })
})
