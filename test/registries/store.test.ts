import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { createRegistryStore, type RegistryHandle } from '../../node/adapters/registry/store.ts'
import { openView } from '../../node/adapters/registry/sqlite-view.ts'
import { decode, encode } from '../../protocols/codec.ts'
import { MeshError, granted, refused } from '../../protocols/errors.ts'
import { registryNews, registryPage, type RegistryName } from '../../protocols/registry.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { Clock, Identity } from '../../src/ports.ts'
import { RECORD_DOMAIN, checkRecord, type HeldRecord, type MayWrite } from '../../src/registries/record.ts'
import { RegistryReplica } from '../../src/registries/replica.ts'
import { Registries } from '../../src/registries/store.ts'
import { MemoryView, type RecordView } from '../../src/registries/view.ts'
import { seal } from '../../src/trust/seal.ts'
import { registryConformance } from '../conformance/registry.ts'
import { makeIdentity } from './ed25519.ts'
import { Loopback, realClock, realRandom, recording, until, type Recorded } from './loopback.ts'

const value = z.object({ n: z.number() })
/** Repairs every 200 ms or so instead of every 4 s. */
const PACE = 20

type Started = { readonly handle: RegistryHandle; readonly telemetry: Recorded; readonly dir: string; readonly identity: Identity }

describe('registries over SQLite', () => {
  const dirs: string[] = []
  const handles: RegistryHandle[] = []
  let net: Loopback
  beforeEach(() => (net = new Loopback()))
  afterEach(async () => {
    for (const handle of handles.splice(0)) await handle.stop()
    for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true })
  })

  async function start(options: { identity?: Identity; mayWrite?: MayWrite; dir?: string; seed?: readonly HeldRecord[]; clock?: Clock; maxBytes?: number } = {}): Promise<Started> {
    const identity = options.identity ?? makeIdentity()
    const dir = options.dir ?? mkdtempSync(join(tmpdir(), 'registry-'))
    dirs.push(dir)
    if (options.seed !== undefined) {
      using view = openView(dir, { outbox: false })
      view.merge(options.seed, 'remote')
    }
    const telemetry = recording()
    const handle = createRegistryStore({ dir, networkId: 'net', network: net.join(identity.peer), identity, clock: options.clock ?? realClock(PACE), random: realRandom, telemetry, mayWrite: options.mayWrite ?? (() => granted(true)), ...(options.maxBytes === undefined ? {} : { maxBytes: options.maxBytes }) })
    handles.push(handle)
    await handle.start()
    return { handle, telemetry, dir, identity }
  }

  /** Records as their writer would have made them, without a store. */
  function write(identity: Identity, count: number, registry: RegistryName = 'components'): HeldRecord[] {
    return Array.from({ length: count }, (_, n) => {
      const envelope = seal(identity, RECORD_DOMAIN, { registry, key: `key-${n}`, value: encode({ n }), writer: identity.peer, sequence: 0, issuedAt: 1_000 + n, network: 'net' })
      const verdict = checkRecord(envelope, { identity, mayWrite: () => granted(true), networkId: 'net' }, Date.now())
      assert.ok(verdict.ok)
      return verdict.value
    })
  }

  it('a fresh replica copies everything from several peers at once, and gives others a turn between slices', async () => {
    const records = write(makeIdentity(), 1_000)
    const holders = [await start({ seed: records }), await start({ seed: records }), await start({ seed: records })]
    net.requests.length = 0
    let turns = 0
    const clock = realClock(PACE)
    const fresh = await start({ clock: { ...clock, sleep: (duration, signal) => (turns++, clock.sleep(duration, signal)) } })
    await until(() => fresh.handle.status().synced)
    const registry = fresh.handle.store.open('components', value)
    assert.equal((await registry.list()).length, 1_000)
    assert.deepEqual((await registry.get('key-999'))?.value, { n: 999 })
    const asked = new Set(net.requests.filter(request => request.protocol === registryPage.id).map(request => request.to))
    assert.ok(holders.every(({ identity }) => asked.has(identity.peer)), 'every holder served a part')
    // Pages of a range hold 62 records or so, checked 32 at a time.
    assert.ok(turns >= 14, `checked 1,000 records with ${turns} turns for others`)
  })

  it('a peer that serves forged records is refused, counted and left for another', async () => {
    const records = write(makeIdentity(), 300)
    const liar = await start({ seed: records })
    const honest = await start({ seed: records })
    net.answering = (protocol, by, answer) => {
      if (protocol !== registryPage.id || by !== liar.identity.peer) return answer
      const page = decode(registryPage.response, answer, 1e7, 'page')
      return encode({ ...page, records: page.records.map(record => ({ ...record, signature: record.signature.toReversed() })) })
    }
    const fresh = await start()
    await until(() => fresh.handle.status().synced)
    assert.equal((await fresh.handle.store.open('components', value).list()).length, 300)
    assert.ok(fresh.handle.status().refused > 0)
    assert.ok(fresh.telemetry.events.some(event => event.name === 'registry.liar' && event.fields['peer'] === liar.identity.peer))
    assert.ok(!fresh.telemetry.events.some(event => event.name === 'registry.liar' && event.fields['peer'] === honest.identity.peer))
  })

  it('records of a writer without the right enter no view, whoever serves them, and the rest of the page does', async () => {
    const outsider = makeIdentity()
    const bad = write(outsider, 20)
    const good = write(makeIdentity(), 20, 'vdags')
    await start({ seed: [...bad, ...good] })
    const fresh = await start({ mayWrite: writer => (writer === outsider.peer ? refused('holds join but not publish') : granted(true)) })
    await until(() => fresh.handle.status().synced)
    assert.deepEqual(await fresh.handle.store.open('components', value).list(), [])
    assert.equal((await fresh.handle.store.open('vdags', value).list()).length, 20)
    assert.equal(fresh.handle.status().refused >= 20, true)
  })

  it('an update that everybody missed is found by digests, without another write', async () => {
    const [a, b] = [await start(), await start()]
    await until(() => a.handle.status().synced && b.handle.status().synced)
    net.gossip = topic => topic !== registryNews.id
    await a.handle.store.open('components', value).put('lost', { n: 1 })
    await until(async () => (await b.handle.store.open('components', value).get('lost')) !== undefined)
    assert.ok((b.telemetry.counts.get('registry_repaired_buckets_total') ?? 0) > 0)
  })

  it('news of a write reach others at once', async () => {
    const [a, b] = [await start(), await start()]
    await until(() => a.handle.status().synced && b.handle.status().synced)
    net.answering = () => {
      throw new MeshError('PEER_UNREACHABLE', 'no requests today')
    }
    await a.handle.store.open('components', value).put('now', { n: 1 })
    await until(async () => (await b.handle.store.open('components', value).get('now')) !== undefined)
  })

  it('the news of a few writes wait for nothing, those of many for the rate of the topic', async () => {
    const clock = realClock(PACE)
    const slept: number[] = []
    // Its time stands still, however long the writes take.
    const a = await start({ clock: { ...clock, monotonic: () => 5_000, sleep: (duration, signal) => (slept.push(duration), clock.sleep(duration, signal)) } })
    const b = await start()
    await until(() => a.handle.status().synced && b.handle.status().synced)
    let told = 0
    net.gossip = topic => topic !== registryNews.id || (told += 1) > 0
    const registry = a.handle.store.open('components', value)
    slept.length = 0
    for (let n = 0; n < 8; n += 1) await registry.put(`few-${n}`, { n })
    await until(() => told === 8)
    assert.deepEqual(slept.filter(ms => ms > 0), [])
    for (let n = 0; n < 8; n += 1) await registry.put(`more-${n}`, { n })
    await until(async () => (await b.handle.store.open('components', value).get('more-7')) !== undefined)
    assert.ok(slept.some(ms => ms > 0), 'a burst is followed by waits')
    assert.ok(told < 16, 'what was written meanwhile went together')
  })

  it('news that come before the proof of their writer\'s rights count when the proof has come, without asking anybody', async () => {
    const a = await start()
    let proved = false
    const b = await start({ mayWrite: writer => (writer === a.identity.peer && !proved ? refused('it has not proved membership', true) : granted(true)) })
    await until(() => a.handle.status().synced && b.handle.status().synced)
    net.answering = () => {
      throw new MeshError('PEER_UNREACHABLE', 'no requests today')
    }
    const heard: unknown[] = []
    const registry = b.handle.store.open('components', value)
    registry.onChange(key => heard.push(key))
    await a.handle.store.open('components', value).put('early', { n: 1 })
    assert.deepEqual(heard, [])
    proved = true
    await until(async () => (await registry.get('early')) !== undefined)
    assert.deepEqual(heard, ['early'])
  })

  it('a full disk refuses a put and keeps digests and records as they were', async () => {
    const { handle, dir } = await start({ maxBytes: 160_000 })
    const registry = handle.store.open('components', z.object({ text: z.string() }))
    let kept = 0
    await assert.rejects(async () => {
      for (;;) {
        await registry.put(`k${kept}`, { text: 'x'.repeat(8_000) })
        kept++
      }
    }, error => error instanceof MeshError && error.code === 'STORAGE_FULL')
    assert.equal((await registry.list()).length, kept)
    const digests = handle.status().records
    await handle.stop()
    using view = openView(dir, { outbox: false })
    assert.equal(view.count(), digests)
    const memory = new MemoryView()
    memory.merge(view.list('components', ''))
    assert.deepEqual(view.digests(), memory.digests())
  })

  it('the view on disk and the view in memory page and digest alike', () => {
    const dir = mkdtempSync(join(tmpdir(), 'registry-'))
    dirs.push(dir)
    using disk = openView(dir, { outbox: false })
    const memory = new MemoryView()
    const writer = makeIdentity()
    const records = [...write(writer, 200), ...write(writer, 50, 'vdags')]
    for (const view of [disk, memory]) view.merge(records, 'remote')
    assert.deepEqual(disk.digests(), memory.digests())
    const drain = (view: RecordView): string[] => {
      const out: Signed[] = []
      for (let after: string | undefined, pages = 0; pages < 100; pages++) {
        const page = view.page(Array.from({ length: 128 }, (_, i) => 2 * i), after, 7, 4_000)
        assert.ok(page.records.length <= 7)
        out.push(...page.records)
        if (page.next === undefined) break
        after = page.next
      }
      return out.map(record => Buffer.from(record.payload).toString('hex')).sort()
    }
    assert.deepEqual(drain(disk), drain(memory))
    assert.ok(drain(disk).length > 50)
    assert.throws(() => disk.page([1], 'nonsense', 1, 1), /starts nowhere/)
  })
})

registryConformance('SQLite, between two peers', async () => {
  const net = new Loopback()
  const dirs = [mkdtempSync(join(tmpdir(), 'registry-')), mkdtempSync(join(tmpdir(), 'registry-'))]
  const identities = [makeIdentity(), makeIdentity()]
  const networks = identities.map(identity => net.join(identity.peer))
  const open = (i: number): RegistryHandle =>
    createRegistryStore({ dir: dirs[i]!, networkId: 'net', network: networks[i]!, identity: identities[i]!, clock: realClock(PACE), random: realRandom, telemetry: recording(), mayWrite: () => granted(true) })
  let mine = open(0)
  const theirs = open(1)
  await mine.start()
  await theirs.start()
  return {
    mine: mine.store,
    theirs: theirs.store,
    async reopenMine() {
      await mine.stop()
      mine = open(0)
      await mine.start()
      return mine.store
    },
    until,
    apart() {
      net.gossip = () => false
      net.answering = () => {
        throw new MeshError('PEER_UNREACHABLE', 'the network is cut')
      }
    },
    together() {
      net.gossip = () => true
      net.answering = (_, __, answer) => answer
    },
    async close() {
      await mine.stop()
      await theirs.stop()
      for (const dir of dirs) rmSync(dir, { recursive: true, force: true })
    },
  }
})

registryConformance('in memory, between two peers', async () => {
  const net = new Loopback()
  const open = (network = net.join(''), identity = makeIdentity(), view = new MemoryView()): { readonly store: Registries; readonly replica: RegistryReplica; readonly again: () => { readonly store: Registries; readonly replica: RegistryReplica } } => {
    const ports = { clock: realClock(PACE), random: realRandom, telemetry: recording(), network }
    const make = (): { readonly store: Registries; readonly replica: RegistryReplica } => {
      const store = new Registries(view, { identity, mayWrite: () => granted(true), networkId: 'net' }, ports)
      const replica = new RegistryReplica(store, ports)
      replica.start()
      return { store, replica }
    }
    return { ...make(), again: make }
  }
  const identities = [makeIdentity(), makeIdentity()]
  const networks = identities.map(identity => net.join(identity.peer))
  const mine = open(networks[0], identities[0])
  const theirs = open(networks[1], identities[1])
  const running = [mine.replica, theirs.replica]
  return {
    mine: mine.store,
    theirs: theirs.store,
    async reopenMine() {
      mine.replica.stop()
      const { store, replica } = mine.again()
      running.push(replica)
      return store
    },
    until,
    apart() {
      net.gossip = () => false
      net.answering = () => {
        throw new MeshError('PEER_UNREACHABLE', 'the network is cut')
      }
    },
    together() {
      net.gossip = () => true
      net.answering = (_, __, answer) => answer
    },
    async close() {
      for (const replica of running) replica.stop()
    },
  }
})
