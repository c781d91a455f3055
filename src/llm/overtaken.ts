import type { PeerId } from '../../protocols/ids.ts'

/** Somebody else generates this session now. */
export class Overtaken extends Error {
  readonly origin: PeerId
  readonly epoch: number

  constructor(origin: PeerId, epoch: number) {
    super(`${origin} has taken the session over`)
    this.origin = origin
    this.epoch = epoch
  }
}
