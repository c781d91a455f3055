import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { get, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { clock, other, quantile, rounded, startAdapters, waitFor } from './peers.ts'

const MEGABYTES = 200
const ROUNDS = 5
const MIB = 1_048_576
const ready = z.object({ addresses: z.array(z.string()), cid: z.string(), size: z.int(), port: z.int() })

/**
 * A 200 MB file from one process to another on loopback, every block verified, stored and synced, and the whole marked as
 * held; against a plain HTTP download to disk with SHA-256 and one sync, turn by turn in the same run. `rss_mib` is how
 * much the fetching process grew over its size before the first fetch.
 */
export async function run(): Promise<Record<string, number>> {
  const dir = await mkdtemp(join(tmpdir(), 'aios-content-bench-'))
  const { child, said } = await other('./content-holder.ts', [join(dir, 'holder'), String(MEGABYTES)])
  try {
    const { addresses, cid, size, port } = ready.parse(said)
    const mesh: number[] = []
    const http: number[] = []
    let grown = 0
    for (let round = 0; round < ROUNDS; round += 1) {
      const fetched = await fetchOnce(join(dir, `mine-${round}`), addresses, cid)
      mesh.push(size / fetched.seconds / 1e6)
      grown = Math.max(grown, fetched.grown)
      http.push(size / (await download(port, join(dir, 'http.bin'), size)) / 1e6)
    }
    const [ours, theirs] = [quantile(mesh, 0.5), quantile(http, 0.5)]
    return { ratio_http: rounded(ours / theirs), mb_s: rounded(ours, 1), http_mb_s: rounded(theirs, 1), rss_mib: Math.round(grown) }
  } finally {
    child.kill('SIGKILL')
    await rm(dir, { recursive: true, force: true })
  }
}

async function fetchOnce(dir: string, addresses: readonly string[], cid: string): Promise<{ readonly seconds: number; readonly grown: number }> {
  const mine = await startAdapters(dir, true)
  try {
    const peer = await mine.open.network.dial(addresses, clock.deadline(10_000))
    await waitFor(() => (mine.open.network.laneOf(peer) ?? 'libp2p') !== 'libp2p')
    globalThis.gc?.()
    const before = process.memoryUsage.rss()
    let peak = before
    const watch = setInterval(() => (peak = Math.max(peak, process.memoryUsage.rss())), 20)
    const began = performance.now()
    await mine.store!.content.fetch(cid)
    const seconds = (performance.now() - began) / 1_000
    clearInterval(watch)
    if (!(await mine.store!.content.has(cid))) throw new Error('the fetch ended without the file')
    return { seconds, grown: (peak - before) / MIB }
  } finally {
    await mine.stop()
    await rm(dir, { recursive: true, force: true })
  }
}

async function download(port: number, path: string, size: number): Promise<number> {
  const began = performance.now()
  const response = await new Promise<IncomingMessage>((resolve, reject) => get({ host: '127.0.0.1', port, path: '/' }, resolve).on('error', reject))
  const file = createWriteStream(path, { flush: true })
  const hash = createHash('sha256')
  let bytes = 0
  for await (const chunk of response) {
    hash.update(chunk)
    bytes += chunk.length
    if (!file.write(chunk)) await once(file, 'drain')
  }
  hash.digest()
  file.end()
  await once(file, 'close')
  if (bytes !== size) throw new Error(`the download has ${bytes} bytes of ${size}`)
  const seconds = (performance.now() - began) / 1_000
  await rm(path)
  return seconds
}
