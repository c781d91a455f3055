import type { CID } from 'multiformats/cid'
import { contentBlocks } from '../../../protocols/content.ts'
import { asMeshError, MeshError } from '../../../protocols/errors.ts'
import type { Millis, PeerId } from '../../../protocols/ids.ts'
import type { Clock, Network, Telemetry } from '../../../src/ports.ts'
import { type BlockFiles, matches } from './block-files.ts'

/** Blocks asked of one holder and not yet here. */
const WINDOW = 8
/** Blocks being written at once, all holders together: with the windows, the memory of a fetch. */
const WRITES = 8
const HOLDERS = 8
const STALL_MS: Millis = 20_000
const EMPTY = new Uint8Array(0)

export type Wanted = { readonly cid: CID; readonly size: number }

type Job = { readonly want: Wanted; readonly lackedBy: Set<PeerId> }

/**
 * Fetches blocks from all holders at once: each takes the next ones from a common queue as it delivers, so that the fast
 * give more. A holder that sends other bytes than it was asked for is left at once, and its share goes to the rest.
 */
export class BlockFetch {
  readonly #network: Network
  readonly #clock: Clock
  readonly #telemetry: Telemetry
  readonly #files: BlockFiles
  readonly #onBlock: (want: Wanted) => void
  readonly #queue: Job[]
  readonly #active = new Set<PeerId>()
  readonly #stop = new AbortController()
  readonly #done = Promise.withResolvers<void>()
  readonly #writes = new Set<Promise<void>>()
  /** Not yet stored; not yet received. */
  #left: number
  #awaited: number
  #corrupt = false
  #last: MeshError | undefined

  constructor(ports: { readonly network: Network; readonly clock: Clock; readonly telemetry: Telemetry; readonly files: BlockFiles }, wanted: readonly Wanted[], onBlock: (want: Wanted) => void) {
    this.#network = ports.network
    this.#clock = ports.clock
    this.#telemetry = ports.telemetry
    this.#files = ports.files
    this.#onBlock = onBlock
    this.#queue = wanted.map(want => ({ want, lackedBy: new Set<PeerId>() }))
    this.#left = wanted.length
    this.#awaited = wanted.length
  }

  get holders(): number {
    return this.#active.size
  }

  /** Resolves when every block is stored. Throws CONTENT_UNAVAILABLE, CONTENT_CORRUPT, STORAGE_FULL, or the signal's reason. */
  async run(holders: readonly PeerId[], signal: AbortSignal): Promise<void> {
    if (this.#left === 0) return
    const abort = (): void => this.#fail(asMeshError(signal.reason))
    if (signal.aborted) throw asMeshError(signal.reason)
    signal.addEventListener('abort', abort, { once: true })
    try {
      for (const holder of holders.slice(0, HOLDERS)) {
        this.#active.add(holder)
        void this.#drain(holder)
      }
      if (this.#active.size === 0) this.#fail(new MeshError('CONTENT_UNAVAILABLE', 'no reachable peer holds it'))
      await this.#done.promise
    } finally {
      signal.removeEventListener('abort', abort)
      this.#stop.abort(new MeshError('CANCELLED', 'the fetch is over'))
      await Promise.allSettled(this.#writes)
    }
  }

  async #drain(holder: PeerId): Promise<void> {
    const asked = new Map<string, Job>()
    try {
      await this.#converse(holder, asked)
    } catch (error) {
      const failure = asMeshError(error)
      if (!this.#stop.signal.aborted) {
        this.#last = failure
        this.#telemetry.event('info', 'content.holder-left', { holder, because: failure.message })
      }
    }
    // Its share goes back to the front: it is what readers wait for.
    this.#queue.unshift(...asked.values())
    this.#active.delete(holder)
    if (this.#active.size === 0 && this.#awaited > 0) this.#fail(this.#corrupt ? new MeshError('CONTENT_CORRUPT', 'every holder sent bytes that are not what they were asked for') : new MeshError('CONTENT_UNAVAILABLE', `no reachable peer gives all of it${this.#last === undefined ? '' : `: ${this.#last.message}`}`))
  }

  async #converse(holder: PeerId, asked: Map<string, Job>): Promise<void> {
    const quiet = new AbortController()
    const stop = (): void => quiet.abort(this.#stop.signal.reason)
    this.#stop.signal.addEventListener('abort', stop, { once: true })
    let watch = (): void => undefined
    const rewind = (): void => {
      watch()
      watch = this.#clock.after(STALL_MS, () => quiet.abort(new MeshError('PEER_UNREACHABLE', `${holder} gave nothing for ${STALL_MS} ms`)))
    }
    try {
      rewind()
      await using stream = await this.#network.open(holder, contentBlocks, quiet.signal)
      const ask = async (): Promise<void> => {
        const jobs: Job[] = []
        while (asked.size < WINDOW) {
          const at = this.#queue.findIndex(job => !job.lackedBy.has(holder))
          const [job] = at < 0 ? [] : this.#queue.splice(at, 1)
          if (job === undefined) break
          asked.set(job.want.cid.toString(), job)
          jobs.push(job)
        }
        if (jobs.length > 0) await stream.send({ header: { kind: 'want', cids: jobs.map(job => job.want.cid.toString()) }, bytes: EMPTY })
      }
      await ask()
      const frames = stream[Symbol.asyncIterator]()
      while (this.#awaited > 0) {
        if (asked.size === 0) {
          // Nothing for this holder now, but another may fail and leave its share.
          if (this.#active.size <= 1) return
          await this.#clock.sleep(50, quiet.signal)
          rewind()
          await ask()
          continue
        }
        const { value, done } = await frames.next()
        if (done === true) throw new MeshError('PEER_UNREACHABLE', `${holder} ended the stream`)
        rewind()
        if (value.header.kind === 'want') continue
        const key = value.header.cid
        const job = asked.get(key)
        if (job === undefined) throw new MeshError('MESSAGE_INVALID', `${holder} sent a block it was not asked for`)
        if (value.header.kind === 'missing') {
          asked.delete(key)
          job.lackedBy.add(holder)
          this.#queue.push(job)
          if (this.#queue.every(other => other.lackedBy.has(holder)) && asked.size === 0) throw new MeshError('CONTENT_UNAVAILABLE', `${holder} lacks ${key}`)
        } else {
          if (!matches(job.want.cid, value.bytes)) {
            this.#corrupt = true
            this.#telemetry.count('content_corrupt_total')
            throw new MeshError('CONTENT_CORRUPT', `${holder} sent bytes that are not ${key}`)
          }
          asked.delete(key)
          await this.#store(job.want, value.bytes)
        }
        if (asked.size <= WINDOW / 2) await ask()
      }
    } finally {
      watch()
      this.#stop.signal.removeEventListener('abort', stop)
    }
  }

  /** Resolves when there is room for one more write, not when this one is done. */
  async #store(want: Wanted, bytes: Uint8Array): Promise<void> {
    this.#awaited -= 1
    while (this.#writes.size >= WRITES) await Promise.race(this.#writes)
    const write = this.#files.write(want.cid, bytes).then(() => {
      this.#left -= 1
      this.#onBlock(want)
      if (this.#left === 0) this.#done.resolve()
    }, error => this.#fail(asMeshError(error))).finally(() => this.#writes.delete(write))
    this.#writes.add(write)
  }

  #fail(failure: MeshError): void {
    this.#done.reject(failure)
    this.#stop.abort(failure)
  }
}
