import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import { overPromised } from '../../simulations/checkers.ts'
import type { Needs, Resources } from '../../protocols/resources.ts'
import { award, expire, free, hold, openLedger, release, restore, type Ledger } from '../../src/placement/ledger.ts'

const TOTAL: Resources = {
  cpuMilli: 4_000,
  memoryMb: 8_192,
  diskMb: 1_000,
  gpus: [{ id: 'g0', name: 'a', memoryMb: 24_000, freeMb: 24_000 }, { id: 'g1', name: 'a', memoryMb: 24_000, freeMb: 24_000 }],
}

const needs: fc.Arbitrary<Needs> = fc.record({
  cpuMilli: fc.integer({ min: 0, max: 2_500 }),
  memoryMb: fc.integer({ min: 0, max: 5_000 }),
  diskMb: fc.integer({ min: 0, max: 600 }),
  gpus: fc.integer({ min: 0, max: 2 }),
  gpuMemoryMb: fc.constantFrom(0, 1_000, 9_000, 24_000),
})
const key = fc.nat(7)
const event = fc.oneof(
  fc.record({ do: fc.constant('hold' as const), key, needs, ms: fc.integer({ min: 1, max: 50 }) }),
  fc.record({ do: fc.constant('award' as const), key }),
  fc.record({ do: fc.constant('release' as const), key }),
  fc.record({ do: fc.constant('pass' as const), ms: fc.integer({ min: 1, max: 40 }) }),
  fc.record({ do: fc.constant('crash' as const) }),
)

/** Every GPU taken whole is taken by nobody else. */
function sharedWhole(ledger: Ledger): string | undefined {
  const users = new Map<string, number>()
  for (const { gpus } of ledger.promises.values()) for (const id of gpus) users.set(id, (users.get(id) ?? 0) + 1)
  for (const { needs, gpus } of ledger.promises.values()) for (const id of gpus) if (needs.gpuMemoryMb === 0 && users.get(id) !== 1) return `${id} is taken whole and shared`
  return undefined
}

describe('the ledger', () => {
  it('is never over-promised, whatever order holds, awards, releases, expiry and crashes come in, and however often', () => {
    fc.assert(fc.property(fc.array(event, { maxLength: 60 }), events => {
      let ledger = openLedger(TOTAL)
      let now = 0
      for (const step of events) {
        ledger = expire(ledger, now)
        if (step.do === 'hold') {
          const verdict = hold(ledger, `h${step.key}`, step.needs, now + step.ms)
          if (verdict.ok) ledger = verdict.value.ledger
        } else if (step.do === 'award') {
          const verdict = award(ledger, `h${step.key}`, `c${step.key}`)
          if (verdict.ok) ledger = verdict.value
        } else if (step.do === 'release') ledger = release(ledger, `c${step.key}`)
        else if (step.do === 'pass') now += step.ms
        else {
          const contracts = [...ledger.promises.values()].filter(({ until }) => until === undefined)
          ledger = openLedger(TOTAL)
          // A journal may be replayed twice.
          for (const { key, needs, gpus } of [...contracts, ...contracts]) {
            const verdict = restore(ledger, key, needs, gpus)
            assert.ok(verdict.ok, 'what fitted before the crash fits after it')
            ledger = verdict.value
          }
        }
        assert.equal(overPromised(TOTAL, [...ledger.promises.values()]), undefined)
        assert.equal(sharedWhole(ledger), undefined)
        const left = free(ledger)
        assert.ok(left.cpuMilli >= 0 && left.memoryMb >= 0 && left.diskMb >= 0 && left.gpus.every(({ freeMb }) => freeMb >= 0))
      }
    }), { numRuns: 500 })
  })

  it('an award after the hold expired is refused', () => {
    const held = hold(openLedger(TOTAL), 'h', { cpuMilli: 1, memoryMb: 1, diskMb: 0, gpus: 0, gpuMemoryMb: 0 }, 100)
    assert.ok(held.ok)
    assert.ok(award(held.value.ledger, 'h', 'c').ok)
    assert.ok(!award(expire(held.value.ledger, 100), 'h', 'c').ok)
  })

  it('a hold asked for twice is one hold', () => {
    const wants: Needs = { cpuMilli: 2_500, memoryMb: 1, diskMb: 0, gpus: 1, gpuMemoryMb: 0 }
    const first = hold(openLedger(TOTAL), 'h', wants, 100)
    assert.ok(first.ok)
    const again = hold(first.value.ledger, 'h', wants, 200)
    assert.ok(again.ok)
    assert.deepEqual(again.value.gpus, first.value.gpus)
    assert.equal(free(again.value.ledger).cpuMilli, 1_500)
  })

  it('GPUs that are not there or not free cannot be named', () => {
    const one: Needs = { cpuMilli: 0, memoryMb: 0, diskMb: 0, gpus: 1, gpuMemoryMb: 20_000 }
    const ledger = openLedger(TOTAL)
    assert.ok(!hold(ledger, 'a', one, 100, ['g7']).ok)
    const held = hold(ledger, 'a', one, 100, ['g1'])
    assert.ok(held.ok)
    assert.ok(!hold(held.value.ledger, 'b', one, 100, ['g1']).ok)
    assert.ok(!hold(ledger, 'c', { ...one, gpus: 2 }, 100, ['g0', 'g0']).ok)
  })
})
