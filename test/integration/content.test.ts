import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
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

  it('a copy that was let go is removed, but for what others share, what is read, what is wanted again and what was made here', async () => {
    const a = await start()
    const dir = await folder()
    const b = await start({ dir, graceMs: 0 })
    await connect(b, a)
    const [one, two] = [sample(6 * LEAF, 21), sample(6 * LEAF, 22)]
    // The second half of one is the first of the other.
    two.set(one.subarray(3 * LEAF), 0)
    const [first, second, small] = [await a.store!.content.add(whole(one)), await a.store!.content.add(whole(two)), await a.store!.content.add(whole(sample(5_000, 23)))]
    const { content } = b.store!
    for (const { cid } of [first, second, small]) {
      await content.fetch(cid)
      await content.pin(cid)
    }
    const before = await diskBytes(b)
    await content.unpin(first.cid)
    await until(() => content.reclaimed().letGo === 0)
    assert.equal(await content.has(first.cid), false)
    assert.deepEqual(await read(b, second.cid), two)
    const freed = content.reclaimed().freedBytes
    assert.ok(freed >= 3 * LEAF && freed < 3 * LEAF + 4_096, `${freed} bytes`)
    assert.equal(before - await diskBytes(b), freed)
    assert.equal(b.tally.counts.get('content_freed_bytes_total'), freed)

    // A reader keeps what he reads; it is removed when he has left.
    const reader = content.cat(second.cid)[Symbol.asyncIterator]()
    await reader.next()
    await content.unpin(second.cid)
    await content.unpin(small.cid)
    for (let piece = await reader.next(), at = LEAF; piece.done !== true; piece = await reader.next(), at += LEAF) assert.deepEqual(new Uint8Array(piece.value), two.slice(at, at + LEAF))
    await until(() => content.reclaimed().letGo === 0)
    assert.deepEqual([await content.has(second.cid), await content.has(small.cid)], [false, false])
    assert.equal(await diskBytes(b), before - content.reclaimed().freedBytes)

    // It can be had again, and what was made here is never taken for a copy.
    await content.fetch(first.cid)
    assert.deepEqual(await read(b, first.cid), one)
    await content.pin(first.cid)
    const made = await content.add(whole(one))
    assert.equal(made.cid, first.cid)
    await content.unpin(first.cid)
    assert.equal(content.reclaimed().letGo, 0)
    assert.equal(await content.has(first.cid), true)
  })

  it('a removal that was interrupted goes on, and what is pinned again stays', async () => {
    const a = await start()
    const dir = await folder()
    const { cid } = await a.store!.content.add(whole(sample(6 * LEAF, 31)))
    const again = await a.store!.content.add(whole(sample(6 * LEAF, 32)))
    const b = await startNode({ content: true, dir })
    await connect(b, a)
    for (const root of [cid, again.cid]) {
      await b.store!.content.fetch(root)
      await b.store!.content.pin(root)
      await b.store!.content.unpin(root)
    }
    await b.store!.content.pin(again.cid)
    await b.close()
    // It stopped after its first word and some leaves.
    await rm(join(dir, 'whole', cid))
    const leaves = [1, 4].map(at => sample(6 * LEAF, 31).subarray(at * LEAF, (at + 1) * LEAF))
    for (const part of await readdir(join(dir, 'blocks'))) {
      for (const name of await readdir(join(dir, 'blocks', part))) {
        const path = join(dir, 'blocks', part, name)
        const bytes = await readFile(path)
        if (leaves.some(leaf => bytes.equals(leaf))) await rm(path)
      }
    }
    const back = await start({ dir, graceMs: 0 })
    assert.equal(await back.store!.content.has(cid), false)
    await until(() => back.store!.content.reclaimed().letGo === 0)
    const { freedBytes } = back.store!.content.reclaimed()
    assert.ok(freedBytes >= 4 * LEAF && freedBytes < 4 * LEAF + 4_096, `${freedBytes} bytes`)
    assert.deepEqual(await read(back, again.cid), sample(6 * LEAF, 32))
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

async function diskBytes(node: NodeUnderTest): Promise<number> {
  let bytes = 0
  const root = join(node.dir, 'blocks')
  for (const dir of await readdir(root)) for (const name of await readdir(join(root, dir))) bytes += (await stat(join(root, dir, name))).size
  return bytes
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
