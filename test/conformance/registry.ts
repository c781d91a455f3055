import assert from 'node:assert/strict'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import type { RegistryStore } from '../../src/ports.ts'

/** Two peers' stores that replicate to one another, and a restart of the first. `apart` cuts the two off; `together` joins them again. */
export type RegistryUnderTest = {
  readonly mine: RegistryStore
  readonly theirs: RegistryStore
  reopenMine(): Promise<RegistryStore>
  /** Resolves once the condition holds; drives virtual time where time is virtual. */
  until(condition: () => Promise<boolean>): Promise<void>
  apart(): void
  together(): void
  close(): Promise<void>
}

const named = z.object({ name: z.string() })
const hasCode = (code: string) => (error: unknown) => error instanceof MeshError && error.code === code

/** What every `RegistryStore` promises. Run on the real one and on the simulator's. */
export function registryConformance(name: string, make: () => Promise<RegistryUnderTest>): void {
  describe(`registries: ${name}`, () => {
    let subject: RegistryUnderTest
    beforeEach(async () => (subject = await make()))
    afterEach(() => subject.close())

    it('a published name is read back here and by another peer', async () => {
      const entry = await subject.mine.open('components', named).put('a.b:1-x', { name: 'one' })
      assert.deepEqual({ ...entry, writer: '', issuedAt: 0 }, { key: 'a.b:1-x', value: { name: 'one' }, writer: '', sequence: 0, issuedAt: 0 })
      assert.deepEqual((await subject.mine.open('components', named).get('a.b:1-x'))?.value, { name: 'one' })
      const theirs = subject.theirs.open('components', named)
      await subject.until(async () => (await theirs.get('a.b:1-x')) !== undefined)
      assert.deepEqual(await theirs.get('a.b:1-x'), entry)
    })

    it('a published version never changes, and publishing it again is not an error', async () => {
      const registry = subject.mine.open('components', named)
      const first = await registry.put('a:1', { name: 'one' })
      assert.deepEqual(await registry.put('a:1', { name: 'one' }), first)
      await assert.rejects(registry.put('a:1', { name: 'two' }), error => hasCode('IMMUTABLE')(error) && /version|releaseTag/.test(String(error)))
      await assert.rejects(registry.withdraw('a:1'), hasCode('IMMUTABLE'))
      assert.deepEqual(await registry.get('a:1'), first)
    })

    it('an owner changes and withdraws its own key, and each change counts up', async () => {
      const registry = subject.mine.open('blocks', named)
      assert.equal((await registry.put('b', { name: 'one' })).sequence, 1)
      assert.equal((await registry.put('b', { name: 'two' })).sequence, 2)
      await registry.withdraw('b')
      assert.equal(await registry.get('b'), undefined)
      assert.deepEqual(await registry.list(), [])
      assert.equal((await registry.put('b', { name: 'three' })).sequence, 4)
      await assert.rejects(registry.withdraw('never'), hasCode('NOT_FOUND'))
      const theirs = subject.theirs.open('blocks', named)
      await subject.until(async () => (await theirs.get('b'))?.sequence === 4)
    })

    it('another peer may not change or withdraw a key it does not own', async () => {
      await subject.mine.open('blocks', named).put('b', { name: 'mine' })
      const theirs = subject.theirs.open('blocks', named)
      await subject.until(async () => (await theirs.get('b')) !== undefined)
      await assert.rejects(theirs.put('b', { name: 'theirs' }), hasCode('FORBIDDEN'))
      await assert.rejects(theirs.withdraw('b'), hasCode('FORBIDDEN'))
      assert.deepEqual((await theirs.get('b'))?.value, { name: 'mine' })
    })

    it('a value over the limit and a value that does not fit its schema are refused, and nothing changed', async () => {
      const registry = subject.mine.open('components', named)
      await assert.rejects(registry.put('big', { name: 'x'.repeat(30_000) }), hasCode('MESSAGE_TOO_LARGE'))
      await assert.rejects(subject.mine.open('components', z.object({ name: z.string().max(2) })).put('odd', { name: 'long' }), hasCode('BAD_INPUT'))
      await assert.rejects(registry.put('', { name: 'empty' }), hasCode('BAD_INPUT'))
      await assert.rejects(registry.put('new\nline', { name: 'control' }), hasCode('BAD_INPUT'))
      await assert.rejects(registry.put('k'.repeat(401), { name: 'long' }), hasCode('BAD_INPUT'))
      assert.deepEqual(await registry.list(), [])
    })

    it('keys named like object properties, with spaces and of any script are ordinary keys', async () => {
      const keys = ['__proto__', 'constructor', 'hasOwnProperty', 'naïve key', 'toString', '名前', '🦊']
      const registry = subject.mine.open('components', named)
      for (const key of keys) assert.equal(await registry.get(key), undefined)
      for (const key of keys) await registry.put(key, { name: key })
      const theirs = subject.theirs.open('components', named)
      await subject.until(async () => (await theirs.list()).length === keys.length)
      for (const store of [registry, theirs]) assert.deepEqual((await store.list()).map(entry => [entry.key, entry.value.name]), keys.toSorted().map(key => [key, key]))
    })

    it('a list is sorted, by prefix, and keeps registries apart', async () => {
      const registry = subject.mine.open('components', named)
      await Promise.all(['b:2', 'a:1', 'b:1', 'ba:1'].map(key => registry.put(key, { name: key })))
      await subject.mine.open('vdags', named).put('b:3', { name: 'other' })
      assert.deepEqual((await registry.list('b:')).map(entry => entry.key), ['b:1', 'b:2'])
      assert.deepEqual((await registry.list()).map(entry => entry.key), ['a:1', 'b:1', 'b:2', 'ba:1'])
    })

    it('listeners hear changes from here and from afar, until they stop listening', async () => {
      const heard: string[] = []
      const far: string[] = []
      const stop = subject.mine.open('blocks', named).onChange((key, entry) => heard.push(`${key}=${entry?.value.name ?? ''}`))
      subject.theirs.open('blocks', named).onChange((key, entry) => far.push(`${key}=${entry?.value.name ?? ''}`))
      const registry = subject.mine.open('blocks', named)
      await registry.put('b', { name: 'one' })
      await subject.until(async () => far.length === 1)
      await registry.withdraw('b')
      await subject.until(async () => far.length === 2)
      assert.deepEqual([heard, far], [['b=one', 'b='], ['b=one', 'b=']])
      stop()
      await registry.put('b', { name: 'two' })
      assert.equal(heard.length, 2)
    })

    it('what was put is still there after a restart, and the next change counts on', async () => {
      await subject.mine.open('blocks', named).put('b', { name: 'one' })
      const registry = (await subject.reopenMine()).open('blocks', named)
      assert.deepEqual((await registry.get('b'))?.value, { name: 'one' })
      assert.equal((await registry.put('b', { name: 'two' })).sequence, 2)
    })

    it('two peers that publish one name apart agree on one of them once together', async () => {
      subject.apart()
      const [mine, theirs] = [subject.mine.open('components', named), subject.theirs.open('components', named)]
      await mine.put('same:1', { name: 'mine' })
      await theirs.put('same:1', { name: 'theirs' })
      subject.together()
      await subject.until(async () => (await mine.get('same:1'))?.value.name === (await theirs.get('same:1'))?.value.name)
    })

    it('changes made apart are all there once together', async () => {
      const [mine, theirs] = [subject.mine.open('blocks', named), subject.theirs.open('blocks', named)]
      subject.apart()
      for (let i = 0; i < 20; i++) {
        await mine.put(`mine-${i}`, { name: 'm' })
        await theirs.put(`theirs-${i}`, { name: 't' })
      }
      subject.together()
      await subject.until(async () => (await mine.list()).length === 40 && (await theirs.list()).length === 40)
      assert.deepEqual(await mine.list(), await theirs.list())
    })
  })
}
