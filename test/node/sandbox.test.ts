import assert from 'node:assert/strict'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { Json } from '../../protocols/ids.ts'
import type { SandboxedRule } from '../../src/ports.ts'
import { QUICKJS_DEFAULTS, QuickjsSandbox, type QuickjsOptions } from '../../node/adapters/quickjs.ts'
import { sandboxConformance } from '../conformance/sandbox.ts'
import { ATTACKS } from './attacks.ts'

/** CPU time, so that a busy machine changes nothing. */
const DEADLINE_MS = 150
const DOUBLE = 'export default (parameters, input) => input * 2'

sandboxConformance('QuickJS', async () => {
  const sandbox = new QuickjsSandbox()
  return { sandbox, close: () => sandbox[Symbol.asyncDispose]() }
})

describe('the QuickJS sandbox', () => {
  let sandbox: QuickjsSandbox
  const started: QuickjsSandbox[] = []
  const start = (options: Partial<QuickjsOptions> = {}): QuickjsSandbox => {
    const made = new QuickjsSandbox(options)
    started.push(made)
    return made
  }
  const open = async (source: string, settings: Json = {}, parameters: Json = {}, within: QuickjsSandbox = sandbox): Promise<SandboxedRule> => {
    const opened = await within.open(source, { ruleId: 'test:1.0.0-stable', settings, parameters })
    assert(opened.ok, opened.ok ? '' : opened.message)
    return opened.rule
  }
  const answer = async (rule: SandboxedRule, input: Json = null, settings?: Json): Promise<Json> => {
    const result = await rule.eval({}, input, null, settings)
    assert(result.ok, result.ok ? '' : result.message)
    return result.value
  }

  before(() => {
    sandbox = start({ deadlineMs: DEADLINE_MS, fuel: 50 })
  })
  after(() => Promise.all(started.map(made => made[Symbol.asyncDispose]())))

  it(`survives ${ATTACKS.length} attacks: each ends in an error soon after the deadline, and the next honest call is right`, async function () {
    assert(ATTACKS.length >= 100)
    this.timeout(ATTACKS.length * 3_000)
    const delay = monitorEventLoopDelay({ resolution: 5 })
    delay.enable()
    const honest = await open(DOUBLE)
    const kinds: Record<string, number> = {}
    const slowest = { ms: 0, name: '' }
    for (const attack of ATTACKS) {
      const rule = await open(`export default { eval(parameters, input, context) { ${attack.body} } }`)
      const began = performance.now()
      const result = await rule.eval({}, {}, null)
      const ms = performance.now() - began
      if (ms > slowest.ms) Object.assign(slowest, { ms, name: attack.name })
      assert(!result.ok, `${attack.name} got an answer: ${JSON.stringify(result).slice(0, 200)}`)
      assert(result.message.length <= 600, `${attack.name} said too much: ${result.message.length} characters`)
      kinds[result.error] = (kinds[result.error] ?? 0) + 1
      rule.close()
      assert.equal(await answer(honest, 21), 42, `the call after "${attack.name}" was wrong`)
    }
    delay.disable()
    console.log(`      ${JSON.stringify(kinds)}, slowest ${slowest.ms.toFixed(0)} ms (${slowest.name}), event loop stalled at most ${(delay.max / 1e6).toFixed(0)} ms, ${sandbox.stats().kills} threads killed`)
  })

  it('survives the same attacks made while the rule is loaded or constructed', async function () {
    this.timeout(60_000)
    for (const body of ['for (;;) {}', 'const a = []; for (;;) a.push(new Array(1000).fill(7))', 'Array.prototype.indexOf.call({ length: 2 ** 53 - 1 }, 1)', 'throw new Proxy({}, { get() { for (;;) {} } })']) {
      for (const source of [`${body}; export default () => 1`, `class AIOSv1PolicyRule { constructor() { ${body} } eval() { return 1 } }`, `export default () => 1; await (async () => { ${body} })()`]) {
        const opened = await sandbox.open(source, { ruleId: 'r', settings: {}, parameters: {} })
        // An array search over nothing may be optimised away by fuel or finish; what counts is that we are still here.
        if (opened.ok) opened.rule.close()
        else assert(opened.message.length > 0)
      }
    }
    assert.equal(await answer(await open(DOUBLE), 4), 8)
  })

  it('stops the same program at the same place every time, so that peers agree whether it ran out', async () => {
    const source = 'let n = 0; export default { eval(p, input) { if (input === "count") return n; for (;;) { n += 1; Math.sqrt(n) } } }'
    const seen = new Set<string>()
    for (let i = 0; i < 5; i += 1) {
      const probe = 'let n = 0; export default { eval(p, input) { while (n < input) { n += 1; Math.sqrt(n) } return n } }'
      const results: string[] = []
      const rule = await open(probe)
      for (const input of [50_000, 120_000, 200_000]) {
        const result = await rule.eval({}, input, null)
        results.push(result.ok ? `${String(result.value)} for ${result.fuel}` : result.error)
      }
      seen.add(results.join())
      const endless = await (await open(source)).eval({}, 0, null)
      assert(!endless.ok)
      assert.equal(endless.error, 'fuel')
    }
    assert.equal(seen.size, 1)
  })

  it('gives the same outputs in 20 fresh VMs, dates and random draws included', async () => {
    const source = 'export default () => [Date.now(), new Date().toString(), new Date(0).getTimezoneOffset(), Math.random(), Math.random(), [3, 1, 2].sort(() => Math.random() - 0.5)]'
    const outputs = new Set<string>()
    for (let i = 0; i < 20; i += 1) {
      const rule = await open(source)
      outputs.add(JSON.stringify(await answer(rule)))
      rule.close()
    }
    assert.equal(outputs.size, 1)
  })

  it('offers AIOS\'s injected callables as snapshots, renewed with each call', async () => {
    const source = `class AIOSv1PolicyRule {
      constructor(id, settings) { this.settings = settings }
      eval() { return [this.settings.get_metrics().load, this.settings.get_block_by_id('b').name, this.settings.get_block_by_id('none'), this.settings.cluster_client.get_cluster('c'), this.settings.block_data.id] }
    }`
    const rule = await open(source, { get_metrics: { load: 1 }, get_block_by_id: { b: { name: 'bee' } }, cluster_client: { get_cluster: { c: 3 } }, block_data: { id: 'x' } })
    assert.deepEqual(await answer(rule), [1, 'bee', null, 3, 'x'])
    assert.deepEqual(await answer(rule, null, { get_metrics: { load: 2 }, block_data: { id: 'y' } }), [2, 'bee', null, 3, 'y'])
  })

  it('keeps what a rule puts into its context from call to call', async () => {
    const rule = await open('export default (p, input, context) => (context.seen = (context.seen ?? 0) + 1)')
    await answer(rule)
    assert.equal(await answer(rule), 2)
  })

  it('keeps many rules apart and few VMs alive: those that made room start anew when they are called', async function () {
    this.timeout(60_000)
    const small = start({ liveRules: 8 })
    const rules: SandboxedRule[] = []
    for (let i = 0; i < 200; i += 1) rules.push(await open(`let n = 0; export default () => [${i}, ++n]`, {}, {}, small))
    assert(small.stats().live <= 8)
    for (const i of [0, 57, 199, 0]) assert.equal((await answer(rules[i]!) as number[])[0], i)
    assert.deepEqual(await answer(rules[199]!), [199, 2])
    assert.deepEqual(await answer(rules[123]!), [123, 1])
    assert(small.stats().evicted >= 190)
    assert(small.stats().live <= 8)
  })

  it('stays within its memory for VMs when rules are greedy', async function () {
    this.timeout(30_000)
    const small = start({ liveBytes: 24_000_000 })
    const greedy = 'const kept = []; export default () => { while (kept.length < 60) kept.push("x".repeat(100000) + kept.length); return kept.length }'
    for (let i = 0; i < 12; i += 1) assert.equal(await answer(await open(greedy, {}, {}, small)), 60)
    await answer(await open(DOUBLE, {}, {}, small), 1)
    assert(small.stats().bytes <= 40_000_000, `${small.stats().bytes} bytes`)
    assert(small.stats().evicted > 0)
  })

  it('does not let a rule that had its thread killed take others down twice', async function () {
    this.timeout(30_000)
    const shared = start({ threads: 1, deadlineMs: DEADLINE_MS, fuel: 1_000_000_000 })
    const bad = await open('export default (p, input) => { if (input) for (;;) {} return 0 }', {}, {}, shared)
    const good = await open('let n = 0; export default () => ++n', {}, {}, shared)
    await answer(good)
    const first = await bad.eval({}, true, null)
    assert(!first.ok && first.error === 'deadline')
    assert.equal(await answer(good), 1, 'the neighbour starts anew after the first kill')
    const second = await bad.eval({}, true, null)
    assert(!second.ok && second.error === 'deadline')
    assert.equal(await answer(good), 2, 'and is not there to be hurt by the second')
    assert.equal(shared.stats().kills, 2)
  })

  it('lets a function that lost its thread go on from what was saved, within the same limits, and takes up no state but its own', async function () {
    this.timeout(30_000)
    const shared = start({ deadlineMs: DEADLINE_MS, fuel: 1_000_000_000 })
    const source = 'let n = 0; const held = []; export default (p, input) => { if (input === "loop") for (;;) {} while (input === "grow") held.push(new Array(10_000).fill(0)); return ++n }'
    const init = { ruleId: 'r', settings: {}, parameters: {}, purpose: 'function' as const }
    const opened = await shared.open(source, init)
    assert(opened.ok)
    const { rule } = opened
    for (let i = 0; i < 3; i += 1) await answer(rule)
    const saved = await rule.save()
    assert(saved.ok)
    const life = rule.life()
    assert.equal(await answer(rule), 4)
    assert.equal((await rule.eval({}, 'loop', null)).ok, false)
    assert.equal((await rule.save()).ok, false, 'what was not saved is gone, and nobody is told otherwise')
    assert.equal(await answer(rule), 4)
    assert.notEqual(rule.life(), life)
    const grown = await rule.eval({}, 'grow', null)
    assert(!grown.ok && grown.error === 'memory', JSON.stringify(grown))
    assert.equal(await answer(rule), 4)
    const bent = saved.state.slice()
    for (let at = 40; at < bent.byteLength; at += 97) bent[at]! ^= 0xff
    for (const state of [bent, saved.state.subarray(0, 100), new Uint8Array(0)]) {
      const wrong = await shared.open(source, { ...init, state })
      if (wrong.ok) await wrong.rule.eval({}, null, null)
    }
    const other = await shared.open(`${source}\n`, { ...init, ruleId: 's', state: saved.state })
    assert(!other.ok && other.error === 'invalid' && /another version of the rule/.test(other.message))
    assert.equal(await answer(rule), 5, 'the sandbox serves on')
  })

  it('answers calls that waited behind a killed one', async function () {
    this.timeout(30_000)
    const shared = start({ threads: 1, deadlineMs: DEADLINE_MS, fuel: 1_000_000_000 })
    const good = await open(DOUBLE, {}, {}, shared)
    const bad = await open('export default () => { for (;;) {} }', {}, {}, shared)
    const results = await Promise.all([bad.eval({}, null, null), ...[1, 2, 3].map(input => good.eval({}, input, null))])
    assert.equal(results[0].ok, false)
    // Their VM died with the thread and is built again only for calls that come later.
    assert.equal(await answer(good, 4), 8)
    for (const [index, result] of results.slice(1).entries()) assert(result.ok && result.value === (index + 1) * 2, JSON.stringify(result))
  })

  it('refuses inputs and sources beyond its limits before they reach a thread', async () => {
    const small = start({ inputChars: 1_000, sourceChars: 1_000 })
    const rule = await open(DOUBLE, {}, {}, small)
    const result = await rule.eval({}, 'x'.repeat(2_000), null)
    assert(!result.ok && result.error === 'invalid')
    const opened = await small.open(`${DOUBLE}//${'x'.repeat(2_000)}`, { ruleId: 'r', settings: {}, parameters: {} })
    assert(!opened.ok && opened.error === 'invalid')
  })

  it('answers after it was closed, and says so', async () => {
    const closing = start()
    const rule = await open(DOUBLE, {}, {}, closing)
    await closing[Symbol.asyncDispose]()
    const result = await rule.eval({}, 1, null)
    assert(!result.ok)
    assert.match(result.message, /closed/)
  })

  it('reports the cost of a warm call', async () => {
    const fast = start()
    const rule = await open(DOUBLE, {}, {}, fast)
    const took: number[] = []
    for (let i = 0; i < 1_000; i += 1) {
      const began = performance.now()
      await rule.eval({}, i, null)
      took.push(performance.now() - began)
    }
    took.sort((a, b) => a - b)
    console.log(`      warm call p50 ${took[500]?.toFixed(3)} ms, p99 ${took[990]?.toFixed(3)} ms; fuel ${QUICKJS_DEFAULTS.fuel}`)
    assert(took.length === 1_000)
  })
})
