import assert from 'node:assert/strict'
import { QuickjsSandbox } from '../../node/adapters/quickjs.ts'
import type { Json } from '../../protocols/ids.ts'
import type { SandboxedRule } from '../../src/ports.ts'
import { answer, COUNT, ECHO, GROW, LOOP, RESTORE, SAVE, source, TRAP, wasm, type WasmParts } from './wasm-module.ts'

const DEADLINE_MS = 250
const SIX = [0x36]

/** Modules that try to stop, starve, deceive or leave the sandbox. */
const ATTACKS: readonly { readonly name: string; readonly parts: WasmParts }[] = [
  { name: 'an endless loop', parts: { eval: LOOP } },
  { name: 'an endless loop in alloc', parts: { eval: ECHO, alloc: LOOP } },
  { name: 'endless recursion', parts: { eval: [0x20, 0, 0x20, 1, 0x10, 1] } },
  { name: 'a trap', parts: { eval: TRAP } },
  { name: 'an answer beyond its memory', parts: { eval: [0x42, 0x7f] } },
  { name: 'an answer of four gigabytes', parts: { eval: answer(0, 2 ** 30) } },
  { name: 'an answer that is not JSON', parts: { eval: answer(64, 3) } },
  { name: 'an answer that is not UTF-8', parts: { eval: answer(64, 2), data: { at: 64, bytes: [0xc3, 0x28] } } },
  { name: 'an alloc that points outside', parts: { eval: ECHO, alloc: [0x41, 0x7f] } },
  { name: 'a read outside its memory', parts: { eval: [0x41, 0x7f, 0x29, 3, 0] } },
  { name: 'an indirect call through nothing', parts: { table: [0x70, 0, 1], eval: [0x20, 0, 0x20, 1, 0x41, 0, 0x11, 1, 0] } },
]
const REFUSED: readonly { readonly name: string; readonly parts: WasmParts; readonly because: RegExp }[] = [
  { name: 'a file of the host', parts: { eval: ECHO, imports: [['wasi_snapshot_preview1', 'fd_write']] }, because: /imports wasi_snapshot_preview1\.fd_write/ },
  { name: 'a function of JavaScript', parts: { eval: ECHO, imports: [['env', 'eval']] }, because: /imports env\.eval/ },
  { name: 'four gigabytes of memory', parts: { eval: ECHO, memory: [0, 0x80, 0x80, 4] }, because: /memory of 65536/ },
  { name: 'shared memory', parts: { eval: ECHO, memory: [3, 1, 1] }, because: /shared or 64-bit memory/ },
  { name: 'a table of a billion', parts: { eval: ECHO, table: [0x70, 0, 0x80, 0x94, 0xeb, 0xdc, 3] }, because: /table of 1000000000/ },
  { name: 'data outside its memory', parts: { eval: ECHO, data: { at: 10_000_000, bytes: [1] } }, because: /does not load/ },
  { name: 'a start that never ends', parts: { eval: ECHO, start: LOOP }, because: /did not finish/ },
  { name: 'a start that traps', parts: { eval: ECHO, start: TRAP }, because: /does not load/ },
  { name: 'an init that never ends', parts: { eval: ECHO, init: LOOP }, because: /did not finish/ },
  { name: 'no eval', parts: { eval: ECHO, hide: ['eval'] }, because: /exports no eval/ },
  { name: 'no memory', parts: { eval: ECHO, hide: ['memory'] }, because: /exports no memory/ },
]

describe('rules in WebAssembly', function () {
  this.timeout(60_000)
  const sandbox = new QuickjsSandbox({ deadlineMs: DEADLINE_MS })
  const init = { ruleId: 'w:1-stable', settings: { load: { cpu: 1 } }, parameters: { most: 3 } }
  const open = async (parts: WasmParts): Promise<SandboxedRule> => {
    const opened = await sandbox.open(source(wasm(parts)), init)
    assert(opened.ok, opened.ok ? '' : opened.message)
    return opened.rule
  }
  const value = async (rule: SandboxedRule, input: Json = null, settings?: Json): Promise<Json> => {
    const result = await rule.eval({ most: 3 }, input, null, settings)
    assert(result.ok, result.ok ? '' : result.message)
    return result.value
  }
  after(() => sandbox[Symbol.asyncDispose]())

  it('takes JSON and gives JSON, with settings renewed by the call', async () => {
    const rule = await open({ eval: ECHO, management: ECHO })
    assert.deepEqual(await value(rule, { n: 'ü' }), { parameters: { most: 3 }, input: { n: 'ü' }, context: null, settings: { load: { cpu: 1 } } })
    assert.deepEqual(await value(rule, 1, { load: { cpu: 2 } }), { parameters: { most: 3 }, input: 1, context: null, settings: { load: { cpu: 2 } } })
    assert.deepEqual(await rule.management('set', [1]), { ok: true, value: { action: 'set', data: [1] }, fuel: 0 })
  })

  it('keeps its memory from call to call, and answers null where it has nothing to say', async () => {
    const rule = await open({ eval: COUNT })
    assert.deepEqual([await value(rule), await value(rule), await value(rule)], [1, 2, 3])
    assert.equal(await value(await open({ eval: [0x42, 0] })), null)
  })

  it('is saved and taken up again where it says how, and says when it is not', async () => {
    const parts = { eval: COUNT, save: SAVE, restore: RESTORE }
    const rule = await open(parts)
    for (const n of [1, 2, 3]) assert.equal(await value(rule), n)
    const saved = await rule.save()
    assert(saved.ok)
    const again = await sandbox.open(source(wasm(parts)), { ...init, purpose: 'function', state: saved.state })
    assert(again.ok, again.ok ? '' : again.message)
    assert.equal(await value(again.rule), 4)
    const never = await (await open({ eval: COUNT })).save()
    assert(!never.ok && never.error === 'invalid' && /no save and restore/.test(never.message))
  })

  it('says when it takes no commands', async () => {
    const result = await (await open({ eval: ECHO })).management('set', {})
    assert(!result.ok)
    assert.match(result.message, /no management/)
  })

  it('has a memory that cannot grow past the limit, whatever its module says', async () => {
    for (const memory of [[0, 1], [1, 1, 0x80, 0x80, 4]]) assert.equal(await value(await open({ eval: GROW, memory })), 0, 'more than 8 MiB')
  })

  it(`survives ${ATTACKS.length} attacks, and answers the next honest call`, async () => {
    const honest = await open({ eval: answer(64, 1), data: { at: 64, bytes: SIX } })
    for (const { name, parts } of ATTACKS) {
      const rule = await open(parts)
      const result = await rule.eval({}, {}, null)
      assert(!result.ok, `${name} got an answer: ${JSON.stringify(result).slice(0, 100)}`)
      rule.close()
      assert.equal(await value(honest), 6, `after ${name}`)
    }
  })

  it(`refuses ${REFUSED.length} modules that ask for more than a rule may have, saying what`, async () => {
    for (const { name, parts, because } of REFUSED) {
      const opened = await sandbox.open(source(wasm(parts)), init)
      assert(!opened.ok, `${name} was let in`)
      assert.match(opened.message, because, name)
    }
    for (const text of ['data:application/wasm;base64,', source(wasm({ eval: ECHO }).subarray(0, 30)), source(Uint8Array.of(0, 0x61, 0x73, 0x6d, 2, 0, 0, 0))]) assert.equal((await sandbox.open(text, init)).ok, false)
  })
})
