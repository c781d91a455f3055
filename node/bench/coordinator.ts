import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { asMeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { runEvent } from '../../protocols/runs.ts'
import { Devnet, type DevPeer } from '../devnet/devnet.ts'
import { publishTriage } from '../demo/triage.ts'

const POINTS = Number(process.env['AIOS_BENCH_POINTS'] ?? '50')
const FINISH_MS = 60_000

const submitted = z.object({ run: z.string() }).loose()
const shown = z.object({ state: z.string(), events: z.array(runEvent) }).loose()

/**
 * kill -9 of the coordinator at a random point of each of 50 runs (the delay is drawn over the length of a run, each run
 * has a new key). `finished` runs completed, as seen from a surviving peer; `rerun` nodes with two `finished` events;
 * `duplicates` runs with more than one result. The coordinator is restarted on its folder before the next run.
 */
export async function run(): Promise<Record<string, number>> {
  const dir = await mkdtemp(join(tmpdir(), 'aios-coordinator-'))
  try {
    await using net = await Devnet.start(dir, 3)
    const triage = await publishTriage(net.running(), () => undefined)
    const record: Json = { record: triage.records[0]?.record ?? {} }
    const runMs = await typicalRun(net, triage.vdag, record)
    let finished = 0
    let rerun = 0
    let duplicates = 0
    let takenOver = 0
    for (let point = 0; point < POINTS; point += 1) {
      const victim = point % 3
      const witness = net.peer((victim + 1) % 3)
      const key = `point-${point}`
      const began = performance.now()
      const asked = net.peer(victim).client.send('POST', '/mesh/runs', { vdag: triage.vdag, input: record, key }).then(body => submitted.parse(body).run, () => undefined)
      await new Promise(resolve => setTimeout(resolve, Math.random() * runMs * 1.2))
      await net.kill(victim)
      await asked
      // The same key from a surviving peer is the same run, or begins it when the victim died before it was accepted.
      const { run: id } = await again(() => witness.client.send('POST', '/mesh/runs', { vdag: triage.vdag, input: record, key }).then(body => submitted.parse(body)), began)
      const view = await settled(witness, id, began)
      if (view.state === 'completed') finished += 1
      const done = new Map<string, number>()
      for (const event of view.events) if (event.type === 'finished') done.set(event.label, (done.get(event.label) ?? 0) + 1)
      rerun += [...done.values()].filter(count => count > 1).length
      if (view.events.filter(({ type }) => type === 'completed' || type === 'aborted').length !== 1) duplicates += 1
      if (view.events.filter(({ type }) => type === 'coordinator').length > 1) takenOver += 1
      await net.up(victim)
    }
    return { finished, of: POINTS, rerun, duplicates, taken_over: takenOver, run_ms: Math.round(runMs) }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

async function typicalRun(net: Devnet, vdag: string, input: Json): Promise<number> {
  const times: number[] = []
  for (let round = 0; round < 8; round += 1) {
    const began = performance.now()
    await net.peer(round % 3).client.send('POST', '/v1/infer', { model: vdag, data: input, key: `warm-${round}` })
    times.push(performance.now() - began)
  }
  return times.toSorted((a, b) => a - b)[4] ?? 100
}

async function settled(peer: DevPeer, run: string, began: number): Promise<z.infer<typeof shown>> {
  while (true) {
    const view = await again(() => peer.client.get(`/mesh/runs/${run}`).then(body => shown.parse(body)), began)
    if (view.state !== 'running' || performance.now() - began > FINISH_MS) return view
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

/** A surviving peer may need a moment to notice who died. */
async function again<T>(work: () => Promise<T>, began: number): Promise<T> {
  while (true) {
    try {
      return await work()
    } catch (error) {
      if (performance.now() - began > FINISH_MS) throw asMeshError(error)
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }
}
