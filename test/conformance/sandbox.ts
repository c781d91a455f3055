import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import type { Sandbox, SandboxedRule } from '../../src/ports.ts'

const AIOS_RULE = `class AIOSv1PolicyRule {
  constructor(ruleId, settings, parameters) { this.ruleId = ruleId; this.settings = settings; this.parameters = parameters; this.calls = 0 }
  eval(parameters, input, context) {
    this.calls += 1
    if (input && input.fail) throw new Error('asked to fail')
    return { ruleId: this.ruleId, settings: this.settings.limit, own: this.parameters.own, given: parameters, input, calls: this.calls }
  }
  management(action, data) {
    if (action === 'reset') { this.calls = 0; return { done: data } }
    throw new Error('unknown action')
  }
}`

/** What every sandbox does with a rule that behaves, or fails as rules do. Walls are tested apart, where there are any. */
export function sandboxConformance(name: string, open: () => Promise<{ readonly sandbox: Sandbox; readonly close: () => Promise<void> }>): void {
  describe(`sandbox: ${name}`, () => {
    let sandbox: Sandbox
    let close: () => Promise<void>

    before(async () => {
      const made = await open()
      sandbox = made.sandbox
      close = made.close
    })
    after(() => close())

    const rule = async (source: string, init: { settings?: Json; parameters?: Json } = {}): Promise<SandboxedRule> => {
      const opened = await sandbox.open(source, { ruleId: 'rule:1.0.0-stable', settings: init.settings ?? {}, parameters: init.parameters ?? {} })
      assert(opened.ok, opened.ok ? '' : opened.message)
      return opened.rule
    }
    const value = async (source: string, input: Json): Promise<Json> => {
      const answer = await (await rule(source)).eval({ by: 2 }, input, null)
      assert(answer.ok, answer.ok ? '' : answer.message)
      return answer.value
    }

    it('constructs an AIOS rule with its id, settings and parameters and calls it with the call\'s', async () => {
      const opened = await rule(AIOS_RULE, { settings: { limit: 7 }, parameters: { own: 'o' } })
      const answer = await opened.eval({ a: 1 }, { b: [2, null] }, null)
      assert(answer.ok)
      assert.deepEqual(answer.value, { ruleId: 'rule:1.0.0-stable', settings: 7, own: 'o', given: { a: 1 }, input: { b: [2, null] }, calls: 1 })
    })

    it('keeps a rule\'s state between calls, and the state of two rules apart', async () => {
      const [one, two] = [await rule(AIOS_RULE), await rule(AIOS_RULE)]
      for (let i = 0; i < 3; i += 1) await one.eval({}, {}, null)
      const [third, first] = [await one.eval({}, {}, null), await two.eval({}, {}, null)]
      assert(third.ok && first.ok)
      assert.equal((third.value as { calls: number }).calls, 4)
      assert.equal((first.value as { calls: number }).calls, 1)
    })

    it('passes management commands to the rule and answers with what it returns', async () => {
      const opened = await rule(AIOS_RULE)
      await opened.eval({}, {}, null)
      const reset = await opened.management('reset', { x: 1 })
      assert(reset.ok)
      assert.deepEqual(reset.value, { done: { x: 1 } })
      const next = await opened.eval({}, {}, null)
      assert(next.ok)
      assert.equal((next.value as { calls: number }).calls, 1)
    })

    it('answers an error, with the rule\'s own words, when the rule throws, and goes on afterwards', async () => {
      const opened = await rule(AIOS_RULE)
      const failed = await opened.eval({}, { fail: true }, null)
      assert(!failed.ok)
      assert.equal(failed.error, 'threw')
      assert.match(failed.message, /asked to fail/)
      assert((await opened.eval({}, {}, null)).ok)
    })

    it('takes a module whose default export is an object with eval', async () => {
      assert.deepEqual(await value('export default { eval(parameters, input) { return { out: input.x * parameters.by } } }', { x: 21 }), { out: 42 })
    })

    it('takes a module whose default export is a function', async () => {
      assert.deepEqual(await value('export default (parameters, input) => input.x + parameters.by', { x: 1 }), 3)
    })

    it('takes a module whose default export is a class', async () => {
      assert.equal(await value('export default class Doubling { constructor(id) { this.id = id } eval(p, input) { return this.id + input.x } }', { x: 'y' }), 'rule:1.0.0-stabley')
    })

    it('waits for a promise that eval returns', async () => {
      assert.deepEqual(await value('export default async (parameters, input) => { await null; return [input] }', 5), [5])
    })

    it('gives back null for a rule that returns nothing', async () => {
      assert.equal(await value('export default () => {}', {}), null)
    })

    it('hands the rule copies: what it does to its input stays inside', async () => {
      const input = { list: [1, 2, 3] }
      await value('export default (p, input) => { input.list.length = 0; p.by = 9; return 1 }', input)
      assert.deepEqual(input, { list: [1, 2, 3] })
    })

    it('saves all that a function holds, in its closures too, and another copy goes on from there', async () => {
      const source = 'let n = 0\nconst seen = new Map()\nexport default class Counting { constructor() { this.last = null } eval(p, input) { n += 1; seen.set(input.user, (seen.get(input.user) ?? 0) + 1); const before = this.last; this.last = input.user; return { n, mine: seen.get(input.user), before } } }'
      const init = { ruleId: 'rule:1.0.0-stable', settings: {}, parameters: { big: 'x'.repeat(1_000) }, purpose: 'function' as const }
      const first = await sandbox.open(source, init)
      assert(first.ok)
      for (const user of ['ann', 'bob', 'ann']) await first.rule.eval({}, { user }, null)
      const saved = await first.rule.save()
      assert(saved.ok)
      // What comes after it is not in it.
      await first.rule.eval({}, { user: 'eve' }, null)
      const second = await sandbox.open(source, { ...init, state: saved.state })
      assert(second.ok, second.ok ? '' : second.message)
      assert.deepEqual(await second.rule.eval({}, { user: 'ann' }, null).then(answer => answer.ok && answer.value), { n: 4, mine: 3, before: 'ann' })
      const again = await second.rule.save()
      assert(again.ok)
      const third = await sandbox.open(source, { ...init, state: again.state })
      assert(third.ok)
      assert.deepEqual(await third.rule.eval({}, { user: 'bob' }, null).then(answer => answer.ok && answer.value), { n: 5, mine: 2, before: 'ann' })
      for (const { rule } of [first, second, third]) rule.close()
    })

    it('refuses source that does not parse', async () => {
      const opened = await sandbox.open('class AIOSv1PolicyRule { eval( {', { ruleId: 'r', settings: {}, parameters: {} })
      assert(!opened.ok)
      assert.equal(opened.error, 'invalid')
    })
  })
}
