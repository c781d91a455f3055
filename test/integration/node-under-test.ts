import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createContentStore, type OpenContent } from '../../node/adapters/content-store.ts'
import { Ed25519Identity, openIdentity } from '../../node/adapters/identity.ts'
import { createLibp2pNetwork, type OpenNetwork } from '../../node/adapters/libp2p.ts'
import { SystemClock, SystemRandom } from '../../node/adapters/system.ts'
import type { PeerId } from '../../protocols/ids.ts'
import type { Clock, Telemetry } from '../../src/ports.ts'

export const SECRET = new Uint8Array(32).fill(7)
const clock = new SystemClock()
const random = new SystemRandom()

/** Counts what was counted; keeps nothing else. */
export class Tally implements Telemetry {
  readonly counts = new Map<string, number>()
  count(metric: string, _labels: Readonly<Record<string, string>> = {}, by = 1): void {
    this.counts.set(metric, (this.counts.get(metric) ?? 0) + by)
  }
  gauge(): void {}
  observe(): void {}
  event(): void {}
}

export type NodeUnderTest = OpenNetwork & { readonly clock: Clock; readonly tally: Tally; readonly dir: string; readonly store?: OpenContent; close(): Promise<void> }

/** A real node on loopback that admits everybody who knows the secret. Nothing is searched for: tests dial by hand. */
export async function startNode(options: { readonly secret?: Uint8Array; readonly content?: boolean; readonly dir?: string; readonly fastLane?: boolean | 'tls'; readonly search?: boolean; readonly bootstrap?: readonly string[]; readonly admits?: boolean; readonly clock?: Clock; readonly reserveBytes?: number; readonly graceMs?: number; readonly findHolders?: () => Promise<readonly PeerId[]>; readonly identity?: Ed25519Identity; readonly listen?: readonly string[]; readonly relay?: boolean; readonly mdns?: boolean } = {}): Promise<NodeUnderTest> {
  const dir = options.dir ?? await mkdtemp(join(tmpdir(), 'aios-node-'))
  const tally = new Tally()
  const mine = options.clock ?? clock
  const open = await createLibp2pNetwork({
    dir,
    identity: options.identity ?? openIdentity(join(dir, 'key')),
    secret: options.secret ?? SECRET,
    listen: options.listen ?? ['/ip4/127.0.0.1/tcp/0'],
    relay: options.relay ?? false,
    mdns: options.mdns ?? false,
    bootstrap: options.bootstrap ?? [],
    fastLane: options.fastLane ?? true,
    search: options.search ?? false,
    clock: mine,
    random,
    telemetry: tally,
  })
  if (options.admits !== false) open.network.onConnection(peer => open.network.admit(peer))
  const store = options.content === true ? createContentStore({ dir, network: open, clock: mine, telemetry: tally, reserveBytes: options.reserveBytes ?? 0, graceMs: options.graceMs ?? 60_000, ...(options.findHolders === undefined ? {} : { findHolders: options.findHolders }) }) : undefined
  await open.start()
  await store?.start()
  const close = async (): Promise<void> => {
    await store?.stop()
    await open.stop()
    if (options.dir === undefined) await rm(dir, { recursive: true, force: true })
  }
  return { ...open, clock: mine, tally, dir, close, ...(store === undefined ? {} : { store }) }
}

/** Starts nodes for the tests of one `describe`, and closes them after each. `nodes`: those to close, to which a test may add its own. */
export function nodesOfTests(): { readonly nodes: NodeUnderTest[]; readonly start: typeof startNode } {
  const nodes: NodeUnderTest[] = []
  afterEach(async () => {
    await Promise.all(nodes.splice(0).map(node => node.close()))
  })
  return {
    nodes,
    async start(options) {
      const node = await startNode(options)
      nodes.push(node)
      return node
    },
  }
}

export async function until(condition: () => boolean | Promise<boolean>, limitMs = 10_000): Promise<void> {
  const ends = performance.now() + limitMs
  while (!(await condition())) {
    if (performance.now() > ends) throw new Error('the condition did not come true in time')
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

/** Dials and waits until both have admitted each other. */
export async function connect(from: NodeUnderTest, to: NodeUnderTest): Promise<void> {
  await from.network.dial(to.network.addresses(), from.clock.deadline(5_000))
  await until(() => from.network.peers().includes(to.network.self) && to.network.peers().includes(from.network.self))
}
