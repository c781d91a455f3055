import { pinLease, replicaWish, type ReplicaWish } from '../../protocols/asset.ts'
import { decode, encode } from '../../protocols/codec.ts'
import { contentHave } from '../../protocols/content.ts'
import { asMeshError } from '../../protocols/errors.ts'
import type { Cid, Millis, PeerId } from '../../protocols/ids.ts'
import type { AssetRecord } from '../../protocols/specs.ts'
import { background } from '../lib/background.ts'
import { foremost } from '../lib/rendezvous.ts'
import { carries } from '../placement/rank.ts'
import type { Ports, Registry } from '../ports.ts'
import type { Catalogue, MeshView } from '../roles.ts'

export type ReplicaConfig = {
  /** How often wishes are looked at when nothing happens. */
  readonly beatMs: Millis
  /** How long a host that is not among the first any more keeps what it holds. */
  readonly leaseMs: Millis
  readonly fetchMs: Millis
}

export const REPLICAS: ReplicaConfig = { beatMs: 15_000, leaseMs: 600_000, fetchMs: 600_000 }

export type ReplicaHealth = { readonly wanted: number; readonly holders: readonly PeerId[]; readonly healthy: boolean }

const LEASE = 'replica/'
const SOON_MS = 200
/** Peers asked who holds a file. */
const ASKED = 64
const ASK_MS = 2_000

/** Each author has a key of its own: nobody can be kept from asking by who asked first. */
function keyOf(uri: string, author: PeerId): string {
  return `${uri}/${author}`
}

/** Who shall hold a file: the first so many of the live hosts with the right labels, in the order of its CID. */
export function chosenHolders(wish: Pick<ReplicaWish, 'content' | 'replicas' | 'labels'>, view: Pick<MeshView, 'ads'>): readonly PeerId[] {
  return foremost(wish.content, view.ads().filter(({ labels }) => carries(labels, wish.labels).ok).map(({ peer }) => peer), wish.replicas)
}

/** Holds what authors want replicated, on as many live hosts as they want, without anybody who assigns it. */
export class Replicas {
  readonly #ports: Pick<Ports, 'clock' | 'content' | 'journal' | 'network' | 'telemetry'>
  readonly #view: MeshView
  readonly #catalogue: Pick<Catalogue, 'asset'>
  readonly #wishes: Registry<ReplicaWish>
  readonly #config: ReplicaConfig
  readonly #stops: (() => void)[] = []
  #beat: (() => void) | undefined
  /** Without a wish there is nothing to look after, whoever comes and goes. */
  #wanted = false
  #working = false
  #again = false

  constructor(ports: Pick<Ports, 'clock' | 'content' | 'journal' | 'network' | 'registries' | 'telemetry'>, parts: { readonly view: MeshView; readonly catalogue: Pick<Catalogue, 'asset'> }, config: Partial<ReplicaConfig> = {}) {
    this.#ports = ports
    this.#view = parts.view
    this.#catalogue = parts.catalogue
    this.#wishes = ports.registries.open('replicas', replicaWish)
    this.#config = { ...REPLICAS, ...config }
  }

  start(): void {
    this.#stops.push(this.#wishes.onChange(() => this.#soon(SOON_MS)))
    this.#stops.push(this.#view.onLife(() => {
      if (this.#wanted) this.#soon(SOON_MS)
    }))
    this.#soon(SOON_MS)
  }

  stop(): void {
    for (const stop of this.#stops.splice(0)) stop()
    this.#beat?.()
    this.#beat = undefined
  }

  /** Asks the mesh for so many copies. Only the asset's author is heard. */
  async want(wish: ReplicaWish): Promise<void> {
    await this.#wishes.put(keyOf(wish.assetURI, this.#view.self), wish)
  }

  async forget(uri: string): Promise<void> {
    if ((await this.wished(uri, this.#view.self)) !== undefined) await this.#wishes.withdraw(keyOf(uri, this.#view.self))
  }

  /** What the author of an asset asked for. */
  async wished(uri: string, author: PeerId): Promise<ReplicaWish | undefined> {
    const entry = await this.#wishes.get(keyOf(uri, author))
    return entry?.writer === author ? entry.value : undefined
  }

  /** Who holds all of the file now, as far as peers answer in time. `healthy`: as many as were wanted, or one where nothing was. */
  async health(asset: Pick<AssetRecord, 'assetURI' | 'author' | 'content'>): Promise<ReplicaHealth> {
    const wanted = (await this.wished(asset.assetURI, asset.author))?.replicas ?? 1
    const holders = await this.#holders(asset.content)
    return { wanted, holders, healthy: holders.length >= wanted }
  }

  async #holders(content: Cid): Promise<readonly PeerId[]> {
    const { content: store, network } = this.#ports
    const asked = foremost(content, this.#view.live(), ASKED)
    const held = await Promise.all(asked.map(async peer => {
      if (peer === this.#view.self) return (await store.has(content)) ? [peer] : []
      const answer = await network.request(peer, contentHave, { roots: [content] }, ASK_MS).catch(() => undefined)
      return answer?.held[0] === true ? [peer] : []
    }))
    return held.flat().sort()
  }

  #soon(inMs: Millis): void {
    this.#beat?.()
    this.#beat = this.#ports.clock.after(inMs, () => {
      this.#beat = undefined
      background(this.#ports.telemetry, 'replicas.failed', this.#round(), 'warn')
    })
  }

  async #round(): Promise<void> {
    if (this.#working) {
      this.#again = true
      return
    }
    this.#working = true
    try {
      const wishes = (await this.#wishes.list()).map(({ value, writer }) => ({ wish: value, writer }))
      this.#wanted = wishes.length > 0
      const mine = new Set<Cid>()
      for (const { wish, writer } of wishes) {
        if (!chosenHolders(wish, this.#view).includes(this.#view.self) || !(await this.#counts(wish, writer))) continue
        mine.add(wish.content)
        await this.#hold(wish)
      }
      const kept = await this.#release(mine)
      // What happened meanwhile has set a beat of its own, or met this round at work.
      if (this.#stops.length > 0 && (this.#again || (this.#beat === undefined && (wishes.length > 0 || kept > 0)))) this.#soon(this.#again ? SOON_MS : this.#config.beatMs)
      this.#again = false
    } finally {
      this.#working = false
    }
  }

  /** A wish is its author's, and about that asset's content; anybody else's would fill disks. */
  async #counts(wish: ReplicaWish, writer: PeerId): Promise<boolean> {
    const asset = await this.#catalogue.asset(wish.assetURI, this.#ports.clock.deadline(ASK_MS)).catch(() => undefined)
    return asset?.author === writer && asset.content === wish.content
  }

  async #hold(wish: ReplicaWish): Promise<void> {
    const { clock, content, journal, telemetry } = this.#ports
    try {
      const held = await content.has(wish.content)
      if (!held) await content.fetch(wish.content, { signal: clock.deadline(this.#config.fetchMs) })
      const saved = await journal.get(LEASE + wish.content)
      if (!held || saved === undefined) {
        await content.pin(wish.content)
        // It may have been let go, and removed, between the look and the pin.
        if (held && !await content.has(wish.content)) await content.fetch(wish.content, { signal: clock.deadline(this.#config.fetchMs) })
      }
      const half = clock.unix() + this.#config.leaseMs / 2
      if (saved === undefined || decode(pinLease, saved, 4_096, 'pin lease').until < half) await journal.set(LEASE + wish.content, encode({ content: wish.content, until: clock.unix() + this.#config.leaseMs }))
      if (!held) telemetry.event('info', 'replica.held', { asset: wish.assetURI, bytes: wish.size })
    } catch (error) {
      // The next beat tries again: a holder may have come back, or room.
      telemetry.event('warn', 'replica.not-held', { asset: wish.assetURI, because: asMeshError(error).message })
    }
  }

  /** Lets go of what others hold now, once its lease is over. Answers how many are still held. */
  async #release(mine: ReadonlySet<Cid>): Promise<number> {
    const { clock, content, journal } = this.#ports
    let kept = 0
    for (const key of await journal.keys(LEASE)) {
      const saved = await journal.get(key)
      if (saved === undefined) continue
      const lease = decode(pinLease, saved, 4_096, 'pin lease')
      if (mine.has(lease.content) || lease.until > clock.unix()) kept += 1
      else {
        await content.unpin(lease.content)
        await journal.set(key, undefined)
      }
    }
    return kept
  }
}
