import assert from 'node:assert/strict'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { Ed25519Identity, openIdentity } from '../../node/adapters/identity.ts'
import { SystemClock, SystemRandom } from '../../node/adapters/system.ts'
import { clockConformance, randomConformance } from '../conformance/clock.ts'
import { identityConformance } from '../conformance/identity.ts'

const seed = (fill: number): Uint8Array => new Uint8Array(32).fill(fill)

clockConformance('system', async () => ({ clock: new SystemClock(), close: async () => undefined }))
randomConformance('system', () => new SystemRandom(), false)
randomConformance('seeded', () => new SystemRandom(seed(3).subarray(0, 16)), true)
identityConformance('Ed25519', () => ({ mine: new Ed25519Identity(seed(1)), theirs: new Ed25519Identity(seed(2)) }))

describe('the key file', () => {
  let dir: string
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-key-'))
  })
  afterEach(() => rm(dir, { recursive: true, force: true }))

  it('is made once, readable by its owner only, and gives the same name again', async () => {
    const path = join(dir, 'deep', 'key')
    const first = openIdentity(path)
    assert.equal((await stat(path)).mode & 0o777, 0o600)
    assert.equal(openIdentity(path).peer, first.peer)
  })

  it('names the peer as libp2p does', () => {
    const identity = openIdentity(join(dir, 'key'))
    assert.equal(peerIdFromPrivateKey(identity.toLibp2p()).toString(), identity.peer)
    assert.match(identity.peer, /^12D3KooW/)
  })

  it('a damaged file is refused with its path, and not replaced', async () => {
    const path = join(dir, 'key')
    await writeFile(path, 'short')
    assert.throws(() => openIdentity(path), (error: Error) => error.message.includes(path) && /damaged/.test(error.message))
    assert.equal((await stat(path)).size, 5)
  })
})
