import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { openJournal } from '../../node/adapters/journal.ts'
import { MeshError } from '../../protocols/errors.ts'
import { journalConformance } from '../conformance/journal.ts'

const hasCode = (code: string) => (error: unknown) => error instanceof MeshError && error.code === code

describe('the SQLite journal', () => {
  let dir: string
  beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'journal-'))))
  afterEach(() => rmSync(dir, { recursive: true, force: true }))

  it('is readable by its owner only', async () => {
    await using journal = openJournal(dir)
    await journal.set('a', new Uint8Array(1))
    for (const file of ['journal.sqlite', 'journal.sqlite-wal', 'journal.sqlite-shm']) assert.equal(statSync(join(dir, file)).mode & 0o777, 0o600, file)
  })

  it('a full disk refuses the write, says so and changes nothing', async () => {
    await using journal = openJournal(dir, { maxBytes: 64 * 1_024 })
    await journal.append('s', [new Uint8Array(1_000)])
    await assert.rejects(journal.append('s', [new Uint8Array(8), new Uint8Array(200_000)]), hasCode('STORAGE_FULL'))
    assert.equal((await journal.read('s')).length, 1)
    await journal.append('s', [new Uint8Array(8)])
    assert.equal((await journal.read('s')).length, 2)
  })

  it('a write too large for the disk does not refuse the writes it shared a commit with', async () => {
    await using journal = openJournal(dir, { maxBytes: 64 * 1_024 })
    const outcomes = await Promise.allSettled([journal.append('a', [new Uint8Array(8)]), journal.append('b', [new Uint8Array(200_000)]), journal.append('c', [new Uint8Array(8)])])
    assert.deepEqual(outcomes.map(outcome => outcome.status), ['fulfilled', 'rejected', 'fulfilled'])
    assert.deepEqual(await journal.streams(''), ['a', 'c'])
  })

  it('a file held by another process fails the write and changes nothing', async () => {
    await using journal = openJournal(dir)
    await journal.append('s', [new Uint8Array(1)])
    const other = new DatabaseSync(join(dir, 'journal.sqlite'))
    other.exec('BEGIN IMMEDIATE')
    await assert.rejects(journal.append('s', [new Uint8Array(1)]), hasCode('STORAGE_FAILED'))
    other.close()
    assert.equal((await journal.read('s')).length, 1)
  })

  it('nothing is acknowledged, nor read, before the disk has it, and what comes meanwhile shares the next sync', async () => {
    const syncs: (() => void)[] = []
    await using journal = openJournal(dir, { sync: (_, done) => void syncs.push(() => done(null)) })
    const told: string[] = []
    const first = journal.append('s', [new Uint8Array(1)]).then(() => told.push('first'))
    const begun = async (count: number): Promise<void> => {
      while (syncs.length < count) await new Promise(resolve => setImmediate(resolve))
    }
    await begun(1)
    const later = Promise.all(['a', 'b'].map(name => journal.append('s', [new Uint8Array(1)]).then(() => told.push(name))))
    const read = journal.read('s').then(entries => told.push(`${entries.length} read`))
    for (let turn = 0; turn < 5; turn++) await new Promise(resolve => setImmediate(resolve))
    assert.deepEqual(told, [])
    syncs[0]?.()
    await begun(2)
    assert.deepEqual(told, ['first'])
    syncs[1]?.()
    await Promise.all([first, later, read])
    assert.deepEqual(told, ['first', 'a', 'b', '3 read'])
    assert.equal(syncs.length, 2)
  })

  it('a disk that did not take what it was given is trusted with nothing more, until the peer starts anew', async () => {
    await using journal = openJournal(dir, { sync: (_, done) => done(Object.assign(new Error('I/O error'), { code: 'EIO' })) })
    await assert.rejects(journal.append('s', [new Uint8Array(1)]), hasCode('STORAGE_FAILED'))
    await assert.rejects(journal.append('s', [new Uint8Array(1)]), hasCode('STORAGE_FAILED'))
    await assert.rejects(journal.read('s'), hasCode('STORAGE_FAILED'))
    await using other = openJournal(dir)
    await other.append('t', [new Uint8Array(1)])
    assert.equal((await other.read('t')).length, 1)
  })

  it('a file that is not a journal is refused by name', () => {
    writeFileSync(join(dir, 'journal.sqlite'), 'not a database, but long enough to have a header of some kind'.repeat(20))
    assert.throws(() => openJournal(dir), error => hasCode('STORAGE_FAILED')(error) && String(error).includes('journal.sqlite'))
  })

  it('kill -9 loses nothing acknowledged and leaves no gap', async function () {
    this.timeout(60_000)
    let acknowledged = 0
    for (let round = 0; round < 5; round++) {
      const writer = spawn(process.execPath, [join(import.meta.dirname, 'journal-writer.ts'), dir], { stdio: ['ignore', 'pipe', 'inherit'] })
      const closed = new Promise(resolve => writer.once('close', resolve))
      const enough = acknowledged + 100 + 37 * round
      let tail = ''
      for await (const chunk of writer.stdout) {
        tail += String(chunk)
        const lines = tail.split('\n')
        tail = lines.pop()!
        for (const line of lines) acknowledged = Number(line)
        if (acknowledged >= enough) writer.kill('SIGKILL')
      }
      await closed
      await using journal = openJournal(dir)
      const entries = await journal.read('count')
      assert.ok(entries.length >= acknowledged, `${entries.length} entries survive of ${acknowledged} acknowledged`)
      entries.forEach((entry, index) => assert.equal(new DataView(entry.buffer, entry.byteOffset).getUint32(0), index))
      assert.ok(acknowledged >= enough)
    }
  })
})

journalConformance('SQLite', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'journal-'))
  let journal = openJournal(dir)
  return {
    journal,
    async reopen() {
      await journal[Symbol.asyncDispose]()
      journal = openJournal(dir)
      return journal
    },
    async close() {
      await journal[Symbol.asyncDispose]()
      rmSync(dir, { recursive: true, force: true })
    },
  }
})
