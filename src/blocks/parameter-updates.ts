import { digest, encode, hex } from '../../protocols/codec.ts'
import type { BlockId, InstanceId, Json, Millis } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { background } from '../lib/background.ts'
import type { Ports, RunningInstance } from '../ports.ts'
import type { Catalogue } from '../roles.ts'

const TELL_MS: Millis = 30_000

type Told = { readonly key: string; readonly answer: Promise<Json> }

/**
 * Keeps the instances of this host at the parameters their block was last updated to. The registry's word is what counts: it reaches
 * instances that could not be called when somebody changed it, and those that start later start with it.
 */
export class ParameterUpdates {
  readonly #ports: Pick<Ports, 'clock' | 'telemetry'>
  readonly #catalogue: Pick<Catalogue, 'block' | 'onBlock'>
  readonly #here: (block: BlockId) => readonly { readonly id: InstanceId; readonly instance: RunningInstance }[]
  /** What each instance was told last: asked the same again, it gives the same answer. */
  readonly #told = new Map<InstanceId, Told>()

  constructor(ports: Pick<Ports, 'clock' | 'telemetry'>, catalogue: Pick<Catalogue, 'block' | 'onBlock'>, here: (block: BlockId) => readonly { readonly id: InstanceId; readonly instance: RunningInstance }[]) {
    this.#ports = ports
    this.#catalogue = catalogue
    this.#here = here
    catalogue.onBlock((_, block) => {
      if (block !== undefined) this.#tellAll(block)
    })
  }

  /** The block as an instance is to start with it. */
  async laidOver(instance: InstanceId, block: BlockRecord): Promise<BlockRecord> {
    const updates = (await this.#catalogue.block(block.blockId))?.updates
    if (updates === undefined) return block
    const parameters = { ...block.parameters, ...updates }
    this.#told.set(instance, { key: keyOf(updates), answer: Promise.resolve(parameters) })
    return { ...block, parameters }
  }

  /** Looks whether the instances of a block have what it was updated to. */
  check(block: BlockId): void {
    background(this.#ports.telemetry, 'instance.not-updated', this.#catalogue.block(block).then(record => {
      if (record !== undefined) this.#tellAll(record)
    }))
  }

  /** AIOS's `on_update`; told the same twice in a row, an instance is asked once. */
  tell(id: InstanceId, instance: RunningInstance, parameters: Json, signal: AbortSignal): Promise<Json> {
    const key = keyOf(parameters)
    const before = this.#told.get(id)
    if (before?.key === key) return before.answer
    const answer = instance.update(parameters, signal)
    const told = { key, answer }
    this.#told.set(id, told)
    answer.catch(() => {
      if (this.#told.get(id) !== told) return
      // It has not taken them: what it had before is what it has.
      if (before === undefined) this.#told.delete(id)
      else this.#told.set(id, before)
    })
    return answer
  }

  forget(id: InstanceId): void {
    this.#told.delete(id)
  }

  #tellAll({ blockId, updates }: BlockRecord): void {
    for (const { id, instance } of this.#here(blockId)) {
      if (updates === undefined) continue
      background(this.#ports.telemetry, 'instance.not-updated', this.tell(id, instance, updates, this.#ports.clock.deadline(TELL_MS)), 'warn')
    }
  }
}

function keyOf(parameters: Json): string {
  return hex(digest(encode(parameters)))
}
