import { hello } from '../../protocols/membership.ts'
import type { Network } from '../../src/ports.ts'
import { Kernel, type Life } from '../../simulations/kernel.ts'
import type { Weather } from '../../simulations/links.ts'
import { type Host, SimulatedNetwork } from '../../simulations/network.ts'

export type Pair = { readonly kernel: Kernel; readonly net: SimulatedNetwork; readonly a: Network; readonly b: Network; readonly hosts: readonly [Host, Host]; readonly lives: readonly [Life, Life]; readonly bugs: unknown[] }

export const PEER_A = '12D3KooWpeerA'
export const PEER_B = '12D3KooWpeerB'

/** Two hosts on a network of their own; not connected yet. */
export function pair(weather: Weather = { delayMs: [5, 10], loss: 0, duplicate: 0 }, seed = 1): Pair {
  const kernel = new Kernel(seed)
  const bugs: unknown[] = []
  const net = new SimulatedNetwork(kernel, weather, error => bugs.push(error))
  const hosts = [net.addHost(PEER_A), net.addHost(PEER_B)] as const
  const lives = [{ alive: true }, { alive: true }] as const
  return { kernel, net, hosts, lives, bugs, a: net.connect(hosts[0], lives[0]), b: net.connect(hosts[1], lives[1]) }
}

/** Connects and admits both ways. */
export async function acquaint({ kernel, a, b }: Pair): Promise<void> {
  b.handle(hello, async (_, from) => {
    b.admit(from)
    return {}
  })
  await kernel.drive((async () => {
    await a.dial(b.addresses(), new AbortController().signal)
    a.admit(b.self)
    b.admit(a.self)
  })())
}
