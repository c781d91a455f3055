import assert from 'node:assert/strict'
import { z } from 'zod'
import { Carriage } from '../../simulations/carriage.ts'

const ID = '/aios/test/1'
const plain = z.object({ text: z.string(), more: z.array(z.number()).optional() })
const LIMIT = 64

function carry(carriage: Carriage, value: unknown, schema: z.ZodType = plain): unknown {
  return carriage.unload('a request of', ID, carriage.load('a request of', ID, value, LIMIT), schema, LIMIT)
}

describe('what is carried between simulated peers', () => {
  it('is bytes each time where all is real: unfit and too large messages are found', () => {
    const carriage = new Carriage(1, 1)
    for (let at = 0; at < 20; at += 1) {
      assert.throws(() => carry(carriage, { text: 1 }), { code: 'MESSAGE_INVALID' })
      assert.throws(() => carry(carriage, { text: 'x'.repeat(LIMIT) }), { code: 'MESSAGE_TOO_LARGE' })
    }
  })

  it('is bytes for the first few and one in so many, and the value itself otherwise', () => {
    const carriage = new Carriage(8, 3)
    const values = Array.from({ length: 64 }, (_, at) => ({ text: `${at}`, more: [at] }))
    const got = values.map(value => carry(carriage, value))
    assert.deepEqual(got, values)
    const copied = values.flatMap((value, at) => (got[at] === value ? [] : at))
    assert.deepEqual(copied.slice(0, 4), [0, 1, 2, 3])
    assert.equal(copied.length, 4 + 64 / 8 - 1)
  })

  it('an unfit message is found in the sample', () => {
    const carriage = new Carriage(8, 3)
    const failures = Array.from({ length: 64 }, () => {
      try {
        carry(carriage, { text: 1 })
        return 0
      } catch {
        return 1
      }
    })
    assert.ok(failures.filter(failed => failed === 1).length >= 8)
  })

  it('some are frozen whole, so that whoever changes what he was given is found out', () => {
    const carriage = new Carriage(8, 3)
    const values = Array.from({ length: 64 }, (_, at) => ({ text: `${at}`, more: [at] }))
    for (const value of values) carry(carriage, value)
    const frozen = values.filter(value => Object.isFrozen(value))
    assert.ok(frozen.length >= 7 && frozen.every(({ more }) => Object.isFrozen(more)))
  })

  it('a kind whose schema says more than the value is bytes each time', () => {
    const carriage = new Carriage(8, 3)
    const filled = z.object({ text: z.string().default('nothing said') })
    for (let at = 0; at < 64; at += 1) assert.deepEqual(carry(carriage, {}, filled), { text: 'nothing said' })
  })
})
