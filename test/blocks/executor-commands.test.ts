import assert from 'node:assert/strict'
import { blockRecord } from '../../protocols/specs.ts'
import type { Json } from '../../protocols/ids.ts'
import { ExecutorCommands } from '../../src/blocks/executor-commands.ts'
import { Village } from './village.ts'

describe('the executor of a block', () => {
  it('hook loadBalancer: estimate, check_execute, health_check and the rule’s own commands go to the rule, and what it does not answer is built in', async () => {
    const village = await new Village(2).open()
    await village.place(1, 'in-a')
    const { ports, policies } = village.at(0)
    village.rules.set('modes:1.0-stable', `class AIOSv1PolicyRule {
      constructor(id, settings) { this.settings = settings; this.streams = {} }
      eval(parameters, input) {
        if (input.mode === 'health_check') return null
        return { mode: input.mode, inputs: input.inputs, instances: input.instances, block: this.settings.block_data.blockId, streams: this.streams }
      }
      management(action, data) { if (action !== 'assign_streaming') throw new Error('no such command'); this.streams[data.session_id] = data.instances; return { assigned: data.session_id } }
    }`)
    const loadBalancer = { policyRuleURI: 'modes:1.0-stable', parameters: {}, settings: {} }
    const commands = new ExecutorCommands({
      view: village.view(ports.network.self), policies, setStreaming: async () => {}, door: () => undefined,
      invoker: { health: async () => ({ 'in-a': { healthy: true, detail: 'built in' } }), logs: async () => ({}), load: async () => ({}) },
    })
    const block = blockRecord.parse({ ...village.block, policies: { loadBalancer } })
    const perform = (action: string, data: Json = null): Promise<Json> => village.world.drive(commands.perform(block, action, data))
    assert.deepEqual(await perform('assign_streaming', { session_id: 's-1', instances: ['in-a'] }), { assigned: 's-1' })
    const common = { instances: ['in-a'], block: block.blockId, streams: { 's-1': ['in-a'] } }
    assert.deepEqual(await perform('estimate', { n: 1 }), { mode: 'estimate', inputs: { n: 1 }, ...common })
    assert.deepEqual(await perform('check_execute', { n: 2 }), { mode: 'check_execute', inputs: { n: 2 }, ...common })
    assert.deepEqual(await perform('health_check'), { 'in-a': { healthy: true, detail: 'built in' } })
    await assert.rejects(perform('dance'), /dance/)
  })
})
