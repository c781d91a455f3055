import { hello } from '../../protocols/membership.ts'
import { asMeshError } from '../../protocols/errors.ts'
import { retry } from '../../src/lib/backoff.ts'
import type { Ports } from '../../src/ports.ts'
import { seal } from '../../src/trust/seal.ts'

/** Lets everybody in who says hello, and keeps dialling the neighbours: the least that stands for membership here. */
export function enter(ports: Ports, neighbours: readonly string[]): void {
  const { clock, identity, network, random } = ports
  const background = (work: Promise<unknown>): void => {
    work.catch(error => {
      if (asMeshError(error).code === 'INTERNAL') throw error
    })
  }
  network.handle(hello, async (_, from) => {
    network.admit(from)
    return {}
  })
  network.onConnection((peer, direction) => {
    if (direction !== 'outbound') return
    background(retry({ clock, random }, { firstMs: 100, maxMs: 1_000, retries: 10 }, () => network.request(peer, hello, seal(identity, 'hello', { to: peer }))).then(() => network.admit(peer)))
  })
  const reach = (address: string): void => background(retry({ clock, random }, { firstMs: 200, maxMs: 2_000, retries: 30 }, () => network.dial([address], clock.deadline(5_000))))
  for (const address of neighbours) reach(address)
  network.onPeer((peer, state) => {
    const lost = state === 'gone' ? neighbours.find(address => address.endsWith(peer)) : undefined
    if (lost !== undefined) reach(lost)
  })
}
