import * as dagCbor from '@ipld/dag-cbor'
import { createOrbitDB, type LogEntry, type OrbitDB } from '@orbitdb/core'
import assert from 'node:assert/strict'
import { base58btc } from 'multiformats/bases/base58'
import { CID } from 'multiformats/cid'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { LogSegment, packEntries, type SegmentTold } from '../../node/adapters/registry/log-segment.ts'
import { openView } from '../../node/adapters/registry/sqlite-view.ts'
import { createRegistryStore, type RegistryHandle } from '../../node/adapters/registry/store.ts'
import { encode } from '../../protocols/codec.ts'
import { MeshError, granted } from '../../protocols/errors.ts'
import { registryLog, registryLogTopic } from '../../protocols/registry.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { Identity } from '../../src/ports.ts'
import { Registries } from '../../src/registries/store.ts'
import { makeIdentity } from '../registries/ed25519.ts'
import { Loopback, realClock, realRandom, recording, until, type Recorded } from '../registries/loopback.ts'
import { startHelia, type SmallHelia } from './registry-helia.ts'

const named = z.object({ name: z.string() })
/** Rounds of 10 s take half a second. */
const PACE = 20

describe('registry logs over OrbitDB', function () {
  this.timeout(60_000)
  let base: string
  let one: SmallHelia
  let two: SmallHelia
  const stops: (() => Promise<void>)[] = []
  const seen: Recorded[] = []

  beforeEach(async () => {
    base = mkdtempSync(join(tmpdir(), 'registry-logs-'))
    one = await startHelia(join(base, 'helia-1'))
    two = await startHelia(join(base, 'helia-2'))
    await two.libp2p.dial(one.libp2p.getMultiaddrs())
  })
  afterEach(async function () {
    if (this.currentTest?.state === 'failed') for (const telemetry of seen) console.log(telemetry.counts, telemetry.events)
    seen.length = 0
    for (const stop of stops.splice(0).toReversed()) await stop()
    await Promise.all([one.stop(), two.stop()])
    rmSync(base, { recursive: true, force: true })
  })

  /** Only announcements of logs pass between the stores: records must come through OrbitDB or not at all. */
  function logsOnly(): Loopback {
    const net = new Loopback()
    net.gossip = topic => topic === registryLogTopic.id
    net.answering = () => {
      throw new MeshError('PEER_UNREACHABLE', 'no requests here')
    }
    return net
  }

  async function start(net: Loopback, name: string, helia: SmallHelia, options: { identity?: Identity; segmentEntries?: number } = {}): Promise<{ handle: RegistryHandle; telemetry: Recorded }> {
    const identity = options.identity ?? makeIdentity()
    const telemetry = recording()
    seen.push(telemetry)
    const handle = createRegistryStore({ dir: join(base, name), networkId: 'net', network: net.join(identity.peer), identity, clock: realClock(PACE), random: realRandom, telemetry, mayWrite: () => granted(true), helia, ...(options.segmentEntries === undefined ? {} : { segmentEntries: options.segmentEntries }) })
    await handle.start()
    stops.push(() => handle.stop())
    return { handle, telemetry }
  }

  const has = (handle: RegistryHandle, key: string) => async (): Promise<boolean> => (await handle.store.open('components', named).get(key)) !== undefined

  it('a record reaches another peer through its writer\'s log, whatever its key is called', async () => {
    const net = logsOnly()
    const [a, b] = [await start(net, 'a', one), await start(net, 'b', two)]
    const keys = ['plain', 'constructor', '__proto__', 'toString']
    for (const key of keys) await a.handle.store.open('components', named).put(key, { name: key })
    for (const key of keys) await until(has(b.handle, key))
    await b.handle.store.open('components', named).put('back', { name: 'b' })
    await until(has(a.handle, 'back'))
    assert.deepEqual(b.handle.status().writers.length, 1)
    await until(() => a.handle.status().logs?.outbox === 0)
  })

  it('defect 1, heads are sent unframed: the largest values still reach a peer that joins later', async () => {
    const net = logsOnly()
    const a = await start(net, 'a', one)
    for (const key of ['x', 'y', 'z']) await a.handle.store.open('components', named).put(key, { name: key.repeat(24_000) })
    await until(() => a.handle.status().logs?.outbox === 0)
    const b = await start(net, 'b', two)
    for (const key of ['x', 'y', 'z']) await until(has(b.handle, key))
    const record = (bytes: number): Signed => ({ domain: 'registry', payload: new Uint8Array(bytes), signer: 'p'.repeat(52), signature: new Uint8Array(64) })
    const packed = packEntries([...Array.from({ length: 700 }, () => record(40)), ...Array.from({ length: 9 }, () => record(27_000))])
    assert.equal(packed.reduce((sum, entry) => sum + entry.count, 0), 709)
    for (const { value } of packed) assert.ok(value.byteLength < 60_000, `an entry of ${value.byteLength} bytes`)
  })

  it('defect 2, an error without a listener ends the process: garbage on a log\'s topic is counted and nothing else', async () => {
    const net = logsOnly()
    const [a, b] = [await start(net, 'a', one), await start(net, 'b', two)]
    const address = a.handle.status().logs?.address
    assert.ok(address !== undefined)
    await until(() => b.handle.status().logs?.open === 1)
    await until(() => two.libp2p.services.pubsub.getSubscribers(address).length > 0)
    for (const junk of [Uint8Array.of(1, 2, 3), new Uint8Array(0), dagCbor.encode({ identity: 7 })]) await two.libp2p.services.pubsub.publish(address, junk)
    await until(() => (a.handle.status().logs?.failures ?? 0) > 0)
    await a.handle.store.open('components', named).put('after', { name: 'a' })
    await until(has(b.handle, 'after'))
  })

  it('defect 3, a lost update is never repaired: heads that are announced again bring it', async () => {
    const net = logsOnly()
    const [a, b] = [await start(net, 'a', one), await start(net, 'b', two)]
    const registry = a.handle.store.open('components', named)
    await registry.put('first', { name: 'a' })
    await until(has(b.handle, 'first'))
    const { pubsub } = one.libp2p.services
    const publish = pubsub.publish
    pubsub.publish = async () => ({ recipients: [] })
    await registry.put('lost', { name: 'a' })
    await until(() => a.handle.status().logs?.outbox === 0)
    pubsub.publish = publish
    await until(has(b.handle, 'lost'))
  })

  it('a full segment is followed by the next, and readers move on', async () => {
    const net = logsOnly()
    // A disk that takes its time: the log is announced while the next segment is being made.
    const { blockstore } = one
    const put = blockstore.put.bind(blockstore)
    blockstore.put = async (...block) => {
      await new Promise(resolve => setTimeout(resolve, 100))
      return put(...block)
    }
    const told = new Map<string, string>()
    net.join('listener').subscribe(registryLogTopic, ({ payload }) => {
      const { writer, segment, address } = registryLog.parse(dagCbor.decode(payload))
      const log = `segment ${segment} of ${writer}`
      assert.equal(told.get(log) ?? address, address, `${log} has two addresses`)
      told.set(log, address)
    })
    const a = await start(net, 'a', one, { segmentEntries: 3 })
    const first = a.handle.status().logs?.address
    const b = await start(net, 'b', two, { segmentEntries: 3 })
    for (let i = 0; i < 8; i++) {
      await a.handle.store.open('components', named).put(`k${i}`, { name: 'a' })
      await until(() => a.handle.status().logs?.outbox === 0)
    }
    assert.equal(a.handle.status().logs?.segment, 2)
    assert.notEqual(a.handle.status().logs?.address, first)
    await until(has(b.handle, 'k7'))
    assert.ok((a.handle.status().logs?.entries ?? 9) <= 3)
  })

  it('a record that was durable before its log took it goes into the log after a restart', async () => {
    const net = logsOnly()
    const identity = makeIdentity()
    {
      // As after kill -9 between the two: in the view and the outbox, in no log.
      using view = openView(join(base, 'a'), { outbox: true })
      const store = new Registries(view, { identity, mayWrite: () => granted(true), networkId: 'net' }, { clock: realClock(), telemetry: recording() })
      await store.open('components', named).put('early', { name: 'a' })
      assert.equal(view.outbox(0, 10).length, 1)
    }
    const a = await start(net, 'a', one, { identity })
    const b = await start(net, 'b', two)
    await until(has(b.handle, 'early'))
    assert.equal(a.handle.status().logs?.outbox, 0)
  })

  it('a writer that restarts goes on in the segment it had', async () => {
    const net = logsOnly()
    const identity = makeIdentity()
    const a = await start(net, 'a', one, { identity })
    await a.handle.store.open('components', named).put('before', { name: 'a' })
    await until(() => a.handle.status().logs?.outbox === 0)
    const { address } = a.handle.status().logs!
    await stops.pop()!()
    const again = await start(net, 'a', one, { identity })
    assert.equal(again.handle.status().logs?.address, address)
    assert.equal(again.handle.status().logs?.entries, 1)
  })

  describe('one segment', () => {
    async function orbit(name: string, helia: SmallHelia): Promise<OrbitDB> {
      const orbitdb = await createOrbitDB({ ipfs: helia, id: name, directory: join(base, name) })
      stops.push(() => orbitdb.stop())
      return orbitdb
    }

    function listener(): SegmentTold & { readonly heard: string[]; readonly failures: { readonly what: string; readonly error: MeshError }[] } {
      const heard: string[] = []
      const failures: { readonly what: string; readonly error: MeshError }[] = []
      return { heard, failures, records: records => void heard.push(...records.map(record => record.signer)), failed: (what, error) => void failures.push({ what, error }) }
    }

    const entryOf = (signer: string): Uint8Array => encode({ records: [{ domain: 'registry', payload: Uint8Array.of(1), signer: `signer-${signer}`, signature: Uint8Array.of(2) }] })

    it('defect 4, `documents` ignores encryption: a log that is not an event log is refused', async () => {
      const [writer, reader] = [await orbit('w', one), await orbit('r', two)]
      const own = await LogSegment.openOwn('log', { orbitdb: writer, helia: one, told: listener() })
      const documents = await writer.open('documents', { type: 'documents', meta: { identity: writer.identity.hash } })
      assert.equal((await writer.open(own.address)).type, 'events')
      await assert.rejects(LogSegment.openTheirs(documents.address, { orbitdb: reader, helia: two, told: listener() }, AbortSignal.timeout(10_000)), error => error instanceof MeshError && error.code === 'MESSAGE_INVALID')
    })

    it('defects 5 and 6, one update stands for many entries and odd keys vanish: every entry below a head is read, in order, once', async () => {
      const [writer, reader] = [await orbit('w', one), await orbit('r', two)]
      const own = await LogSegment.openOwn('log', { orbitdb: writer, helia: one, told: listener() })
      const names = Array.from({ length: 20 }, (_, i) => (i === 7 ? 'constructor' : i === 8 ? '__proto__' : `${i}`.padStart(3, '0')))
      for (const name of names) await own.append(entryOf(name))
      const told = listener()
      await LogSegment.openTheirs(own.address, { orbitdb: reader, helia: two, told }, AbortSignal.timeout(10_000))
      await until(() => told.heard.length >= names.length)
      await own.append(entryOf('last'))
      await own.reannounce()
      await until(() => told.heard.includes('signer-last'))
      assert.deepEqual(told.heard, [...names, 'last'].map(name => `signer-${name}`))
    })

    it('defect 7, failed joins are printed and dropped: a stranger\'s and a changed entry are told as failures, and nothing is printed', async () => {
      const [writer, reader] = [await orbit('w', one), await orbit('r', two)]
      const own = await LogSegment.openOwn('log', { orbitdb: writer, helia: one, told: listener() })
      await own.append(entryOf('true'))
      const told = listener()
      await LogSegment.openTheirs(own.address, { orbitdb: reader, helia: two, told }, AbortSignal.timeout(10_000))
      await until(() => told.heard.length === 1)
      const database = await writer.open(own.address)
      const [head] = await database.log.heads()
      assert.ok(head !== undefined)
      const { hash: _, ...entry } = head
      const forge = async (changed: Partial<LogEntry>): Promise<void> => void (await one.libp2p.services.pubsub.publish(own.address, dagCbor.encode({ ...entry, ...changed })))
      const print = console.error
      const printed: unknown[] = []
      console.error = (...said: unknown[]) => void printed.push(said)
      try {
        await forge({ identity: `${entry.identity.slice(0, -1)}x` })
        await until(() => told.failures.some(({ what, error }) => what === 'join' && /somebody else/.test(error.message)))
        await forge({ payload: { op: 'ADD', key: null, value: entryOf('forged') } })
        await until(() => told.failures.some(({ what, error }) => what === 'join' && /signature/.test(error.message)))
      } finally {
        console.error = print
      }
      assert.deepEqual(printed, [])
      assert.deepEqual(told.heard, ['signer-true'])
    })

    it('one whose writer left while it was being opened is given up as soon as nobody wants it, not when its last block is', async function () {
      this.timeout(10_000)
      const [writer, reader] = [await orbit('w', one), await orbit('r', two)]
      const own = await LogSegment.openOwn('log', { orbitdb: writer, helia: one, told: listener() })
      // The manifest has come, and what it names (who may write) never will.
      const manifest = CID.parse(own.address.slice('/orbitdb/'.length), base58btc)
      const parts: Uint8Array[] = []
      for await (const part of one.blockstore.get(manifest)) parts.push(part)
      await two.blockstore.put(manifest, Buffer.concat(parts))
      await own.close()
      await two.libp2p.hangUp(one.libp2p.peerId)
      await one.libp2p.stop()
      const asked: string[] = []
      const get = two.blockstore.get.bind(two.blockstore)
      two.blockstore.get = (cid, options) => {
        asked.push(cid.toString())
        return get(cid, options)
      }
      const stopping = new AbortController()
      const opening = LogSegment.openTheirs(own.address, { orbitdb: reader, helia: two, told: listener() }, stopping.signal)
      const given = assert.rejects(opening, { code: 'CONTENT_UNAVAILABLE', message: /stopping/ })
      await until(() => asked.some(cid => cid !== manifest.toString()))
      stopping.abort(new MeshError('CANCELLED', 'this peer is stopping'))
      await given
    })

    it('a log that never ends is left at twice the length of a segment', async () => {
      const [writer, reader] = [await orbit('w', one), await orbit('r', two)]
      const own = await LogSegment.openOwn('log', { orbitdb: writer, helia: one, told: listener() })
      for (let i = 0; i < 40; i++) await own.append(entryOf(`${i}`))
      const told = listener()
      await LogSegment.openTheirs(own.address, { orbitdb: reader, helia: two, told, limit: 4 }, AbortSignal.timeout(10_000))
      await until(() => told.failures.length > 0)
      assert.ok(told.heard.length <= 8)
      assert.equal(told.failures[0]?.error.code, 'MESSAGE_TOO_LARGE')
    })
  })
})
