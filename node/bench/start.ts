import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Devnet } from '../devnet/devnet.ts'

const ROUNDS = 3
const IDLE_MS = 10_000

/** From spawning `aios up` until it says it is ready (median of three, first run included), and what it holds in memory when idle. */
export async function run(): Promise<Record<string, number>> {
  const dir = await mkdtemp(join(tmpdir(), 'aios-start-'))
  const times: number[] = []
  try {
    await using net = new Devnet(dir)
    for (let round = 0; round < ROUNDS; round += 1) {
      if (round > 0) await net.stop(0)
      const began = performance.now()
      await net.up(0)
      times.push((performance.now() - began) / 1_000)
    }
    await sleep(IDLE_MS)
    const status = await readFile(`/proc/${net.peer(0).pid}/status`, 'utf8')
    const rssKib = Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0)
    const [, middle = 0] = times.toSorted((a, b) => a - b)
    return { ready_s: round2(middle), first_ready_s: round2(times[0] ?? 0), rss_mib: Math.round(rssKib / 1_024) }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

function round2(value: number): number {
  return Math.round(value * 100) / 100
}
