import assert from 'node:assert/strict'
import fc from 'fast-check'
import { MeshError } from '../../protocols/errors.ts'
import type { VdagSpec } from '../../protocols/specs.ts'
import { compatible } from '../../src/specs/template.ts'
import { checkGraph, structureProblems } from '../../src/vdag/graph.ts'
import { graphOf } from './fake-mesh.ts'

function refusal(spec: VdagSpec): MeshError {
  try {
    checkGraph(spec, compatible)
  } catch (error) {
    assert.ok(error instanceof MeshError)
    return error
  }
  assert.fail('the graph was accepted')
}

describe('a vDAG graph', () => {
  it('is accepted when labels are known, nothing turns in a circle and all is reachable', () => {
    checkGraph(graphOf('g:1', ['a', 'b', 'c', 'd'], ['a>b', 'a>c', 'b>d', 'c>d']), compatible)
  })

  it('with a cycle is refused, the cycle spelled out', () => {
    const error = refusal(graphOf('g:1', ['start', 'a', 'b', 'c'], ['start>a', 'a>b', 'b>c', 'c>a']))
    assert.equal(error.code, 'GRAPH_INVALID')
    assert.match(error.message, /"a" → "b" → "c" → "a" form a cycle: remove one of these edges/)
  })

  it('with an unknown label is refused with the likely one', () => {
    assert.match(refusal(graphOf('g:1', ['normalise', 'classify'], ['normalise>clasify'])).message, /"clasify", which is no node: did you mean "classify"\?/)
  })

  it('with one bad edge is refused for that alone', () => {
    assert.match(refusal(graphOf('g:1', ['a'], ['a>a'])).message, /^g:1: node "a" has an edge to itself: remove it$/)
    assert.match(refusal(graphOf('g:1', ['a'], ['a>somewhere'])).message, /^g:1: the edge a → somewhere names "somewhere", which is no node: add it to the nodes, or name one of them$/)
  })

  it('that is part of itself is refused by the node', () => {
    assert.match(refusal(graphOf('g:1', [{ label: 'again', vdagURI: 'g:1' }], [])).message, /node "again" runs g:1, the vDAG that it is part of: name another, or remove it/)
  })

  it('is refused for every problem at once', () => {
    const { message, details } = refusal(graphOf('g:1', ['a', 'a', 'b', 'lonely'], ['a>a', 'a>b', 'a>b', 'ghost>b'], { inputs: ['a', 'b', 'b'], outputs: ['nobody'] }))
    for (const part of [/two nodes are labelled "a"/, /node "a" has an edge to itself/, /a → b is listed twice/, /"ghost", which is no node/, /inputs lists a node twice/, /inputs names "b", which gets its input from "a"/, /outputs names "nobody"/, /"lonely" cannot be reached/]) assert.match(message, part)
    assert.equal(details['problems'], 8)
  })

  it('whose fallback has edges, fallbacks or is a vDAG is refused', () => {
    const { message } = refusal(graphOf('g:1', [{ label: 'a', fallbacks: ['b', 'a', 'inner', 'gone'] }, { label: 'b', fallbacks: ['c'] }, 'c', 'd', { label: 'inner', vdagURI: 'v:1' }], ['a>d', 'b>d']))
    for (const part of [/"b" is a fallback of "a" and has edges/, /"b" is a fallback with fallbacks/, /"a" is its own fallback/, /"inner" is a fallback and a vDAG/, /"gone", which is no node/]) assert.match(message, part)
  })

  it('whose edge joins protocols that do not fit is refused, unless a converter stands between', () => {
    const spec = graphOf('g:1', [{ label: 'a', outputProtocol: { score: { type: 'number' } } }, { label: 'b', inputProtocol: { text: { type: 'string' } } }], ['a>b'])
    const error = refusal(spec)
    assert.equal(error.code, 'PROTOCOL_MISMATCH')
    assert.match(error.message, /node "b" cannot take what "a" gives \(edge a → b\): .*"text".*converter/)
    checkGraph({ ...spec, edges: [{ ...spec.edges[0]!, converter: { policyRuleURI: 'convert:1', parameters: {}, settings: {} } }] }, compatible)
  })

  it('is checked with a fallback in its node\'s place', () => {
    const spec = graphOf('g:1', [{ label: 'a', outputProtocol: { text: { type: 'string' } }, fallbacks: ['spare'] }, { label: 'spare', outputProtocol: { score: { type: 'number' } } }, { label: 'b', inputProtocol: { text: { type: 'string' } } }], ['a>b'])
    assert.match(refusal(spec).message, /"b" cannot take what "spare" gives/)
  })

  it('feeds each source of a join to an element of its inputs', () => {
    const join = { inputs: { type: 'array', items: { type: 'object', properties: { text: { type: 'string' } } } } }
    const spec = (output: VdagSpec['nodes'][number]['outputProtocol']): VdagSpec => graphOf('g:1', [{ label: 'a', outputProtocol: { text: { type: 'string' } } }, { label: 'b', outputProtocol: output }, { label: 'c', inputProtocol: join }], ['a>c', 'b>c'])
    checkGraph(spec({ text: { type: 'string' } }), compatible)
    assert.match(refusal(spec({ score: { type: 'number' } })).message, /node "c" cannot take what "a" and "b" give together: from "b"/)
  })

  it('is refused for a cycle exactly when it has one', () => {
    fc.assert(fc.property(fc.integer({ min: 2, max: 8 }), fc.array(fc.tuple(fc.nat(7), fc.nat(7)), { maxLength: 16 }), (size, pairs) => {
      const edges = pairs.filter(([a, b]) => a < size && b < size && a !== b)
      const spec = graphOf('g:1', Array.from({ length: size }, (_, at) => `n${at}`), edges.map(([a, b]) => `n${a}>n${b}`))
      // Independent of the code under test: powers of the adjacency matrix reach their own diagonal.
      const reach = Array.from({ length: size }, (_, a) => Array.from({ length: size }, (_, b) => edges.some(([x, y]) => x === a && y === b)))
      for (let via = 0; via < size; via += 1) for (const row of reach) if (row[via] === true) for (let to = 0; to < size; to += 1) row[to] ||= reach[via]![to]!
      assert.equal(structureProblems(spec).some(({ because }) => because.includes('form a cycle')), reach.some((row, at) => row[at] === true))
    }), { numRuns: 300 })
  })
})
