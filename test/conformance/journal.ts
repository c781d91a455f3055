import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import type { Journal } from '../../src/ports.ts'

/** A journal under test. `reopen` stands for a restart of the peer: whatever was acknowledged is still there. */
export type JournalUnderTest = { readonly journal: Journal; reopen(): Promise<Journal>; close(): Promise<void> }

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values)
const plain = (values: readonly Uint8Array[]): number[][] => values.map(value => [...value])

/** What every `Journal` promises. Run on the real one and on the simulator's. */
export function journalConformance(name: string, make: () => Promise<JournalUnderTest>): void {
  describe(`journal: ${name}`, () => {
    let subject: JournalUnderTest
    let journal: Journal
    beforeEach(async () => {
      subject = await make()
      journal = subject.journal
    })
    afterEach(() => subject.close())

    it('entries come back in the order they were appended, from any position', async () => {
      await journal.append('run/1', [bytes(1), bytes(2)])
      await journal.append('run/1', [bytes(3)])
      assert.deepEqual(plain(await journal.read('run/1')), [[1], [2], [3]])
      assert.deepEqual(plain(await journal.read('run/1', 2)), [[3]])
      assert.deepEqual(await journal.read('run/1', 3), [])
      assert.deepEqual(await journal.read('run/2'), [])
    })

    it('what was acknowledged is still there after a restart', async () => {
      await journal.append('a', [bytes(1)])
      await journal.set('cell', bytes(9))
      journal = await subject.reopen()
      assert.deepEqual(plain(await journal.read('a')), [[1]])
      assert.deepEqual([...(await journal.get('cell'))!], [9])
      await journal.append('a', [bytes(2)])
      assert.deepEqual(plain(await journal.read('a')), [[1], [2]])
    })

    it('concurrent appends to one stream all land, each call whole and in order', async () => {
      await Promise.all(Array.from({ length: 50 }, (_, i) => journal.append('busy', [bytes(i, 0), bytes(i, 1)])))
      const seen = plain(await journal.read('busy'))
      assert.equal(seen.length, 100)
      for (let i = 0; i < 100; i += 2) assert.deepEqual([seen[i]![0], seen[i]![1], seen[i + 1]![1]], [seen[i + 1]![0], 0, 1])
    })

    it('a buffer changed after append does not change what was written', async () => {
      const buffer = bytes(1)
      const done = journal.append('copy', [buffer])
      buffer[0] = 2
      await done
      assert.deepEqual(plain(await journal.read('copy')), [[1]])
    })

    it('streams and keys are listed by prefix, sorted, and dropped ones are gone', async () => {
      for (const stream of ['run/b', 'run/a', 'runs', 'other']) await journal.append(stream, [bytes(1)])
      await journal.append('run/a', [])
      assert.deepEqual(await journal.streams('run/'), ['run/a', 'run/b'])
      assert.deepEqual(await journal.streams(''), ['other', 'run/a', 'run/b', 'runs'])
      await journal.drop('run/a')
      assert.deepEqual(await journal.streams('run/'), ['run/b'])
      assert.deepEqual(await journal.read('run/a'), [])
      await journal.append('run/a', [bytes(7)])
      assert.deepEqual(plain(await journal.read('run/a')), [[7]])
      for (const key of ['k/2', 'k/1', 'kk', '__proto__']) await journal.set(key, bytes(1))
      assert.deepEqual(await journal.keys('k/'), ['k/1', 'k/2'])
      await journal.set('k/1', undefined)
      assert.deepEqual(await journal.keys('k/'), ['k/2'])
      assert.equal(await journal.get('k/1'), undefined)
      assert.deepEqual([...(await journal.get('__proto__'))!], [1])
      assert.equal(await journal.get('constructor'), undefined)
    })

    it('an empty stream is not listed', async () => {
      await journal.append('empty', [])
      assert.deepEqual(await journal.streams(''), [])
    })

    it('any sequence of operations and restarts matches a plain model', async () => {
      const name = fc.constantFrom('s', 's/1', 's/2', 't')
      const value = fc.uint8Array({ maxLength: 5 })
      const step = fc.oneof(
        fc.record({ kind: fc.constant('append' as const), name, values: fc.array(value, { maxLength: 3 }) }),
        fc.record({ kind: fc.constant('drop' as const), name }),
        fc.record({ kind: fc.constant('set' as const), name, value: fc.option(value, { nil: undefined }) }),
        fc.record({ kind: fc.constant('reopen' as const) }),
      )
      await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 12 }), async steps => {
        const streams = new Map<string, Uint8Array[]>()
        const cells = new Map<string, Uint8Array>()
        for (const stream of await journal.streams('')) await journal.drop(stream)
        for (const key of await journal.keys('')) await journal.set(key, undefined)
        for (const step of steps) {
          if (step.kind === 'append') {
            await journal.append(step.name, step.values)
            if (step.values.length > 0) streams.set(step.name, [...(streams.get(step.name) ?? []), ...step.values])
          } else if (step.kind === 'drop') {
            await journal.drop(step.name)
            streams.delete(step.name)
          } else if (step.kind === 'set') {
            await journal.set(step.name, step.value)
            if (step.value === undefined) cells.delete(step.name)
            else cells.set(step.name, step.value)
          } else journal = await subject.reopen()
        }
        assert.deepEqual(await journal.streams(''), [...streams.keys()].sort())
        for (const [stream, values] of streams) assert.deepEqual(plain(await journal.read(stream)), plain(values))
        assert.deepEqual(await journal.keys(''), [...cells.keys()].sort())
        for (const [key, value] of cells) assert.deepEqual([...(await journal.get(key))!], [...value])
      }), { numRuns: 25 })
    })
  })
}
