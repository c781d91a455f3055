import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openView } from '../../node/adapters/registry/sqlite-view.ts'
import { MemoryView } from '../../src/registries/view.ts'

describe('kill -9 of a peer that writes registries', function () {
  this.timeout(60_000)
  let dir: string
  beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'registry-kill-'))))
  afterEach(() => rmSync(dir, { recursive: true, force: true }))

  it('loses no acknowledged record, none of what the log still has to take, and leaves true digests', async () => {
    const key = join(dir, 'key.pem')
    writeFileSync(key, generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }))
    let acknowledged = 0
    for (let round = 0; round < 3; round++) {
      const writer = spawn(process.execPath, [join(import.meta.dirname, 'kill-writer.ts'), dir, key], { stdio: ['ignore', 'pipe', 'inherit'] })
      const closed = new Promise(resolve => writer.once('close', resolve))
      const enough = acknowledged + 100 + 35 * round
      let tail = ''
      for await (const chunk of writer.stdout) {
        const lines = (tail + String(chunk)).split('\n')
        tail = lines.pop()!
        for (const line of lines) acknowledged = Number(line)
        if (acknowledged >= enough) writer.kill('SIGKILL')
      }
      await closed
      assert.ok(acknowledged >= enough, `only ${acknowledged} were acknowledged`)
      using view = openView(dir, { outbox: true })
      for (let n = 0; n < acknowledged; n++) assert.ok(view.get('components', `k${n}`) !== undefined, `k${n} was acknowledged and is gone`)
      assert.equal(view.outbox(0, 100_000).length, view.count())
      const memory = new MemoryView()
      memory.merge(view.list('components', ''))
      assert.deepEqual(view.digests(), memory.digests())
    }
  })
})
