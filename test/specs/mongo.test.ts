import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import { mongoQuery } from '../../src/specs/mongo.ts'

const asset = { asset_name: 'weights.bin', asset_version: { version: '1.2.0', tag: 'stable' }, asset_file_info: { file_size: 2_000 }, asset_tags: ['vision', 'small'], parts: [{ rank: 1 }, { rank: 3 }], none: null }
const finds = (filter: Json): boolean => mongoQuery(filter)(asset)

describe('a registry query in Mongo’s words', () => {
  it('finds by every operator AIOS uses, by dotted paths and by items of lists', () => {
    const yes: readonly Json[] = [
      {}, { asset_name: 'weights.bin' }, { 'asset_version.tag': 'stable' }, { asset_version: { version: '1.2.0', tag: 'stable' } }, { asset_tags: 'small' }, { asset_tags: ['vision', 'small'] },
      { asset_tags: { $in: ['large', 'small'] } }, { asset_tags: { $nin: ['large'] } }, { 'asset_file_info.file_size': { $gt: 1_999, $lte: 2_000 } }, { 'asset_file_info.file_size': { $gte: '2000' } },
      { asset_name: { $ne: 'other' } }, { missing: { $ne: 'other' } }, { missing: { $exists: false } }, { missing: null }, { none: null }, { asset_name: { $regex: '^WEIGHTS', $options: 'i' } }, { 'parts.rank': 3 }, { 'parts.1.rank': 3 },
      { $or: [{ asset_name: 'x' }, { asset_tags: 'vision' }] }, { $and: [{ asset_name: { $eq: 'weights.bin' } }, { asset_tags: 'vision' }] }, { $nor: [{ asset_name: 'x' }] }, { asset_name: { $not: { $regex: '^x' } } },
    ]
    for (const filter of yes) assert.equal(finds(filter), true, JSON.stringify(filter))
    const no: readonly Json[] = [{ asset_name: 'weights' }, { 'asset_version.tag': 'beta' }, { asset_tags: { $in: [] } }, { 'asset_file_info.file_size': { $lt: 2_000 } }, { asset_name: { $gt: 5 } }, { missing: { $exists: true } }, { $or: [] }, { 'asset_name.length': 11 }, { constructor: { $exists: true } }]
    for (const filter of no) assert.equal(finds(filter), false, JSON.stringify(filter))
  })

  it('refuses operators it does not know, patterns that could run wild, and queries without end', () => {
    const refused: readonly Json[] = [{ $where: 'true' }, { a: { $function: 1 } }, { a: { $in: 3 } }, { $and: {} }, { a: { $regex: '(' } }, { a: { $regex: 'x', $options: 'q' } }, []]
    for (const filter of refused) assert.throws(() => finds(filter), /query:/, JSON.stringify(filter))
    let deep: Json = { a: 1 }
    for (let level = 0; level < 40; level += 1) deep = { $and: [deep] }
    assert.throws(() => finds(deep), /nests/)
    assert.throws(() => finds(Object.fromEntries(Array.from({ length: 1_001 }, (_, at) => [`f${at}`, 1]))), /terms/)
    // With a backtracking engine this would take years.
    assert.equal(mongoQuery({ asset_name: { $regex: '^(a+)+$' } })({ asset_name: `${'a'.repeat(40)}!` }), false)
  })
})
