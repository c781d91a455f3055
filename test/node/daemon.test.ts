import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openIdentity } from '../../node/adapters/identity.ts'
import { FolderLock } from '../../node/adapters/folder-lock.ts'
import { openJournal } from '../../node/adapters/journal.ts'
import { SystemRandom } from '../../node/adapters/system.ts'
import { up, type UpOptions } from '../../node/daemon.ts'
import { encode } from '../../protocols/codec.ts'
import { foundNetwork } from '../../src/trust/invitation.ts'

describe('a daemon', () => {
  let dir: string
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-daemon-'))
  })
  afterEach(() => rm(dir, { recursive: true, force: true }))
  const options = (): UpOptions => ({
    dataDir: dir, listen: ['/ip4/127.0.0.1/tcp/0'], http: '127.0.0.1:0', grpc: '127.0.0.1:0', oci: '127.0.0.1:0', join: undefined, labels: {}, networkName: 'mesh',
    mdns: false, upnp: false, relay: false, isolation: 'L0', containers: 'none', external: [], json: true,
  })

  it('whose key was lost is not started under a new one, which no member knows', async () => {
    const lost = openIdentity(join(dir, 'lost.key'))
    const journal = openJournal(dir)
    await journal.set('membership', encode(foundNetwork(lost, new SystemRandom(), 'mesh', Date.now())))
    await journal[Symbol.asyncDispose]()
    await assert.rejects(up(options()), (error: Error & { code?: string }) => error.code === 'BAD_INPUT' && error.message.includes(`belongs to ${lost.peer}`) && /restore peer\.key/.test(error.message))
    assert.equal(FolderLock.isHeld(dir), false)
  })

  it('is not started on a folder that another process has', async () => {
    using held = FolderLock.take(dir)
    assert.ok(held)
    await assert.rejects(up(options()), { code: 'ALREADY_EXISTS', message: /already runs on/ })
    assert.equal(FolderLock.isHeld(dir), true)
  })
})
