import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { contentConformance, sample } from '../conformance/content.ts'
import { connect, type NodeUnderTest, startNode, until } from './node-under-test.ts'

const LEAF = 1_048_576

contentConformance('files and block streams', async () => {
  const [mine, theirs] = [await startNode({ content: true }), await startNode({ content: true })]
  await connect(mine, theirs)
  return {
    mine: mine.store!.content,
    theirs: theirs.store!.content,
    short: () => mine.clock.deadline(500),
    close: async () => {
      await Promise.all([mine.close(), theirs.close()])
    },
  }
})

describe('content between real nodes', () => {
  const nodes: NodeUnderTest[] = []
  const dirs: string[] = []
  const start = async (options: Parameters<typeof startNode>[0] = {}): Promise<NodeUnderTest> => {
    const node = await startNode({ content: true, ...options })
    nodes.push(node)
    return node
  }
  const folder = async (): Promise<string> => {
    const dir = await mkdtemp(join(tmpdir(), 'aios-content-'))
    dirs.push(dir)
    return dir
  }
  afterEach(async () => {
    await Promise.all(nodes.splice(0).map(node => node.close()))
    await Promise.all(dirs.splice(0).map(dir => rm(dir, { recursive: true, force: true })))
  })
  const served = (node: NodeUnderTest): number => node.tally.counts.get('content_served_bytes_total') ?? 0

  it('a file comes from every holder at once', async () => {
    const [a, b, c] = [await start(), await start(), await start()]
    const { cid } = await a.store!.content.add(whole(sample(24 * LEAF)))
    await connect(b, a)
    await b.store!.content.fetch(cid)
    await connect(c, a)
    await connect(c, b)
    const [before, bBefore] = [served(a), served(b)]
    let most = 0
    await c.store!.content.fetch(cid, { progress: ({ holders }) => (most = Math.max(most, holders)) })
    assert.ok(served(a) - before >= 4 * LEAF && served(b) - bBefore >= 4 * LEAF, `${served(a) - before} and ${served(b) - bBefore} bytes`)
    assert.equal(most, 2)
  })

  it('a holder that sends other bytes is left, counted, and the file is still right', async () => {
    const [a, liar, c] = [await start(), await start(), await start()]
    const file = sample(12 * LEAF, 5)
    const { cid } = await a.store!.content.add(whole(file))
    await connect(liar, a)
    await liar.store!.content.fetch(cid)
    await spoil(liar, LEAF)
    await connect(c, a)
    await connect(c, liar)
    await c.store!.content.fetch(cid)
    assert.equal(c.tally.counts.get('content_corrupt_total'), 1)
    assert.deepEqual(await read(c, cid), file)
  })

  it('when every holder lies nothing is stored as whole', async () => {
    const [liar, c] = [await start(), await start()]
    const { cid } = await liar.store!.content.add(whole(sample(4 * LEAF, 6)))
    await spoil(liar, LEAF)
    await connect(c, liar)
    await assert.rejects(c.store!.content.fetch(cid), { code: 'CONTENT_CORRUPT' })
    assert.equal(await c.store!.content.has(cid), false)
  })

  it('a block that was damaged on the disk is noticed and fetched again', async () => {
    const [a, b] = [await start(), await start()]
    const file = sample(3 * LEAF, 8)
    const { cid } = await a.store!.content.add(whole(file))
    await connect(b, a)
    await b.store!.content.fetch(cid)
    await spoil(b, LEAF)
    assert.deepEqual(await read(b, cid), file)
  })

  it('a fetch that was killed goes on where it was', async () => {
    const a = await start()
    const blocks = 60
    const { cid } = await a.store!.content.add(whole(sample(blocks * LEAF, 2)))
    const dir = await folder()
    const child = spawn(process.execPath, [fileURLToPath(new URL('fetcher.ts', import.meta.url)), dir, a.network.addresses()[0]!, cid], { stdio: ['ignore', 'pipe', 'inherit'] })
    let done = 0
    for await (const line of createInterface(child.stdout)) {
      done = Number(line)
      if (done >= 10 * LEAF) break
    }
    child.kill('SIGKILL')
    await until(() => child.signalCode !== null && a.network.peers().length === 0)
    assert.ok(done < blocks * LEAF, 'it was killed before it was done')
    const before = served(a)
    const again = await start({ dir })
    assert.equal(await again.store!.content.has(cid), false)
    await connect(again, a)
    await again.store!.content.fetch(cid)
    assert.equal(await again.store!.content.has(cid), true)
    assert.ok(served(a) - before <= (blocks - 9) * LEAF, `${(served(a) - before) / LEAF} blocks were sent again`)
  })

  it('a disk without room refuses with its code and stores nothing', async () => {
    const [a, b] = [await start(), await start({ reserveBytes: Number.MAX_SAFE_INTEGER })]
    const { cid } = await a.store!.content.add(whole(sample(3 * LEAF, 4)))
    await connect(b, a)
    await assert.rejects(b.store!.content.fetch(cid), { code: 'STORAGE_FULL' })
    assert.equal(await b.store!.content.has(cid), false)
    await assert.rejects(b.store!.content.add(whole(sample(10))), { code: 'STORAGE_FULL' })
  })

  it('a peer that left in the middle is replaced by one that is said to hold it', async () => {
    const [a, b] = [await start(), await start()]
    const file = sample(6 * LEAF, 11)
    const { cid } = await a.store!.content.add(whole(file))
    const c = await start({ findHolders: async () => [a.network.self] })
    await connect(b, a)
    await c.network.dial(b.network.addresses(), c.clock.deadline(5_000))
    // Not connected to its holder: the peer store and the DHT know where it is.
    await c.libp2p.peerStore.merge(a.libp2p.peerId, { multiaddrs: a.libp2p.getMultiaddrs() })
    await c.store!.content.fetch(cid)
    assert.deepEqual(await read(c, cid), file)
  })
})

async function * whole(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += LEAF) yield bytes.subarray(at, at + LEAF)
}

async function read(node: NodeUnderTest, cid: string): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  for await (const part of node.store!.content.cat(cid)) parts.push(part)
  return new Uint8Array(Buffer.concat(parts))
}

/** Overwrites every block of this size on a node's disk with other bytes. */
async function spoil(node: NodeUnderTest, size: number): Promise<void> {
  const root = join(node.dir, 'blocks')
  for (const dir of await readdir(root)) {
    for (const name of await readdir(join(root, dir))) {
      const path = join(root, dir, name)
      if ((await stat(path)).size === size) await writeFile(path, new Uint8Array(size))
    }
  }
}
