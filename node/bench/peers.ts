import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { createContentStore, type OpenContent } from '../adapters/content-store.ts'
import { openIdentity } from '../adapters/identity.ts'
import { createLibp2pNetwork, type OpenNetwork } from '../adapters/libp2p.ts'
import { SystemClock, SystemRandom } from '../adapters/system.ts'
import { join } from 'node:path'
import type { Telemetry } from '../../src/ports.ts'

export const clock = new SystemClock()
export const random = new SystemRandom()
export const silent: Telemetry = { count: () => undefined, gauge: () => undefined, observe: () => undefined, event: () => undefined }

/** The adapters of a daemon and nothing above them; whoever knows the benchmark's secret is admitted. */
export async function startAdapters(dir: string, store: boolean, fastLane: boolean | 'tls' = true): Promise<{ readonly open: OpenNetwork; readonly store: OpenContent | undefined; stop(): Promise<void> }> {
  const open = await createLibp2pNetwork({ dir, identity: openIdentity(join(dir, 'key')), secret: new Uint8Array(32).fill(1), listen: ['/ip4/127.0.0.1/tcp/0'], search: false, fastLane, clock, random, telemetry: silent })
  open.network.onConnection(peer => open.network.admit(peer))
  const content = store ? createContentStore({ dir, network: open, clock, telemetry: silent }) : undefined
  await open.start()
  await content?.start()
  return {
    open,
    store: content,
    stop: async () => {
      await content?.stop()
      await open.stop()
    },
  }
}

/** Starts the other side in a process of its own; it prints one line of JSON when it is ready. */
export async function other(module: string, args: readonly string[]): Promise<{ readonly child: ChildProcess; readonly said: unknown }> {
  const child = spawn(process.execPath, ['--expose-gc', fileURLToPath(new URL(module, import.meta.url)), ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'exit').then(([code]) => {
    throw new Error(`the other process ended with ${String(code)} before it was ready`)
  })
  const [line] = await Promise.race([once(createInterface(child.stdout), 'line'), ended])
  ended.catch(() => undefined)
  return { child, said: JSON.parse(String(line)) }
}

export async function waitFor(reached: () => boolean, limitMs = 20_000): Promise<void> {
  const ends = performance.now() + limitMs
  while (!reached()) {
    if (performance.now() > ends) throw new Error('the bench waited for something that did not come')
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

/** The value below which `share` of them lie. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
}

export function rounded(value: number, digits = 3): number {
  return Math.round(value * 10 ** digits) / 10 ** digits
}
