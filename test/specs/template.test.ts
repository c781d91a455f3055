import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import { MeshError } from '../../protocols/errors.ts'
import { compatible, compatibleFanIn, parseTemplate, validate, withDefaults } from '../../src/specs/template.ts'
import { compilePattern } from '../../src/specs/pattern.ts'

const specInvalid = (pattern: RegExp) => (error: unknown): boolean => error instanceof MeshError && error.code === 'SPEC_INVALID' && pattern.test(error.message)

describe('specs: template language', () => {
  it('both of AIOS’s languages are one template', () => {
    const documented = { mode: { type: 'string', choices: ['fast', 'good'] }, count: { type: 'integer', min: 1, max: 9, required: true }, on: { type: 'boolean', default: true }, point: { type: 'array', size: 2, items: { type: 'number' } }, where: { type: 'object', properties: { x: { type: 'number', required: true } } } }
    const registry = [{ name: 'mode', type: 'string', options: ['fast', 'good'] }, { name: 'count', type: 'int', min: 1, max: 9, required: true }, { name: 'on', type: 'bool', default: true }, { name: 'point', type: 'array', size: 2, subtype: { type: 'float' } }, { name: 'where', type: 'object', subtype: [{ name: 'x', type: 'float', required: true }] }]
    const notation = { ...documented, point: 'array(2, float)' }
    const schema = { type: 'object', properties: { ...documented, count: { type: 'integer', min: 1, max: 9 } }, required: ['count'] }
    const one = parseTemplate(documented)
    assert.deepEqual(parseTemplate(registry), one)
    assert.deepEqual(parseTemplate(notation), one)
    assert.deepEqual(parseTemplate(schema), one)
    assert.deepEqual(parseTemplate(one), one)
  })

  it('names every bad attribute', () => {
    assert.throws(() => parseTemplate({ a: { type: 'strnig' }, b: { type: 'number', min: 3, max: 1 }, c: { type: 'string', pattern: '(a)\\1' }, d: 7, e: { choices: [] } }), specInvalid(/a\.type: "strnig" is not a type; use string.*b\.min.*at most max.*c\.pattern: has \\1.*d: 7.*e\.choices/))
    assert.throws(() => parseTemplate({ type: 'object', properties: { a: { type: 'string' } }, required: ['b'] }), specInvalid(/required: lists "b"/))
  })

  const template = parseTemplate({
    text: { type: 'string', pattern: '^[a-z]+$', length: 5, required: true }, mode: { type: 'string', choices: ['a', 'b'] }, level: { type: 'number', min: 0, max: 1 }, whole: 'int', flag: 'bool',
    list: { type: 'array', max_length: 3, items: { type: 'number' } }, pair: 'array(2,float)', tags: { type: 'array', choices: ['x', 'y'] }, nested: { type: 'object', properties: { deep: { type: 'string', required: true } } }, free: 'any',
  })
  const good = { text: 'abc', mode: 'a', level: 0.5, whole: 3, flag: true, list: [1, 2], pair: [1, 2], tags: ['x'], nested: { deep: 'd' }, free: [null, {}], unnamed: 'passes' }
  it('passes data that fits', () => assert.deepEqual(validate(template, good), []))
  const bad: readonly (readonly [string, unknown, RegExp])[] = [
    ['text', undefined, /text: missing; it is required/], ['text', 'ABC', /text: "ABC" must be text that matches/], ['text', 'abcdef', /at most 5 characters/], ['text', 7, /text: 7 must be a string/],
    ['mode', 'c', /one of "a", "b"/], ['level', 1.5, /at most 1/], ['level', -1, /at least 0/], ['level', '0.5', /must be a number/], ['whole', 1.5, /whole number/], ['flag', 'yes', /a boolean/],
    ['list', [1, 2, 3, 4], /at most 3/], ['list', [1, 'x'], /list\[1\]: "x" must be a number/], ['pair', [1], /exactly 2/], ['tags', ['x', 'z'], /one of/], ['nested', {}, /nested\.deep: missing/], ['nested', [], /a list of 0 must be an object/],
  ]
  for (const [field, value, message] of bad) {
    it(`refuses ${field} = ${JSON.stringify(value)}`, () => {
      const data = JSON.parse(JSON.stringify({ ...good, [field]: value })) as Record<string, never>
      const problems = validate(template, data)
      assert.equal(problems.length, 1, problems.join('; '))
      assert.match(problems[0]!, message)
    })
  }

  it('fills defaults, and only where nothing was given', () => {
    const withDefault = parseTemplate({ a: { type: 'number', default: 3, required: true }, b: { type: 'string' } })
    assert.deepEqual(withDefaults(withDefault, {}), { a: 3 })
    assert.deepEqual(withDefaults(withDefault, { a: 5 }), { a: 5 })
    assert.deepEqual(validate(withDefault, {}), [])
  })

  it('a million elements are checked without a million messages', () => {
    assert.equal(validate(parseTemplate({ a: 'array(float)' }), { a: Array.from({ length: 1_000_000 }, () => 'x') }).length, 20)
  })
})

describe('specs: whether an output fits an input', () => {
  const yes: readonly (readonly [object, object])[] = [
    [{ a: 'string' }, { a: 'string' }], [{ a: 'int', b: 'string' }, { a: 'number' }], [{ a: 'any' }, { a: 'string' }], [{ a: 'string' }, { a: 'any' }], [{}, { a: 'string' }], [{ a: 'string' }, {}],
    [{ a: 'number' }, { a: { type: 'number', min: 0 } }], [{ a: { type: 'number', min: 0, max: 1 } }, { a: { type: 'number', min: 0, max: 2 } }],
    [{ a: 'string' }, { a: { type: 'string', required: true }, b: { type: 'string' } }], [{ a: 'string' }, { a: 'string', b: { type: 'string', default: 'x' } }],
    [{ a: { type: 'string', choices: ['x'] } }, { a: { type: 'string', choices: ['x', 'y'] } }], [{ a: 'array(3,float)' }, { a: { type: 'array', max_length: 4, items: { type: 'number' } } }],
  ]
  for (const [output, input] of yes) it(`${JSON.stringify(output)} fits ${JSON.stringify(input)}`, () => assert.deepEqual(compatible(parseTemplate(output), parseTemplate(input)), { ok: true, value: true }))
  const no: readonly (readonly [object, object, RegExp])[] = [
    [{ a: 'string' }, { a: 'number' }, /"a" is string in the output and number in the input/], [{ a: 'number' }, { a: 'int' }, /"a" is number .* integer/], [{ a: 'string' }, { b: 'string' }, /needs "b", which the output does not have \(it has a\)/],
    [{ a: { type: 'number', max: 100 } }, { a: { type: 'number', max: 1 } }, /may be 100 in the output/], [{ a: { type: 'string', choices: ['x', 'z'] } }, { a: { type: 'string', choices: ['x'] } }, /may be "z"/],
    [{ a: 'array(float)' }, { a: 'array(string)' }, /"a\[\]" is number in the output and string/], [{ a: { type: 'object', properties: { x: 'string' } } }, { a: { type: 'object', properties: { y: 'string' } } }, /needs "a\.y"/],
    [{ a: 'array(3,float)' }, { a: 'array(2,float)' }, /3 elements in the output and 2/], [{ a: { type: 'string', required: false } }, { a: { type: 'string', required: true } }, /may leave out/], [{ a: 'shop.image:v1' }, { a: 'shop.sound:v1' }, /shop\.image:v1 in the output/],
  ]
  for (const [output, input, because] of no) {
    it(`${JSON.stringify(output)} does not fit ${JSON.stringify(input)}`, () => {
      const verdict = compatible(parseTemplate(output), parseTemplate(input))
      assert.ok(!verdict.ok)
      assert.match(verdict.because, because)
    })
  }

  it('several sources fit a list of inputs each, or one input merged', () => {
    const [a, b] = [{ label: 'left', output: parseTemplate({ a: 'number' }) }, { label: 'right', output: parseTemplate({ b: 'string' }) }]
    assert.ok(compatibleFanIn([a, b], parseTemplate({ inputs: { type: 'array', items: 'object' } })).ok)
    assert.ok(compatibleFanIn([a, b], parseTemplate({ a: 'number', b: 'string' })).ok)
    const typed = compatibleFanIn([a, b], parseTemplate({ inputs: { type: 'array', items: { type: 'object', properties: { a: 'number' } } } }))
    assert.match(typed.ok ? '' : typed.because, /from "right": the input needs "inputs\[right\]\.a"/)
    assert.match(((verdict) => (verdict.ok ? '' : verdict.because))(compatibleFanIn([a, b], parseTemplate({ inputs: 'array(1,any)' }))), /takes 1 sources; 2 are connected: left, right/)
    assert.ok(!compatibleFanIn([a, b], parseTemplate({ a: 'number', c: 'string' })).ok)
  })

  it('every template fits itself', () => {
    const leaf = fc.oneof(fc.constantFrom('string', 'number', 'integer', 'boolean', 'any', 'array', 'object').map(type => ({ type })), fc.integer({ min: 0, max: 9 }).map(max => ({ type: 'number', min: -max, max })), fc.uniqueArray(fc.string(), { minLength: 1 }).map(choices => ({ type: 'string', choices })))
    const name = fc.string({ minLength: 1, maxLength: 8 }).filter(text => !['type', 'properties', 'required', '__proto__', 'constructor', 'prototype'].includes(text))
    const { field } = fc.letrec<{ field: object }>(tie => ({ field: fc.oneof({ depthSize: 'small' }, leaf, fc.dictionary(name, tie('field'), { minKeys: 1, maxKeys: 3, noNullPrototype: true }).map(properties => ({ type: 'object', properties })), tie('field').map(items => ({ type: 'array', items }))) }))
    fc.assert(fc.property(fc.dictionary(name, field, { maxKeys: 4, noNullPrototype: true }), document => {
      const template = parseTemplate(document)
      assert.deepEqual(parseTemplate(template), template)
      assert.deepEqual(compatible(template, template), { ok: true, value: true })
    }), { numRuns: 100 })
  })
})

describe('specs: patterns', () => {
  it('agree with the platform’s engine on everything both support', () => {
    const atom = fc.constantFrom('a', 'b', '.', '[ab]', '[^a]', '\\d', '\\w', '\\s', '1', ' ', '(a|b)', '(?:ab|c)')
    const pattern = fc.tuple(fc.constantFrom('', '^'), fc.array(fc.tuple(atom, fc.constantFrom('', '*', '+', '?', '{2}', '{1,2}', '*?', '{2,}')), { maxLength: 5 }), fc.constantFrom('', '$')).map(([head, parts, tail]) => head + parts.flat().join('') + tail)
    fc.assert(fc.property(pattern, fc.string({ unit: fc.constantFrom('a', 'b', 'c', '1', ' ', '\n', '😀'), maxLength: 10 }), (source, text) => {
      const compiled = compilePattern(source)
      assert.ok(compiled.ok, source)
      assert.equal(compiled.value.test(text), new RegExp(source, 'u').test(text), `${source} on ${JSON.stringify(text)}`)
    }), { numRuns: 500 })
  })

  it('a pattern made to hang the platform’s engine is decided in bounded steps', () => {
    for (const source of ['^(a+)+$', '^(a|a)*$', '^(a|aa)+$', '(.*)*x', '^([a-z]+)*$']) {
      const compiled = compilePattern(source)
      assert.ok(compiled.ok)
      assert.equal(compiled.value.test(`${'a'.repeat(20_000)}!`), false, source)
    }
  })

  it('a pattern that would need too many steps is left undecided, and refuses the value', () => {
    const compiled = compilePattern('(a?){400}(a?){400}b')
    assert.ok(compiled.ok)
    assert.equal(compiled.value.test('a'.repeat(200_000)), undefined)
    assert.match(validate(parseTemplate({ t: { type: 'string', pattern: '(a?){400}(a?){400}b' } }), { t: 'a'.repeat(200_000) })[0]!, /takes too long to match/)
  })

  for (const source of ['(a', 'a)', '[a', '*a', 'a{3,2}', '(?=a)', '(?<!a)b', '\\1', 'a\\', `${'('.repeat(30)}a${')'.repeat(30)}`, 'a'.repeat(501), '(a{1000}){1000}']) {
    it(`refuses ${source.slice(0, 30)}`, () => assert.equal(compilePattern(source).ok, false))
  }
})
