import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { FolderLock } from '../../node/adapters/folder-lock.ts'
import { createMachine } from '../../node/adapters/machine.ts'
import { detach, down } from '../../node/cli/detach.ts'

describe('the folder of a peer', () => {
  let dir: string
  let holder: ChildProcess | undefined
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-held-'))
  })
  afterEach(async () => {
    if (holder?.exitCode === null && holder.signalCode === null) holder.kill('SIGKILL')
    holder = undefined
    await rm(dir, { recursive: true, force: true })
  })
  const hold = async (folder: string): Promise<ChildProcess> => {
    holder = spawn(process.execPath, [join(import.meta.dirname, 'folder-holder.ts'), folder], { stdio: ['ignore', 'pipe', 'inherit'] })
    const [said] = await once(createInterface(holder.stdout!), 'line')
    assert.equal(said, 'true')
    return holder
  }

  it('is held by one process at a time, also after a rename, and let go by kill -9', async () => {
    const folder = join(dir, 'deep', 'peer')
    const process = await hold(folder)
    assert.deepEqual([FolderLock.isHeld(folder), FolderLock.take(folder)], [true, undefined])
    const moved = join(dir, 'moved')
    await rename(folder, moved)
    assert.deepEqual([FolderLock.isHeld(moved), FolderLock.isHeld(folder)], [true, false])
    process.kill('SIGKILL')
    await once(process, 'exit')
    assert.equal(FolderLock.isHeld(moved), false)
    using own = FolderLock.take(moved)
    assert.deepEqual([own !== undefined, FolderLock.isHeld(moved), (await stat(moved)).mode & 0o777], [true, true, 0o700])
  })

  it('that is a file is refused with its name', async () => {
    const file = join(dir, 'file')
    await writeFile(file, '')
    assert.throws(() => FolderLock.take(file), (error: Error & { code?: string }) => error.code === 'STORAGE_FAILED' && error.message.includes(file))
  })

  it('that can be nowhere is refused at once, with what to give instead', async () => {
    // Node's own recursive mkdir never comes back from there.
    const said = { code: 'BAD_INPUT', message: /no folder can be made at \/proc\/nowhere \(E\w+\): name one on a disk with --data DIR/ }
    assert.throws(() => FolderLock.take('/proc/nowhere/peer'), said)
    await assert.rejects(detach('/proc/nowhere'), said)
    assert.throws(() => createMachine({ dir: '/proc/nowhere' }), said)
    await writeFile(join(dir, 'file'), '')
    assert.throws(() => FolderLock.take(join(dir, 'file', 'peer')), { code: 'BAD_INPUT', message: /file\/peer \(ENOTDIR\)/ })
  })

  it('of one that was killed: whoever has its process number now is not stopped in its place', async () => {
    const stranger = spawn('sleep', ['60'])
    try {
      await writeFile(join(dir, 'daemon.json'), JSON.stringify({ http: 'http://127.0.0.1:1', token: 't', pid: stranger.pid, peer: 'p' }))
      await assert.rejects(down(dir), { code: 'PEER_UNREACHABLE', message: /killed/ })
      await new Promise(resolve => setImmediate(resolve))
      assert.deepEqual([stranger.exitCode, stranger.signalCode], [null, null])
    } finally {
      stranger.kill('SIGKILL')
    }
  })

  it('keeps what its peer has said when another is started on it', async () => {
    await hold(dir)
    await writeFile(join(dir, 'output.log'), 'ready')
    await assert.rejects(detach(dir), { code: 'ALREADY_EXISTS', message: /already runs/ })
    assert.equal(await readFile(join(dir, 'output.log'), 'utf8'), 'ready')
  })
})
