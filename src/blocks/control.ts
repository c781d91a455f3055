import { blockControl, type BlockOrder } from '../../protocols/block-control.ts'
import { asMeshError, MeshError, type Verdict } from '../../protocols/errors.ts'
import type { BlockId, Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import { Backoff, retry } from '../lib/backoff.ts'
import type { Ports, Random } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import type { Upkeep } from './upkeep.ts'

const ASK_MS: Millis = 30_000
/** A steward may be dying: its successor is known within seconds. */
const AGAIN = { firstMs: 100, maxMs: 1_000, retries: 8 }
/** A block that is called and sleeps is woken; asked again while calls wait, for the word may be lost. */
const WAKE_MS: Millis = 3_000
const WAKE = { firstMs: 100, maxMs: 1_000, retries: 6 }
const RIGHTS: Readonly<Partial<Record<BlockOrder['do'], Right>>> = { wake: 'join', status: 'join' }

/** Brings what anybody asks of a block to its steward, whichever peer was asked, and does it where this peer is the steward. */
export class BlockControl {
  readonly #ports: Pick<Ports, 'clock' | 'network' | 'telemetry'>
  readonly #random: Random
  readonly #upkeep: Upkeep
  readonly #view: MeshView
  readonly #stewardOf: (block: BlockId) => PeerId | undefined
  readonly #may: (peer: PeerId, right: Right) => Verdict<true>
  readonly #waking = new Set<BlockId>()

  constructor(ports: Pick<Ports, 'clock' | 'network' | 'random' | 'telemetry'>, parts: { readonly upkeep: Upkeep; readonly view: MeshView; readonly stewardOf: (block: BlockId) => PeerId | undefined; readonly may: (peer: PeerId, right: Right) => Verdict<true> }) {
    this.#ports = ports
    this.#random = ports.random.fork('control')
    this.#upkeep = parts.upkeep
    this.#view = parts.view
    this.#stewardOf = parts.stewardOf
    this.#may = parts.may
  }

  start(): void {
    this.#ports.network.handle(blockControl, async ({ block, order }, from) => {
      const verdict = this.#may(from, RIGHTS[order.do] ?? 'operate')
      if (!verdict.ok) throw new MeshError(verdict.retryable ? 'UNAUTHENTICATED' : 'FORBIDDEN', `${order.do}: ${verdict.because}`)
      return { answer: await this.#upkeep.perform(block, order) }
    })
  }

  /** Throws what the steward says, NO_INSTANCE where nobody may steward, PEER_UNREACHABLE and DEADLINE. */
  async order(block: BlockId, order: BlockOrder, options: { readonly deadlineMs?: Millis; readonly signal?: AbortSignal } = {}): Promise<Json> {
    const { clock } = this.#ports
    const signal = clock.deadline(options.deadlineMs ?? ASK_MS, options.signal)
    // More instances must not be asked for twice: only who surely did not do it is asked again.
    const safe = order.do !== 'scale'
    return retry({ clock, random: this.#random }, AGAIN, async () => {
      try {
        return await this.#once(block, order, signal)
      } catch (error) {
        const failure = asMeshError(error)
        if (failure.code === 'EPOCH_FENCED' || safe) throw failure
        throw new MeshError(failure.code, failure.message, { details: failure.details, cause: failure, retryable: false })
      }
    }, { signal })
  }

  /** Somebody here calls a block that has no instance. Returns at once. */
  wake(block: BlockId): void {
    if (this.#waking.has(block) || this.#waking.size >= 10_000) return
    this.#waking.add(block)
    void this.#wake(block).finally(() => this.#waking.delete(block))
  }

  async #wake(block: BlockId): Promise<void> {
    const { clock, telemetry } = this.#ports
    const backoff = new Backoff(this.#random, WAKE)
    for (;;) {
      try {
        await this.#once(block, { do: 'wake' }, clock.deadline(WAKE_MS))
      } catch (error) {
        telemetry.event('debug', 'block.not-woken', { block, because: asMeshError(error).message })
      }
      const wait = backoff.next()
      if (wait === undefined) return
      await clock.sleep(wait)
      if (this.#view.instancesOf(block).length > 0) return
    }
  }

  async #once(block: BlockId, order: BlockOrder, signal: AbortSignal): Promise<Json> {
    const steward = this.#stewardOf(block)
    if (steward === undefined) throw new MeshError('NO_INSTANCE', `nobody stewards ${block} at the moment`)
    if (steward === this.#view.self) return this.#upkeep.perform(block, order)
    return (await this.#ports.network.request(steward, blockControl, { block, order }, signal)).answer
  }
}
