import { asMeshError } from '../protocols/errors.ts'
import type { Millis } from '../protocols/ids.ts'
import type { Clock, Network, Random } from '../src/ports.ts'

export type OverlayConfig = { readonly addresses: readonly string[]; readonly degree: number; readonly everyMs: Millis }

/**
 * Keeps a peer connected to a few others, as discovery (bootstrap, DHT, mDNS) does below the daemon's Network. Whoever
 * else is needed is dialled when a request goes there.
 */
export function keepConnected(ports: { readonly clock: Clock; readonly network: Network; readonly random: Random }, config: OverlayConfig): void {
  const { clock, network, random } = ports
  const own = network.addresses()
  const others = config.addresses.filter(address => !own.includes(address))
  const tick = (): void => {
    const missing = Math.min(config.degree, others.length) - network.peers().length
    for (let dials = 0; dials < missing; dials += 1) {
      network.dial([random.pick(others)], clock.deadline(5_000)).catch(error => {
        if (asMeshError(error).code === 'INTERNAL') throw error
      })
    }
    clock.after(Math.round(config.everyMs * (0.75 + random.float() / 2)), tick)
  }
  clock.after(0, tick)
}
