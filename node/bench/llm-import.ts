import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { z } from 'zod'
import { Devnet } from '../devnet/devnet.ts'

const ROOT = join(import.meta.dirname, '../..')
const MAKER = 'test/fixtures/llm/make-model.ts'
const SAMPLE_MS = 20
/** A daemon measures its hardware in its first seconds; what that leaves behind is not an import's. */
const SETTLE_MS = 15_000
const MIB = 1_048_576

const finished = z.object({ result: z.object({ bytes: z.number(), layers: z.number() }) })

/**
 * Imports a decoder of 1.4 GB (random weights, fp32, external data) into a real daemon: how much its resident memory grew at
 * most above what it held before. The file cache is no process's own and not counted; whatever is mapped is.
 */
export async function run(): Promise<Record<string, number>> {
  const dir = await mkdtemp(join(tmpdir(), 'aios-import-'))
  try {
    const model = join(dir, 'model')
    await promisify(execFile)(process.execPath, [MAKER, model, '--preset', '360m', '--variant', 'fused', '--external'], { cwd: ROOT })
    await using net = new Devnet(dir)
    const { pid, client } = await net.up(0)
    await sleep(SETTLE_MS)
    const before = await residentBytes(pid)
    let peak = before
    let ended = false
    const sampling = (async () => {
      for (; !ended; await sleep(SAMPLE_MS)) peak = Math.max(peak, await residentBytes(pid))
    })()
    const began = performance.now()
    let bytes = 0
    let layers = 0
    for await (const line of client.lines('POST', '/mesh/models', { path: model })) {
      const done = finished.safeParse(line)
      if (done.success) ({ bytes, layers } = done.data.result)
    }
    const seconds = (performance.now() - began) / 1_000
    ended = true
    await sampling
    return { rss_mib: mib(peak - before), before_mib: mib(before), model_mib: mib(bytes), layers, seconds: Math.round(seconds * 10) / 10, mib_per_s: mib(bytes / seconds) }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

async function residentBytes(pid: number): Promise<number> {
  return Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1_024
}

function mib(bytes: number): number {
  return Math.round(bytes / MIB)
}
