import assert from 'node:assert/strict'
import fc from 'fast-check'
import { z } from 'zod'
import { isMeshCode } from '../mesh-code.ts'
import type { AnswerForm } from '../../../protocols/generation.ts'
import type { Json } from '../../../protocols/ids.ts'
import type { State } from '../../../src/llm/grammar/automaton.ts'
import type { Constraint } from '../../../src/llm/grammar/constraint.ts'
import { drawAt } from '../../../src/llm/sampling/philox.ts'
import { ModelText } from '../../../src/llm/text/model-text.ts'
import { byteTokenizer } from '../byte-tokenizer.ts'

const WORDS = ['{"', '": ', '", "', '"}', 'true', 'false', 'null', 'name', 'age', '"name": "', '}}', ']]', '],', ' [', '0.', '12', '\\u00', '\\n', 'é', '日本', '😀', '\n  ', 'abc', '":{"', '"]}', '-1', 'e+']
const text = new ModelText(byteTokenizer(WORDS))
const encoder = new TextEncoder()

const schema = (given: Json): AnswerForm => ({ kind: 'schema', schema: given })
const fits = (form: AnswerForm, answer: string): boolean => {
  const constraint = text.constraint(form)
  return constraint.advance(constraint.start, encoder.encode(answer))?.done === true
}
const allows = (mask: Uint32Array, id: number): boolean => (mask[id >> 5]! & (1 << (id & 31))) !== 0

/** An answer drawn by the masks alone, as a model without sense would. Undefined when it is not whole after `limit` tokens. */
function wander(constraint: Constraint, seed: number, limit: number): string | undefined {
  let state: State = constraint.start
  const tokens: number[] = []
  for (let at = 0; at < limit; at += 1) {
    const mask = constraint.mask(state)
    const open = Array.from({ length: text.size }, (_, id) => id).filter(id => allows(mask, id))
    if (state.done && (open.length === 0 || drawAt(seed, at + 10_000) < 0.3)) return text.decode(tokens)
    assert.ok(open.length > 0, `nothing may follow ${text.decode(tokens)}`)
    const token = open[Math.floor(drawAt(seed, at) * open.length)]!
    tokens.push(token)
    const next = constraint.advance(state, text.bytes(token)!)
    assert.ok(next !== undefined, 'the mask allows what the automaton refuses')
    state = next
  }
  return undefined
}

const PERSON: Json = {
  type: 'object', required: ['name', 'kind'], additionalProperties: false,
  properties: { name: { type: 'string', minLength: 1, maxLength: 12 }, age: { type: 'integer', minimum: 0, maximum: 130 }, kind: { enum: ['cat', 'dog', 3, null] }, tags: { type: 'array', items: { type: 'boolean' }, minItems: 1, maxItems: 3 } },
}
const TREE: Json = { $ref: '#/$defs/node', $defs: { node: { type: 'object', required: ['value', 'children'], additionalProperties: false, properties: { value: { type: 'integer', minimum: -5, maximum: 5 }, children: { type: 'array', maxItems: 2, items: { $ref: '#/$defs/node' } } } } } }

describe('the form of an answer', () => {
  it('takes every JSON value that JSON.stringify writes, and pretty ones', () => {
    fc.assert(fc.property(fc.jsonValue({ maxDepth: 4 }), fc.boolean(), (value, pretty) => {
      assert.ok(fits({ kind: 'json' }, JSON.stringify(value, null, pretty ? 2 : 0).replace(/-?\d+(\.\d+)?(e[+-]\d{3})/g, '7')))
    }), { numRuns: 200 })
  })

  it('takes nothing that JSON.parse refuses', () => {
    for (const broken of ['', '{', '{"a"}', '[1,]', '01', '"\u0001"', '"\\x"', '"\\ud800"', 'tru', '{"a":1,}', '1 ', '+1', '.5', '1.']) assert.equal(fits({ kind: 'json' }, broken), false, broken)
  })

  it('leads even a model without sense to JSON that the schema accepts', () => {
    for (const [given, least] of [[PERSON, 10], [TREE, 1]] as const) {
      const constraint = text.constraint(schema(given))
      const validator = z.fromJSONSchema(given as Parameters<typeof z.fromJSONSchema>[0])
      let whole = 0
      for (let seed = 0; seed < 60; seed += 1) {
        const answer = wander(constraint, seed, 400)
        if (answer === undefined) continue
        whole += 1
        assert.deepEqual(validator.safeParse(JSON.parse(answer)).success, true, answer)
      }
      assert.ok(whole >= least, `only ${whole} answers were whole`)
    }
  })

  it('allows exactly the tokens whose bytes may come, wherever it is', () => {
    const forms: readonly AnswerForm[] = [{ kind: 'json' }, schema(PERSON), schema(TREE), { kind: 'regex', pattern: '(é|[a-c]{2,4}|\\p{Lu}+)-\\d+' }, { kind: 'choice', choices: ['abc', 'abd', 'true'] }, schema({ type: 'array', minItems: 30, maxItems: 40, items: { type: 'string', minLength: 2, maxLength: 3 } }), schema({ type: 'string', minLength: 12, maxLength: 58 })]
    for (const form of forms) {
      const constraint = text.constraint(form)
      let state = constraint.start
      for (let at = 0; at < 60; at += 1) {
        const mask = constraint.mask(state)
        const open: number[] = []
        for (let id = 0; id < text.size; id += 1) {
          const bytes = text.bytes(id)
          const may = bytes !== undefined && bytes.length > 0 && constraint.advance(state, bytes) !== undefined
          assert.equal(allows(mask, id), may, `${JSON.stringify(form)} ${at}: ${text.token(id)}`)
          if (may) open.push(id)
        }
        if (open.length === 0) break
        state = constraint.advance(state, text.bytes(open[Math.floor(drawAt(at, 1) * open.length)]!)!)!
      }
    }
  })

  it('keeps the numbers within their bounds, and leaves none out', () => {
    const bounds = fc.record({ low: fc.integer({ min: -1_200, max: 1_200 }), width: fc.integer({ min: 0, max: 1_500 }) })
    fc.assert(fc.property(bounds, fc.integer({ min: -3_000, max: 3_000 }), ({ low, width }, value) => {
      assert.equal(fits(schema({ type: 'integer', minimum: low, maximum: low + width }), String(value)), value >= low && value <= low + width)
    }), { numRuns: 150 })
    fc.assert(fc.property(bounds, fc.integer({ min: -3_000, max: 3_000 }), fc.boolean(), ({ low, width }, hundredths, strict) => {
      const [from, to, value] = [low / 100, (low + width) / 100, hundredths / 100]
      const form = schema(strict ? { type: 'number', exclusiveMinimum: from, exclusiveMaximum: to } : { type: 'number', minimum: from, maximum: to })
      if (strict && width === 0) assert.throws(() => text.constraint(form), isMeshCode('SPEC_INVALID'))
      else assert.equal(fits(form, String(value)), strict ? value > from && value < to : value >= from && value <= to, `${value} in ${from}..${to}`)
    }), { numRuns: 150 })
  })

  it('knows the properties by name, in order, with the optional left out at will', () => {
    for (const [answer, valid] of [
      ['{"name":"Jo","kind":"cat"}', true], ['{"name": "Jo", "age": 7, "kind": 3, "tags": [true]}', true], ['{\n  "name": "Jo",\n  "kind": null\n}', true],
      ['{"name":"Jo"}', false], ['{"name":"","kind":"cat"}', false], ['{"name":"Jo","kind":"cow"}', false], ['{"name":"Jo","age":131,"kind":"cat"}', false],
      ['{"name":"Jo","kind":"cat","tags":[]}', false], ['{"name":"Jo","kind":"cat","more":1}', false], ['{"name":"a longer one","kind":"cat"}', true], ['{"name":"a longer one!","kind":"cat"}', false], ['{"name":"\\u0041\\n","kind":"dog"}', true],
    ] as const) assert.equal(fits(schema(PERSON), answer), valid, answer)
  })

  it('opens an object to other keys only where the schema does, and never to its own names again', () => {
    const open = schema({ type: 'object', properties: { a: { type: 'integer' } }, additionalProperties: { type: 'string' } })
    assert.equal(fits(open, '{"a":1,"b":"x","ab":"y"}'), true)
    assert.equal(fits(open, '{"b":"x"}'), true)
    assert.equal(fits(open, '{"b":1}'), false)
    assert.equal(fits(open, '{"a":"x"}'), false)
    assert.equal(fits(open, '{"\\u0061":"x"}'), false)
    assert.equal(fits(schema({ type: 'object' }), '{"any":[{"thing":1}]}'), true)
    assert.equal(fits(schema({ type: 'object' }), '[]'), false)
  })

  it('reads anyOf, allOf, oneOf of what differs, const, tuples, types in a list and references', () => {
    const shape = schema({ oneOf: [{ type: 'object', properties: { kind: { const: 'a' }, x: { type: 'integer' } }, required: ['kind', 'x'] }, { type: 'object', properties: { kind: { const: 'b' } }, required: ['kind'] }] })
    assert.equal(fits(shape, '{"kind":"a","x":1}'), true)
    assert.equal(fits(shape, '{"kind":"b"}'), true)
    assert.equal(fits(shape, '{"kind":"a"}'), false)
    assert.equal(fits(schema({ type: ['string', 'null'] }), 'null'), true)
    assert.equal(fits(schema({ type: ['string', 'null'] }), '1'), false)
    assert.equal(fits(schema({ allOf: [{ type: 'integer', minimum: 3 }, { maximum: 5 }] }), '4'), true)
    assert.equal(fits(schema({ allOf: [{ type: 'integer', minimum: 3 }, { maximum: 5 }] }), '6'), false)
    assert.equal(fits(schema({ type: 'array', prefixItems: [{ const: 1 }, { type: 'string' }], items: false }), '[1,"a"]'), true)
    assert.equal(fits(schema({ type: 'array', prefixItems: [{ const: 1 }, { type: 'string' }], items: false }), '[1,"a",2]'), false)
    assert.equal(fits(schema(TREE), '{"value":1,"children":[{"value":-5,"children":[]}]}'), true)
    assert.equal(fits(schema({ anyOf: [{ type: 'string', pattern: '^a+$' }, { type: 'string', format: 'uuid' }] }), '"aaa"'), true)
    assert.equal(fits(schema({ type: 'string', pattern: '\\d\\d' }), '"on 42 days"'), true)
    assert.equal(fits(schema({ type: 'string', format: 'date-time' }), '"2026-02-28T23:59:59Z"'), true)
    const formats = { duration: ['P3W', 'P1Y2M', 'PT36H', 'P1DT5M9S'], hostname: ['a', 'www.aios-mesh.org'], ipv6: ['2001:db8:0:0:0:0:0:1'], uri: ['https://example.org', 'http://a.b:8080/c/~d?e=f&g#h'] }
    for (const [format, values] of Object.entries(formats)) for (const value of values) assert.equal(fits(schema({ type: 'string', format }), JSON.stringify(value)), true, value)
    for (const [format, value] of [['duration', 'P'], ['duration', 'P1DT'], ['duration', '1D'], ['hostname', '-a'], ['hostname', 'a..b'], ['ipv6', '1:2'], ['uri', 'example.org'], ['uri', 'https://']] as const) assert.equal(fits(schema({ type: 'string', format }), JSON.stringify(value)), false, value)
  })

  it('refuses what it cannot keep, naming it', () => {
    const refused = (given: Json, names: RegExp): void => assert.throws(() => text.constraint(schema(given)), isMeshCode('SPEC_INVALID', names), JSON.stringify(given))
    refused({ type: 'array', uniqueItems: true }, /uniqueItems/)
    refused({ type: 'integer', multipleOf: 3 }, /multipleOf/)
    refused({ not: { type: 'string' } }, /not/)
    refused({ type: 'object', patternProperties: { '^x': {} } }, /patternProperties/)
    refused({ type: 'string', format: 'iri' }, /iri/)
    refused({ type: 'string', pattern: '(?=a)b' }, /look-around/)
    refused({ type: 'string', pattern: 'a', minLength: 3 }, /minLength/)
    refused({ oneOf: [{ type: 'integer' }, { type: 'number' }] }, /oneOf.*both/)
    refused({ $ref: 'https://example.org/a' }, /only point into/)
    refused({ $ref: '#/$defs/none' }, /points to nothing/)
    refused({ $ref: '#' }, /no answer at all/)
    refused({ type: 'object', properties: { a: false }, required: ['a'] }, /no answer at all/)
    refused({ type: 'strin' }, /no type strin/)
    assert.throws(() => text.constraint({ kind: 'regex', pattern: 'a(b' }), isMeshCode('SPEC_INVALID', /unclosed/))
  })

  it('reads patterns as ECMAScript does, for any text', () => {
    const patterns = ['[a-c]+', '(ab|cd)*e?', '\\d{2,3}-\\w+', '[^x]{0,4}', 'é?[à-ü]+|日.', '\\s\\S\\.', '(?:a|b){2}', '\\p{L}\\p{N}', '[\\d\\-]+', 'a{3,}']
    const texts = fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'x', '1', '2', '-', '.', ' ', 'é', 'ü', '日', '😀', 'Z', '\n'), maxLength: 8 })
    fc.assert(fc.property(fc.constantFrom(...patterns), texts, (pattern, given) => {
      assert.equal(fits({ kind: 'regex', pattern }, given), new RegExp(`^(?:${pattern})$`, 'u').test(given), `${pattern} on ${JSON.stringify(given)}`)
    }), { numRuns: 500 })
  })

  it('takes a choice as a whole', () => {
    const form: AnswerForm = { kind: 'choice', choices: ['yes', 'yes, but', 'no'] }
    for (const [answer, valid] of [['yes', true], ['yes, but', true], ['no', true], ['ye', false], ['nope', false]] as const) assert.equal(fits(form, answer), valid)
  })
})
