import assert from 'node:assert/strict'
import { MeshError } from '../../protocols/errors.ts'
import type { Clock, Random } from '../../src/ports.ts'

/** What every `Clock` promises. */
export function clockConformance(name: string, setup: () => Promise<{ readonly clock: Clock; close(): Promise<void> }>): void {
  describe(`clock: ${name}`, () => {
    let clock: Clock
    let close: () => Promise<void>
    before(async () => {
      ({ clock, close } = await setup())
    })
    after(() => close())

    it('time is whole milliseconds and does not go back', async () => {
      const before = clock.monotonic()
      await clock.sleep(20)
      assert.ok(Number.isInteger(before) && Number.isInteger(clock.unix()) && clock.monotonic() - before >= 19)
    })

    it('a shorter wait ends first, a cancelled one never', async () => {
      const order: string[] = []
      clock.after(30, () => order.push('late'))
      clock.after(10, () => order.push('early'))
      clock.after(15, () => order.push('cancelled'))()
      await clock.sleep(60)
      assert.deepEqual(order, ['early', 'late'])
    })

    it('a wait of no time ends in the next turn, not in this one', async () => {
      const order: string[] = []
      clock.after(0, () => order.push('next'))
      clock.after(0, () => order.push('cancelled'))()
      await Promise.resolve()
      order.push('this')
      await clock.sleep(5)
      assert.deepEqual(order, ['this', 'next'])
    })

    it('a sleep that is aborted rejects with the reason', async () => {
      const controller = new AbortController()
      const sleeping = clock.sleep(60_000, controller.signal)
      controller.abort(new MeshError('CANCELLED', 'up'))
      await assert.rejects(sleeping, { code: 'CANCELLED', message: 'up' })
      await assert.rejects(clock.sleep(1, controller.signal), { code: 'CANCELLED' })
    })

    it('a deadline aborts with DEADLINE, or with its parent', async () => {
      const alone = clock.deadline(10)
      const parent = new AbortController()
      const child = clock.deadline(60_000, parent.signal)
      await clock.sleep(40)
      assert.ok(alone.reason instanceof MeshError && alone.reason.code === 'DEADLINE')
      assert.equal(child.aborted, false)
      parent.abort(new MeshError('CANCELLED', 'all of it'))
      assert.equal(child.reason, parent.signal.reason)
      assert.equal(clock.deadline(60_000, parent.signal).aborted, true)
    })
  })
}

/** What every `Random` promises. `make` gives a fresh one; `seeded` says that all of them draw the same. */
export function randomConformance(name: string, make: () => Random, seeded: boolean): void {
  describe(`random: ${name}`, () => {
    it('draws stay within their range and spread over it', () => {
      const random = make()
      const seen = new Set<number>()
      for (let at = 0; at < 2_000; at += 1) {
        const float = random.float()
        assert.ok(float >= 0 && float < 1)
        seen.add(random.below(10))
      }
      assert.deepEqual([...seen].sort((a, b) => a - b), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
      assert.equal(random.bytes(33).byteLength, 33)
      assert.ok(['a', 'b'].includes(random.pick(['a', 'b'])))
    })

    it('forks are streams of their own', () => {
      const random = make()
      const [one, other] = [random.fork('one'), random.fork('other')]
      assert.notDeepEqual(Array.from({ length: 8 }, () => one.float()), Array.from({ length: 8 }, () => other.float()))
    })

    if (seeded) {
      it('a new caller does not shift the draws of an old one', () => {
        const [one, other] = [make(), make()]
        other.fork('new').float()
        assert.deepEqual(Array.from({ length: 8 }, () => one.fork('old').float()).length, 8)
        assert.equal(make().fork('old').float(), other.fork('old').float())
      })
    }
  })
}
