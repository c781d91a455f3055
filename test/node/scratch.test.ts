import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { makeScratch, sweepDeadScratch } from '../../node/adapters/scratch.ts'

const HOURS_MS = 7_200_000

describe('folders for a moment', () => {
  it('are taken away once the process that made them was killed, never while it lives or may still begin', async () => {
    const root = mkdtempSync(join(tmpdir(), 'aios-moments-'))
    const child = spawn(process.execPath, ['-e', 'console.log("up"); setInterval(() => 0, 1000)'], { stdio: ['ignore', 'pipe', 'inherit'] })
    try {
      await once(child.stdout, 'data')
      const other = `aios-probe-${child.pid}-abcdef`
      const mine = makeScratch('policy')
      for (const name of [basename(mine), other, 'aios-auth-nobody', 'something-else']) mkdirSync(join(root, name))
      rmSync(mine, { recursive: true })
      assert.ok(!existsSync(mine))

      assert.equal(await sweepDeadScratch(Date.now() + HOURS_MS, root), 0, 'both live')
      child.kill('SIGKILL')
      await once(child, 'close')
      assert.equal(await sweepDeadScratch(Date.now(), root), 0, 'too young to be judged')
      assert.equal(await sweepDeadScratch(Date.now() + HOURS_MS, root), 1)
      assert.deepEqual(readdirSync(root).sort(), ['aios-auth-nobody', basename(mine), 'something-else'].sort())
    } finally {
      child.kill('SIGKILL')
      rmSync(root, { recursive: true, force: true })
    }
  })
})
