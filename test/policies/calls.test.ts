import assert from 'node:assert/strict'
import { granted, MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyRef, PolicyRule } from '../../protocols/specs.ts'
import { QuickjsSandbox } from '../../node/adapters/quickjs.ts'
import type { Telemetry } from '../../src/ports.ts'
import { Policies, type PolicyLimits } from '../../src/policies/calls.ts'
import type { HookName, PolicyCall } from '../../src/roles.ts'

const NO_CID = 'bafyreihmzqmzmy6oeziz3vkhdrvtcfjrmqqdepp4x5kzvzsjtgpowqwr4a'

type Stored = { readonly rule: PolicyRule; readonly source: string }

function stored(name: string, source: string, more: Partial<PolicyRule> = {}): Stored {
  const rule: PolicyRule = {
    policyRuleURI: `${name}:1.0.0-stable`, name, version: '1.0.0', releaseTag: 'stable', description: '', tags: [], code: NO_CID, codeType: 'js_module_v1',
    settings: {}, parameters: {}, inputSchema: {}, outputSchema: {}, managementCommands: {}, author: '12D3KooWauthor', ...more,
  }
  return { rule, source }
}

const RULES = [
  stored('echo', 'export default (parameters, input) => ({ parameters, input })', { parameters: { a: 'rule', b: 'rule', c: 'rule' } }),
  stored('counter', 'let n = 0; export default { eval: () => ({ n: ++n, because: "counted" }), management: (action, data) => { n = data.to; return { action } } }', { managementCommands: { set: {} } }),
  stored('thrower', 'export default () => { throw new Error("no opinion today") }'),
  stored('endless', 'export default () => { for (;;) {} }'),
  stored('moody', 'export default (p, input) => { if (input.bad) throw new Error("bad mood"); return { fine: true } }'),
  stored('broken', 'this is no rule'),
  stored('metrics', 'export default (p, input, context) => context.settings.get_metrics().load'),
  stored('typed', 'export default (p, input) => input.wrong ? { answer: "text" } : { answer: 1 }', {
    inputSchema: { amount: { type: 'number', required: true } }, outputSchema: { answer: { type: 'number', required: true } },
  }),
]

describe('policy calls', () => {
  const sandbox = new QuickjsSandbox({ fuel: 30 })
  let counted: Map<string, number>
  let asked: number
  let now: number

  after(() => sandbox[Symbol.asyncDispose]())
  beforeEach(() => {
    counted = new Map()
    asked = 0
    now = 0
  })

  const telemetry: Telemetry = {
    count: (metric, labels = {}) => {
      const key = [metric, ...Object.values(labels)].join(' ')
      counted.set(key, (counted.get(key) ?? 0) + 1)
    },
    gauge: () => {}, observe: () => {}, event: () => {},
  }
  const policies = (limits: Partial<PolicyLimits> = {}, sandboxed: Pick<QuickjsSandbox, 'open'> = sandbox): Policies => new Policies(
    { clock: { monotonic: () => now, deadline: () => new AbortController().signal }, sandbox: sandboxed, telemetry },
    {
      policy: async uri => {
        asked += 1
        const found = RULES.find(({ rule }) => rule.policyRuleURI === uri)
        if (found === undefined) throw new MeshError('NOT_FOUND', `no ${uri}`)
        return found
      },
    },
    { limits },
  )
  const ref = (name: string, parameters: Record<string, Json> = {}): PolicyRef => ({ policyRuleURI: `${name}:1.0.0-stable`, parameters, settings: {} })
  const any = (answer: Json): Verdict<Json> => granted(answer)
  const call = (rule: PolicyRef | undefined, more: Partial<PolicyCall<Json>> = {}): PolicyCall<Json> => ({ hook: 'loadBalancer', rule, input: {}, accept: any, fallback: failure => failure ?? 'built in', ...more })

  it('no rule, or the rule called default, asks the built-in opinion and nothing else', async () => {
    for (const rule of [undefined, { policyRuleURI: 'default', parameters: {}, settings: {} }]) {
      const decision = await policies().decide(call(rule))
      assert.equal(decision.value, 'built in')
      assert.equal(decision.by, 'default')
    }
    assert.equal(asked, 0)
  })

  it('a rule\'s answer is taken when the platform accepts it, and says whose it was', async () => {
    const decision = await policies().decide(call(ref('counter')))
    assert.deepEqual(decision, { value: { n: 1, because: 'counted' }, by: 'policy', because: 'counter:1.0.0-stable: counted' })
  })

  it('parameters of the reference win over the defaults of the rule, and the rest of the defaults stay', async () => {
    const { value } = await policies().decide(call(ref('echo', { b: 'block', d: 'block' }), { input: { x: 1 } }))
    assert.deepEqual(value, { parameters: { a: 'rule', b: 'block', c: 'rule', d: 'block' }, input: { x: 1 } })
  })

  it('a rule that throws falls back, is counted, and its words are in the decision', async () => {
    const decision = await policies().decide(call(ref('thrower')))
    assert.equal(decision.by, 'fallback')
    assert.match(decision.because, /thrower:1\.0\.0-stable: .*no opinion today/)
    assert.equal(decision.value, decision.because)
    assert.equal(counted.get('policy_failures_total loadBalancer threw'), 1)
  })

  it('a rule that overruns falls back and is counted', async () => {
    const decision = await policies().decide(call(ref('endless')))
    assert.equal(decision.by, 'fallback')
    assert.match(decision.because, /fuel/)
    assert.equal(counted.get('policy_failures_total loadBalancer fuel'), 1)
  })

  it('a rule that does not open, or is not there, falls back', async () => {
    assert.equal((await policies().decide(call(ref('broken')))).by, 'fallback')
    assert.equal((await policies().decide(call(ref('unheard-of')))).by, 'fallback')
    assert.equal(counted.get('policy_failures_total loadBalancer invalid'), 1)
    assert.equal(counted.get('policy_failures_total loadBalancer unavailable'), 1)
  })

  it('an opinion that the platform refuses is not followed', async () => {
    const decision = await policies().decide(call(ref('counter'), { accept: () => refused('no such instance') }))
    assert.equal(decision.by, 'fallback')
    assert.match(decision.because, /not taken: no such instance/)
    assert.equal(counted.get('policy_failures_total loadBalancer refused'), 1)
  })

  it('input and answer are held against the schemas that the rule declares', async () => {
    assert.deepEqual((await policies().decide(call(ref('typed'), { input: { amount: 1 } }))).value, { answer: 1 })
    assert.match((await policies().decide(call(ref('typed'), { input: { amount: 'much' } }))).because, /input does not fit: amount/)
    assert.match((await policies().decide(call(ref('typed'), { input: { amount: 1, wrong: true } }))).because, /answer does not fit: answer/)
  })

  it('a failing quota check denies, a failing pre-check denies with the reason, a failing fast health check counts as healthy', async () => {
    const answers: [HookName, Json][] = [['quotaChecker', {}], ['precheck', { action: 'add_block' }], ['healthChecker', { mode: 'fast_check' }]]
    const values = []
    for (const [hook, input] of answers) values.push((await policies().decide(call(ref('thrower'), { hook, input, fallback: () => 'the default would allow' }))).value)
    const [quota, precheck, health] = values as Record<string, Json>[]
    assert.equal(quota?.['allowed'], false)
    assert.equal(precheck?.['allowed'], false)
    assert.match(String(precheck?.['input_data']), /no opinion today/)
    assert.deepEqual(health, { overall_healthy: true })
    assert.equal((await policies().decide(call(ref('thrower'), { hook: 'healthChecker', input: { mode: 'full' } }))).by, 'fallback')
  })

  it('state lives as long as its scope, and scopes do not see each other', async () => {
    const made = policies()
    const count = async (scope: string): Promise<Json> => ((await made.decide(call(ref('counter'), { scope }))).value as { n: number }).n
    assert.deepEqual([await count('block-a'), await count('block-a'), await count('block-b')], [1, 2, 1])
    made.release('block-a')
    assert.deepEqual([await count('block-a'), await count('block-b')], [1, 2])
  })

  it('other parameters are another rule, with a state of its own', async () => {
    const made = policies()
    const count = async (parameters: Record<string, Json>): Promise<Json> => ((await made.decide(call(ref('counter', parameters), { scope: 's' }))).value as { n: number }).n
    assert.deepEqual([await count({}), await count({}), await count({ x: 1 }), await count({ x: 1 })], [1, 2, 1, 2])
  })

  it('a management command reaches the rule that serves the scope, and an undeclared one is refused', async () => {
    const made = policies()
    await made.decide(call(ref('counter'), { scope: 's' }))
    assert.deepEqual(await made.management(ref('counter'), 'set', { to: 40 }, 'loadBalancer', 's'), { action: 'set' })
    assert.equal(((await made.decide(call(ref('counter'), { scope: 's' }))).value as { n: number }).n, 41)
    await assert.rejects(made.management(ref('counter'), 'drop', {}, 'loadBalancer', 's'), (error: MeshError) => error.code === 'BAD_INPUT' && /it has set/.test(error.message))
    await assert.rejects(made.management(ref('thrower'), 'x', {}, 'loadBalancer', 's'), (error: MeshError) => error.code === 'POLICY_FAILED')
  })

  it('injected settings are those of this call, not of the first', async () => {
    const made = policies()
    const load = async (load: number): Promise<Json> => (await made.decide(call(ref('metrics'), { scope: 's', settings: { get_metrics: { load } } }))).value
    assert.deepEqual([await load(1), await load(2)], [1, 2])
  })

  it('a rule that nobody has published is asked soon after somebody has, however long it was not there', async () => {
    const made = policies({ failures: 3, restMs: 1_000, maxRestMs: 300_000 })
    const ask = async (): Promise<string> => (await made.decide(call(ref('late')))).because
    for (now = 0; now < 200_000; now += 250) assert.match(await ask(), /no late:1\.0\.0-stable|rests for/)
    RULES.push(stored('late', 'export default () => ({ because: "here" })'))
    try {
      now += 1_000
      assert.match(await ask(), /^late:1\.0\.0-stable: here$/)
    } finally {
      RULES.pop()
    }
  })

  it('a rule that keeps failing rests, tries again after a while, and longer after the next failure', async () => {
    const made = policies({ failures: 3, restMs: 1_000, maxRestMs: 4_000 })
    const ask = async (bad: boolean): Promise<string> => (await made.decide(call(ref('moody'), { input: { bad } }))).because
    for (let i = 0; i < 3; i += 1) assert.match(await ask(true), /bad mood/)
    assert.match(await ask(false), /rests for 1000 ms/)
    now = 1_000
    assert.match(await ask(true), /bad mood/)
    now = 2_900
    assert.match(await ask(false), /rests for 100 ms/)
    now = 3_000
    assert.equal(await ask(false), 'moody:1.0.0-stable')
    assert.equal(await ask(false), 'moody:1.0.0-stable')
    assert.equal(counted.get('policy_failures_total loadBalancer resting'), 2)
  })

  it('one scope\'s failures do not rest the rule for another', async () => {
    const made = policies({ failures: 1 })
    await made.decide(call(ref('moody'), { scope: 'a', input: { bad: true } }))
    assert.match((await made.decide(call(ref('moody'), { scope: 'a' }))).because, /rests/)
    assert.equal((await made.decide(call(ref('moody'), { scope: 'b' }))).by, 'policy')
  })

  it('a version is fetched once however many ask at once', async () => {
    const made = policies()
    await Promise.all(Array.from({ length: 20 }, () => made.decide(call(ref('echo')))))
    await made.decide(call(ref('echo'), { scope: 'other' }))
    assert.equal(asked, 1)
  })

  it('rules that lost their place while they were in use still answer', async () => {
    const made = policies({ openRules: 2 })
    const decisions = await Promise.all(Array.from({ length: 12 }, (_, i) => made.decide(call(ref('echo'), { scope: `s${i}`, input: { i } }))))
    for (const [i, decision] of decisions.entries()) {
      assert.equal(decision.by, 'policy', decision.because)
      assert.deepEqual((decision.value as { input: Json }).input, { i })
    }
  })

  it('gives the same answers in 20 fresh copies of a rule', async () => {
    const made = policies()
    const values = new Set<string>()
    for (let i = 0; i < 20; i += 1) values.add(JSON.stringify((await made.decide(call(ref('echo', { i: 1 }), { scope: `copy-${i}`, input: [1.5, 'ü', null] }))).value))
    assert.equal(values.size, 1)
  })
})
