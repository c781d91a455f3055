import assert from 'node:assert/strict'
import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Right } from '../../protocols/membership.ts'
import type { RegistryName } from '../../protocols/registry.ts'
import { mayOperateKey, mayWriteKey } from '../../src/registries/rights.ts'

const RIGHTS: Readonly<Record<string, readonly Right[]>> = { operator: ['join', 'publish', 'operate'], author: ['join', 'publish'], guest: ['join'] }
const may = (peer: string, right: Right): Verdict<true> => (RIGHTS[peer]?.includes(right) === true ? granted(true) : refused(`${peer} has no right to ${right}`))
const writes = (peer: string, registry: RegistryName, key: string): boolean => mayWriteKey(may, peer, registry, key).ok
const operates = (peer: string, registry: RegistryName, key: string): boolean => mayOperateKey(may, peer, registry, key).ok

describe('who may write a registry’s key', () => {
  it('asks for the right that the registry asks for', () => {
    assert.deepEqual(['operator', 'author', 'guest'].map(peer => writes(peer, 'blocks', 'b')), [true, false, false])
    assert.deepEqual(['operator', 'author', 'guest'].map(peer => writes(peer, 'specs', 's:1-x')), [true, true, false])
    assert.deepEqual(['operator', 'author', 'guest'].map(peer => operates(peer, 'blocks', 'b')), [true, false, false])
  })

  it('lets nobody speak under another’s name, nor change what another filed, whatever his rights', () => {
    assert.equal(writes('author', 'annotations', 'author/specs/s:1-x'), true)
    assert.equal(writes('operator', 'annotations', 'author/specs/s:1-x'), false)
    for (const registry of ['records', 'clusters', 'nodes', 'groups'] as const) assert.equal(operates('operator', registry, 'k'), false)
  })

  it('gives each peer its slots for tasks and no more; whoever may operate closes those of the dead', () => {
    assert.deepEqual(['guest/0', 'guest/511', 'guest/512', 'guest/01', 'guest/x', 'guest/-1', 'guest'].map(key => writes('guest', 'tasks', key)), [true, true, false, false, false, false, false])
    assert.deepEqual([writes('author', 'tasks', 'guest/1'), writes('operator', 'tasks', 'guest/1'), operates('operator', 'tasks', 'guest/1'), operates('author', 'tasks', 'guest/1')], [false, true, true, false])
  })
})
