import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import { decode, encode } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import { blockRecord, componentManifest, vdagSpec, type ComponentManifest } from '../../protocols/specs.ts'
import { parseAsset } from '../../src/specs/asset.ts'
import { parseBlock } from '../../src/specs/block.ts'
import { parseComponent } from '../../src/specs/component.ts'
import { parseFilter } from '../../src/specs/filter.ts'
import { parsePolicyRule } from '../../src/specs/policy.ts'
import { parseSearch } from '../../src/specs/search.ts'
import { parseTemplate } from '../../src/specs/template.ts'
import { makeComponentUri, parseComponentUri, parseUri } from '../../src/specs/uri.ts'
import { parseVdag } from '../../src/specs/vdag.ts'
import { AUTHOR, blockValues, CID, componentValues, nestedVdagValues, vdagValues } from './samples.ts'

const manifest: ComponentManifest = { ...parseComponent(componentValues, { author: AUTHOR }), files: [] }
const parsers: Readonly<Record<string, (document: unknown) => unknown>> = {
  component: document => parseComponent(document, { author: AUTHOR, files: ['index.ts'] }),
  block: document => parseBlock(document, { manifest, cid: CID }, { owner: AUTHOR, newId: () => 'a1b2c3d4' }),
  vDAG: document => parseVdag(document, { author: AUTHOR }),
  policy: document => parsePolicyRule(document, { author: AUTHOR, code: CID }),
  asset: document => parseAsset(document, { author: AUTHOR, content: CID, size: 1 }),
  template: parseTemplate,
  filter: parseFilter,
  search: parseSearch,
}

function nested(depth: number): unknown {
  let value: unknown = {}
  for (let level = 0; level < depth; level += 1) value = level % 2 === 0 ? { in: value } : [value]
  return { a: value }
}

const hostile: Readonly<Record<string, unknown>> = {
  'nested a hundred thousand deep': nested(100_000),
  'a text of a megabyte': { a: 'x'.repeat(1_048_576) },
  'a name of a megabyte': { ['x'.repeat(1_048_576)]: 1 },
  'many texts that add up': { a: Array.from({ length: 100 }, () => 'x'.repeat(100_000)) },
  'a million values': { a: Array.from({ length: 1_000_000 }, () => 0) },
  'a __proto__ key': JSON.parse('{"__proto__": {"polluted": true}, "a": {"b": 1}}'),
  'a nested constructor key': JSON.parse('{"body": {"spec": {"values": {"componentInitData": {"constructor": {"prototype": 1}}}}}}'),
  'not an object': 'text', 'null': null, 'a list': [], 'a number': 7, 'undefined': undefined,
  'not JSON inside': { a: { b: () => 1 } }, 'not finite': { a: Number.NaN }, 'a class instance': { a: new Map() },
}

describe('specs: hostile documents', () => {
  for (const [name, document] of Object.entries(hostile)) {
    it(`${name} is refused by every parser with SPEC_INVALID`, () => {
      for (const [kind, parse] of Object.entries(parsers)) {
        // An empty list is an empty template.
        if (kind === 'template' && Array.isArray(document)) continue
        assert.throws(() => parse(document), (error: unknown) => error instanceof MeshError && error.code === 'SPEC_INVALID' && error.message.length < 3_000, kind)
      }
      assert.equal(({} as { polluted?: boolean }).polluted, undefined)
    })
  }

  it('whatever JSON says, a parser answers with a document that fits its schema or with SPEC_INVALID', () => {
    const junk = fc.oneof(fc.jsonValue(), fc.constantFrom<unknown>('', 'x', 0, -1, 1.5, [], {}, [[]], [{}], true, 'default', null))
    const mangle = (sample: Record<string, unknown>) => fc.tuple(fc.constantFrom(...Object.keys(sample)), junk, fc.option(fc.tuple(fc.constantFrom(...Object.keys(sample)), junk))).map(([name, value, second]) => ({ ...sample, [name]: value, ...(second === null ? {} : { [second[0]]: second[1] }) }))
    const samples = { component: { ...componentValues, runtime: { name: 'node' }, needs: {}, resources: {} }, block: { ...blockValues, initSettings: {}, parameters: {}, labels: {} }, vDAG: { ...nestedVdagValues } }
    const schemas = { component: componentManifest.omit({ files: true }), block: blockRecord, vDAG: vdagSpec }
    for (const kind of ['component', 'block', 'vDAG'] as const) {
      fc.assert(fc.property(mangle(samples[kind]), document => {
        try {
          schemas[kind].parse(parsers[kind]!(document))
        } catch (error) {
          assert.ok(error instanceof MeshError && error.code === 'SPEC_INVALID', `${kind}: ${String(error)} for ${JSON.stringify(document)}`)
        }
      }), { numRuns: 300 })
    }
  })
})

describe('specs: the one form', () => {
  it('parses to itself, also after a trip through DAG-CBOR', () => {
    const again = <T>(value: T, parse: (document: unknown) => T): void => {
      assert.deepEqual(parse(value), value)
      assert.deepEqual(parse(decode({ parse: (given: unknown) => given }, encode(value), 1_000_000, 'spec')), value)
    }
    again(parseComponent(componentValues, { author: AUTHOR, files: ['index.ts'] }), document => parseComponent(document, { author: AUTHOR }))
    again(parseBlock(blockValues, { manifest, cid: CID }, { owner: AUTHOR, newId: () => 'a1b2c3d4' }), document => parseBlock(document, { manifest, cid: CID }, { owner: AUTHOR, newId: () => assert.fail('a block with an id got another') }))
    again(parseVdag(nestedVdagValues, { author: AUTHOR }), document => parseVdag(document, { author: AUTHOR }))
    again(parsePolicyRule({ name: 'a', version: '1', release_tag: 's', policy_parameters: { x: 1 } }, { author: AUTHOR, code: CID }), document => parsePolicyRule(document, { author: AUTHOR, code: CID }))
    again(parseAsset({ asset_name: 'a' }, { author: AUTHOR, content: CID, size: 1 }), document => parseAsset(document, { author: AUTHOR, content: CID, size: 1 }))
  })

  it('random vDAGs parse to themselves', () => {
    const label = fc.string({ unit: fc.constantFrom(...'abcdefg-_0123'), minLength: 1, maxLength: 6 })
    const arbitrary = fc.uniqueArray(label, { minLength: 1, maxLength: 6 }).chain(labels => fc.record({
      vdagName: fc.constant('v'), vdagVersion: fc.constant({ version: '1.0', releaseTag: 'x' }),
      nodes: fc.tuple(...labels.map(name => fc.record({ nodeLabel: fc.constant(name), manualBlockId: fc.constantFrom('', 'blk-1'), modelParameters: fc.constantFrom({}, { a: [1, { b: null }] }), preprocessingPolicyRule: fc.constantFrom('', 'p:1-s', { values: { policyRuleURI: 'q:1-s', parameters: { z: 1 } } }) }))),
      graph: fc.record({ connections: fc.array(fc.record({ nodeLabel: fc.constantFrom(...labels), inputs: fc.array(fc.record({ nodeLabel: fc.constantFrom(...labels), outputNames: fc.array(fc.constantFrom('a', 'b'), { maxLength: 2 }) }), { maxLength: 3 }) }), { maxLength: 4 }) }),
    }))
    fc.assert(fc.property(arbitrary, document => {
      const parsed = parseVdag(document)
      assert.deepEqual(parseVdag(parsed), parsed)
    }), { numRuns: 100 })
  })

  it('URIs parse to what made them', () => {
    assert.deepEqual(parseComponentUri('model.object-detector:2.0.0-stable'), { type: 'model', name: 'object-detector', version: '2.0.0', releaseTag: 'stable' })
    assert.deepEqual(parseComponentUri('model.a.b:1.0-rc1-x'), { type: 'model', name: 'a.b', version: '1.0-rc1', releaseTag: 'x' })
    assert.equal(makeComponentUri(parseComponentUri('model.a.b:1.0-rc1-x')), 'model.a.b:1.0-rc1-x')
    assert.deepEqual(parseUri('vdag', 'triage:1.0.0-stable'), { name: 'triage', version: '1.0.0', releaseTag: 'stable' })
    for (const uri of ['', 'a', 'a:1', 'a:-x', 'a:1-', 'a b:1-x', ':1-x', 'a:b:1-x', 'x'.repeat(400)]) assert.throws(() => parseUri('policy', uri), (error: unknown) => error instanceof MeshError && error.code === 'SPEC_INVALID' && /write it like/.test(error.message))
    assert.throws(() => parseComponentUri('nodot:1-x'), MeshError)
  })

  it('a vDAG stays the same whichever way round its fields come', () => {
    assert.deepEqual(parseVdag(Object.fromEntries(Object.entries(vdagValues).reverse())), parseVdag(vdagValues))
  })
})
