import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LANE_FOLDER, sweepDeadLanes } from '../../node/adapters/network/dead-lanes.ts'

const A_WHILE_MS = 120_000

describe('the sockets between daemons of one host', () => {
  it('are taken away once their daemon was killed, never while it lives or has just begun', async () => {
    const root = mkdtempSync(join(tmpdir(), 'aios-lanes-'))
    const folder = (name: string): string => {
      const path = join(root, `${LANE_FOLDER}${name}`)
      mkdirSync(path, { mode: 0o700 })
      return path
    }
    const alive = createServer()
    try {
      alive.listen(join(folder('alive'), 's'))
      await once(alive, 'listening')
      const killed = join(folder('killed'), 's')
      const child = spawn(process.execPath, ['-e', 'require("net").createServer().listen(process.argv[1], () => console.log("up"))', killed], { stdio: ['ignore', 'pipe', 'inherit'] })
      await once(child.stdout, 'data')
      child.kill('SIGKILL')
      await once(child, 'close')
      folder('empty')
      mkdirSync(join(root, 'something-else'))

      assert.equal(await sweepDeadLanes(Date.now(), root), 0, 'what has just been made may belong to one that starts')
      assert.equal(await sweepDeadLanes(Date.now() + A_WHILE_MS, root), 2)
      assert.deepEqual(readdirSync(root).sort(), [`${LANE_FOLDER}alive`, 'something-else'])
    } finally {
      alive.close()
      rmSync(root, { recursive: true, force: true })
    }
  })
})
