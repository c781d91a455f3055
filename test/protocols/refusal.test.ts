import assert from 'node:assert/strict'
import { z } from 'zod'
import { check } from '../../protocols/codec.ts'
import { quote } from '../../protocols/refusal.ts'

const schema = z.strictObject({ name: z.string().min(1), size: z.number().max(9), kind: z.enum(['big', 'small']), list: z.array(z.int()).max(2).optional(), date: z.string().regex(/^\d+$/, 'write a year').optional(), ms: z.number().positive().lt(10).optional(), data: z.json().optional(), either: z.union([z.string(), z.strictObject({ id: z.int() })]).optional() })

describe('what a schema refuses', () => {
  it('is told as field, value and fix, five at most', () => {
    const cases: readonly (readonly [unknown, RegExp])[] = [
      [{ size: 1, kind: 'big' }, /^thing: name: missing; give a string$/],
      [{ name: '', size: 1, kind: 'big' }, /name: "" is not usable here; give at least 1 characters/],
      [{ name: 'a', size: 10, kind: 'big' }, /size: 10 is not usable here; give at most 9$/],
      [{ name: 'a', size: 'ten', kind: 'huge' }, /size: "ten" is not usable here; give a number; kind: "huge" is not usable here; use one of big, small/],
      [{ name: 'a', size: 1, kind: 'big', list: [1, 3.5] }, /list\.1: 3\.5 is not usable here; give an int/],
      [{ name: 'a', size: 1, kind: 'big', list: [1, 2, 3] }, /list: a list of 3 is not usable here; give at most 2 items/],
      [{ name: 'a', size: 1, kind: 'big', date: 'x' }, /date: "x" is not usable here; write a year/],
      [{ name: 'a', size: 1, kind: 'big', more: 1 }, /an object with name, size, kind, more is not usable here; leave out more/],
      [{ name: 'a', size: 1, kind: 'big', ms: 0 }, /ms: 0 is not usable here; give more than 0$/],
      [{ name: 'a', size: 1, kind: 'big', ms: 10 }, /ms: 10 is not usable here; give less than 10$/],
      [{ name: 'a', size: 1, kind: 'big', data: { b: [1, { c: Infinity }] } }, /^thing: data\.b\.1\.c: Infinity is not usable here; give string, number, boolean, null, array or record$/],
      [{ name: 'a', size: 1, kind: 'big', either: { id: 'x' } }, /either\.id: "x" is not usable here; give a number$/],
      [{ name: 'a', size: 1, kind: 'big', either: 7 }, /either: 7 is not usable here; give string or object$/],
      [7, /^thing: 7 is not usable here; give an object$/],
    ]
    for (const [value, message] of cases) assert.throws(() => check(schema, value, 'thing', 'BAD_INPUT'), { code: 'BAD_INPUT', message })
  })

  it('is quoted short, on one line', () => {
    assert.deepEqual([undefined, [1, 2], {}, new Uint8Array(3), 'x\ny', null, 1.5].map(quote), ['missing', 'a list of 2', 'an object with no fields', '3 bytes', '"x\\ny"', 'null', '1.5'])
    assert.ok(quote('x'.repeat(1_000)).length <= 61)
  })
})
