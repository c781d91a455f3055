import assert from 'node:assert/strict'
import { granted, MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { componentManifest, policyRule } from '../../protocols/specs.ts'
import { QuickjsSandbox } from '../../node/adapters/quickjs.ts'
import { checkCommand } from '../../src/policies/commands.ts'
import { Policies } from '../../src/policies/calls.ts'
import { parseBlock } from '../../src/specs/block.ts'

const CID = 'bafyreihmzqmzmy6oeziz3vkhdrvtcfjrmqqdepp4x5kzvzsjtgpowqwr4a'
const rule = policyRule.parse({
  policyRuleURI: 'echo:1-stable', name: 'echo', version: '1', releaseTag: 'stable', code: CID, codeType: 'js_module_v1', author: '12D3KooWauthor',
  parameters: { a: 'rule', b: 'rule', c: 'rule', d: 'rule' }, settings: { s: 'rule' }, parametersSchema: { a: { type: 'string' }, most: { type: 'integer', max: 5 } }, settingsSchema: { s: { type: 'string' } },
  managementCommands: { set: { description: '', schema: { to: { type: 'integer', required: true } } }, forget: { description: '' } },
})

describe('whose parameters count', () => {
  const sandbox = new QuickjsSandbox()
  after(() => sandbox[Symbol.asyncDispose]())
  const policies = new Policies(
    { clock: { monotonic: () => 0, deadline: () => new AbortController().signal }, sandbox, telemetry: { count: () => {}, gauge: () => {}, observe: () => {}, event: () => {} } },
    { policy: async () => ({ rule, source: 'let started; export default class AIOSv1PolicyRule { constructor(id, settings, parameters) { this.started = { ...parameters, s: settings.s } } eval(parameters) { return { started: this.started, called: parameters } } }' }) },
  )
  const component = { cid: CID, manifest: componentManifest.parse({
    componentURI: 'node.x:1-stable', componentId: { name: 'x', version: '1', releaseTag: 'stable' }, componentType: 'node', runtime: { name: 'node' }, files: [], needs: {}, author: '12D3KooWauthor',
    policies: { loadBalancer: { policyRuleURI: 'echo:1-stable', parameters: { b: 'component', c: 'component', d: 'component' }, settings: { s: 'component' } } },
  }) }
  const refOf = (parameters: Readonly<Record<string, Json>>) => parseBlock({ blockId: 'b', blockComponentURI: 'node.x:1-stable', minInstances: 1, maxInstances: 1, policyRulesSpec: [{ values: { name: 'loadBalancer', policyRuleURI: 'echo:1-stable', parameters } }] }, component, { owner: '12D3KooWowner', newId: () => 'x' }).policies['loadBalancer']
  const decide = (own: Readonly<Record<string, Json>>, call?: Readonly<Record<string, Json>>) => policies.decide<Json>({ hook: 'loadBalancer', rule: refOf(own), input: {}, ...(call === undefined ? {} : { parameters: call }), accept: answer => granted(answer), fallback: failure => failure ?? '' })

  it('rule < component < block < call, member by member: the rule\'s own defaults override nobody', async () => {
    assert.deepEqual((await decide({ c: 'block', d: 'block' }, { d: 'call' })).value, {
      started: { a: 'rule', b: 'component', c: 'block', d: 'block', s: 'component' },
      called: { a: 'rule', b: 'component', c: 'block', d: 'call' },
    })
  })

  it('a parameter or setting that breaks the rule\'s schema is named, and the hook falls back', async () => {
    const block = await decide({ most: 9 })
    assert.deepEqual([block.by, block.value], ['fallback', 'echo:1-stable: echo:1-stable: parameters.most: 9 must be at most 5'])
    assert.match((await decide({}, { a: 7 })).because, /parameters\.a: 7 must be a string/)
    await assert.rejects(policies.execute({ policyRuleURI: 'echo:1-stable', parameters: {}, settings: { s: 1 } }, { input: {} }), (error: MeshError) => error.code === 'BAD_INPUT' && error.details['field'] === 'settings.s')
  })

  it('a management command is held against its schema, and an unknown one against those there are', () => {
    checkCommand(rule, 'set', { to: 4 })
    checkCommand(rule, 'forget', null)
    for (const [action, data, because] of [['set', { to: 'four' }, /set: to: "four" must be a whole number/], ['set', {}, /set: to: missing/], ['burn', {}, /no command burn: it has forget, set|it has set, forget/]] as const) {
      assert.throws(() => checkCommand(rule, action, data), (error: MeshError) => error.code === 'BAD_INPUT' && because.test(error.message))
    }
  })
})
