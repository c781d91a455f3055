import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import { MeshError } from '../../protocols/errors.ts'
import { amend, touched } from '../../src/specs/amend.ts'
import type { JsonObject } from '../../src/specs/document.ts'
import { mongoFind } from '../../src/specs/mongo-find.ts'

const before: JsonObject = { name: 'a', tags: ['x'], inner: { count: 2, list: [{ n: 1 }, { n: 2 }] } }
const after = (change: Json): JsonObject => amend(before, change)
const refused = (change: Json, pattern: RegExp): void => assert.throws(() => after(change), (error: unknown) => error instanceof MeshError && error.code === 'SPEC_INVALID' && pattern.test(error.message), JSON.stringify(change))

describe('specs: an update of a registry in Mongo’s words', () => {
  it('sets, unsets, counts, and changes lists, by dotted paths', () => {
    assert.deepEqual(after({ $set: { 'inner.count': 5, 'new.deep': true } }), { ...before, inner: { ...Object(before['inner']), count: 5 }, new: { deep: true } })
    assert.deepEqual(after({ name: 'b' }), { ...before, name: 'b' }, 'a change without operators sets')
    assert.deepEqual(after({ $unset: { name: '' } }), { tags: before['tags'], inner: before['inner'] })
    assert.deepEqual(Object(after({ $inc: { 'inner.count': 3, fresh: 1 } })['inner']).count, 5)
    assert.deepEqual(after({ $push: { tags: 'y' } })['tags'], ['x', 'y'])
    assert.deepEqual(after({ $push: { tags: { $each: ['y', 'z'] } } })['tags'], ['x', 'y', 'z'])
    assert.deepEqual(after({ $addToSet: { tags: { $each: ['x', 'y'] } } })['tags'], ['x', 'y'])
    assert.deepEqual(after({ $pull: { tags: 'x' } })['tags'], [])
    assert.deepEqual(Object(after({ $set: { 'inner.list.1.n': 9 } })['inner']).list, [{ n: 1 }, { n: 9 }])
    assert.deepEqual(before['tags'], ['x'], 'what was given is not touched')
    assert.deepEqual(touched({ $set: { 'inner.count': 1 }, $push: { tags: 1 } }), ['inner', 'tags'])
  })

  it('refuses what it does not know, and paths that lead out of the document', () => {
    refused({ $rename: { a: 'b' } }, /\$rename: there is no such operator/)
    refused({ $set: 3 }, /give the fields it changes/)
    refused({ $push: { name: 1 } }, /\$push\.name: .*holds no list/)
    refused({ $inc: { name: 1 } }, /holds one/)
    for (const path of ['__proto__.x', 'constructor.prototype.x', 'a..b']) assert.throws(() => after({ $set: { [path]: 1 } }), /SPEC|no field|reserved/)
    assert.equal(Object.hasOwn(Object.prototype, 'x'), false)
  })
})

describe('specs: what a registry query finds', () => {
  const documents: readonly JsonObject[] = [{ id: 'a', n: 3 }, { id: 'b', n: 10 }, { id: 'c' }, { id: 'd', n: 1 }]
  const found = (body: Json): readonly (Json | undefined)[] => mongoFind(documents, body).map(({ id }) => id)

  it('is sorted, cut and paged as its options say', () => {
    assert.deepEqual(found({ n: { $gt: 1 } }), ['a', 'b'])
    assert.deepEqual(found({ query: { n: { $exists: true } }, options: { sort: { n: -1 }, limit: 2 } }), ['b', 'a'])
    assert.deepEqual(found({ query: {}, options: { sort: [['n', 1]], skip: 1 } }), ['d', 'a', 'b'])
    assert.deepEqual(found({}), ['a', 'b', 'c', 'd'])
    assert.throws(() => found({ query: {}, options: { limit: -1 } }), /query: options\.limit/)
    assert.throws(() => found({ query: {}, options: { sort: 7 } }), /query: options\.sort/)
  })
})
