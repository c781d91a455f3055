import { mkdtemp, rm } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { encode } from '../../protocols/codec.ts'
import { invoke, type InvokeFrame } from '../../protocols/invoke.ts'
import { clock, other, quantile, rounded, startAdapters, waitFor } from './peers.ts'

const BODY_BYTES = 10_240
const CALLS = 4_000
const WARM_UP = 5_000
const ready = z.object({ addresses: z.array(z.string()), port: z.int() })

/**
 * A call with a 10 KiB packet from one process to another on loopback and back, a new stream each, as daemons make it;
 * against the same bytes echoed over one bare TCP connection, call by call in turn, so that caches and scheduler treat
 * both alike. Daemons of one user on one host talk over a Unix socket; `tls_…` is the same over TLS, as between hosts.
 */
export async function run(): Promise<Record<string, number>> {
  const local = await measure(true)
  const tls = await measure('tls')
  return { ...local, tls_ratio_p50: tls['ratio_p50'] ?? 0, tls_p50_ms: tls['p50_ms'] ?? 0 }
}

async function measure(lane: true | 'tls'): Promise<Record<string, number>> {
  const dir = await mkdtemp(join(tmpdir(), 'aios-roundtrip-'))
  const { child, said } = await other('./roundtrip-echo.ts', [join(dir, 'other'), String(lane)])
  const mine = await startAdapters(join(dir, 'mine'), false, lane)
  try {
    const { addresses, port } = ready.parse(said)
    const { network } = mine.open
    const peer = await network.dial(addresses, clock.deadline(10_000))
    await waitFor(() => (network.laneOf(peer) ?? 'libp2p') !== 'libp2p')
    const body = encode({ sessionId: 'bench', seqNo: 0, ts: 0, data: null, files: [{ metadata: null, bytes: new Uint8Array(BODY_BYTES).fill(42) }] })
    const frame: InvokeFrame = { header: { kind: 'call', block: 'echo', instance: 'in-bench', epoch: 1, method: 'infer', deadlineMs: 10_000 }, body }
    const same = invoke.encode(frame)
    const socket = connect({ host: '127.0.0.1', port, noDelay: true })
    const call = async (): Promise<void> => {
      const controller = new AbortController()
      await using stream = await network.open(peer, invoke, controller.signal)
      await stream.send(frame)
      await stream.end()
      for await (const { body: answer } of stream) if (answer.byteLength !== body.byteLength) throw new Error('the echo is another')
    }
    const bare = echo(socket, same)
    for (let at = 0; at < WARM_UP; at += 1) {
      await call()
      await bare()
    }
    const mesh: number[] = []
    const tcp: number[] = []
    for (let at = 0; at < CALLS; at += 1) {
      for (const [measured, once] of [[mesh, call], [tcp, bare]] as const) {
        const began = performance.now()
        await once()
        measured.push(performance.now() - began)
      }
    }
    socket.destroy()
    const [p50, bareP50] = [quantile(mesh, 0.5), quantile(tcp, 0.5)]
    return { ratio_p50: rounded(p50 / bareP50), p50_ms: rounded(p50), tcp_p50_ms: rounded(bareP50), p99_ms: rounded(quantile(mesh, 0.99)), tcp_p99_ms: rounded(quantile(tcp, 0.99)) }
  } finally {
    await mine.stop()
    child.kill('SIGKILL')
    await rm(dir, { recursive: true, force: true })
  }
}

/** Sends the bytes and waits until as many have come back. */
function echo(socket: Socket, bytes: Uint8Array): () => Promise<void> {
  let waiting: { left: number; done: () => void } | undefined
  socket.on('data', chunk => {
    if (waiting === undefined) return
    waiting.left -= chunk.byteLength
    if (waiting.left > 0) return
    const { done } = waiting
    waiting = undefined
    done()
  })
  return () => new Promise(resolve => {
    waiting = { left: bytes.byteLength, done: resolve }
    socket.write(bytes)
  })
}
