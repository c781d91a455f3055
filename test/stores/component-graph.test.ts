import assert from 'node:assert/strict'
import { MeshError } from '../../protocols/errors.ts'
import type { JsonObject } from '../../src/lib/json.ts'
import { answerGraphQuery } from '../../src/stores/component-graph.ts'

const documents: readonly JsonObject[] = [
  { componentURI: 'model.a:1-s', cid: 'bafya', componentType: 'model', componentId: { name: 'a', version: '1' }, componentMetadata: { accuracy: 0.9 }, tags: ['vision'], createdAt: 1 },
  { componentURI: 'model.b:2-s', cid: 'bafyb', componentType: 'model', componentId: { name: 'b', version: '2' }, componentMetadata: { accuracy: 0.5 }, tags: [], createdAt: 2 },
  { componentURI: 'node.c:1-s', cid: 'bafyc', componentType: 'node', componentId: { name: 'c', version: '1' }, componentMetadata: {}, tags: ['vision'], createdAt: 3 },
]
const ask = (source: string, variables: JsonObject = {}): Promise<JsonObject> => answerGraphQuery({ documents: async () => documents }, source, variables)
const refused = (source: string, because: RegExp): Promise<void> => assert.rejects(ask(source), (error: unknown) => error instanceof MeshError && error.code === 'BAD_INPUT' && because.test(error.message))

describe('components over GraphQL', () => {
  it("answers AIOS's documented queries with the fields that were asked for", async () => {
    assert.deepEqual(await ask('query {\n  componentMany(filter: { componentType: "model" }) {\n componentURI componentId { name version } componentMetadata }\n}'), { componentMany: [
      { componentURI: 'model.a:1-s', componentId: { name: 'a', version: '1' }, componentMetadata: { accuracy: 0.9 } }, { componentURI: 'model.b:2-s', componentId: { name: 'b', version: '2' }, componentMetadata: { accuracy: 0.5 } },
    ] })
    assert.deepEqual(await ask('{ componentById(_id: "node.c:1-s") { componentType missing __typename } }'), { componentById: { componentType: 'node', missing: null, __typename: 'Component' } })
    assert.deepEqual(await ask('{ componentById(_id: "none") { componentType } }'), { componentById: null })
  })

  it('filters, sorts, pages, counts and renames, with variables', async () => {
    assert.deepEqual(await ask('query Find($type: String!, $least: Float) { good: componentMany(filter: { componentType: $type, componentMetadata: { _operators: { accuracy: { gt: $least } } } }) { uri: componentURI } total: componentCount(filter: { tags: "vision" }) }', { type: 'model', least: 0.6 }), { good: [{ uri: 'model.a:1-s' }], total: 2 })
    assert.deepEqual(await ask('{ componentMany(sort: CREATEDAT_DESC, limit: 1, skip: 1) { componentURI } componentOne(filter: { OR: [{ componentId: { name: "c" } }, { componentId: { name: "b" } }] }, sort: CREATEDAT_DESC) { componentURI } componentByIds(_ids: ["bafyb", "x"]) { cid } }'), { componentMany: [{ componentURI: 'model.b:2-s' }], componentOne: { componentURI: 'node.c:1-s' }, componentByIds: [{ cid: 'bafyb' }] })
  })

  it('refuses what would change something, what it does not know, and what has no end', async () => {
    await refused('mutation { componentRemove { a } }', /mutation is not answered here/)
    await refused('{ blockMany { id } }', /there is no blockMany here/)
    await refused('{ componentMany { ...Parts } }', /fragments/)
    await refused('{ componentMany { a }', /it ends where \}/)
    await refused('{ componentMany(filter: ) { a } }', /stands where a value belongs/)
    await refused(`${'{ a '.repeat(40)}`, /20 deep/)
    await refused('{ componentMany(filter: { a: [1, 2 ) { a } }', /stands where a value belongs/)
    await refused(`{ componentMany(filter: { a: ${'['.repeat(2_000)} }) { a } }`, /20 deep/)
    await refused('{ componentMany { a ; b } }', /unreadable/)
    await refused(`{ ${'a '.repeat(6_000)} }`, /5000 words/)
  })
})
