import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { z } from 'zod'
import { json, type Json } from '../../protocols/ids.ts'
import { asMeshError } from '../../protocols/errors.ts'
import { Devnet, type DevPeer } from '../devnet/devnet.ts'
import { splitModel } from './scripture.ts'
import { publishTriage, type HeldOut } from './triage.ts'

const PEERS = 3
const AT_ONCE = 4
const VICTIM = 2
const REGIONS = ['eu-west', 'eu-north', 'us-east']
const RUN_MS = 60_000

const { values: flags } = parseArgs({ options: { keep: { type: 'boolean', default: false }, data: { type: 'string' }, records: { type: 'string' } } })
const triaged = z.object({ decision: z.string(), probability: z.number() }).loose()
const answer = z.object({ run: z.string(), data: z.record(z.string(), json) }).loose()
const began = performance.now()
const seconds = (): string => `${((performance.now() - began) / 1_000).toFixed(1).padStart(5)} s`
const say = (line: string): void => console.log(`${seconds()}  ${line}`)

type Outcome = { readonly id: string; readonly truth: string; readonly said: string; readonly decision: string; readonly ms: number; readonly from: number; readonly retried: boolean }

const dir = flags.data === undefined ? await mkdtemp(join(tmpdir(), 'aios-demo-')) : resolve(flags.data)
try {
  process.exitCode = await demo()
} catch (error) {
  const failure = asMeshError(error)
  console.error(`${seconds()}  the demo failed: ${failure.code}: ${failure.message}`)
  process.exitCode = 1
} finally {
  if (!flags.keep) await rm(dir, { recursive: true, force: true })
}

async function demo(): Promise<number> {
  say(`starting ${PEERS} peers, each a daemon process of its own, on loopback`)
  const net = await Devnet.start(dir, PEERS, index => ({ region: REGIONS[index] ?? 'elsewhere' }))
  try {
    for (const peer of net.running()) say(`peer ${peer.index} ${peer.peer} is ready after ${(peer.readyMs / 1_000).toFixed(1)} s, ${peer.http}`)
    const triage = await publishTriage(net.running(), say)
    const records = triage.records.slice(0, flags.records === undefined ? undefined : Number(flags.records))
    say(`triage of ${records.length} held-out records, submitted from each of the ${PEERS} peers`)
    const outcomes: Outcome[] = []
    const queue = records.map((record, at) => ({ record, from: at % PEERS }))
    const killAt = Math.floor(records.length / 2)
    let killed = false
    const work = async (): Promise<void> => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        if (!killed && outcomes.length >= killAt) {
          killed = true
          const pid = net.peer(VICTIM).pid
          await net.kill(VICTIM)
          say(`killed peer ${VICTIM} (kill -9 ${pid}) after ${outcomes.length} records; the others go on`)
        }
        outcomes.push(await submit(net, triage.vdag, next.record, next.from))
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, work))
    report(outcomes, net)
    const back = killed ? await net.up(VICTIM, { labels: { region: REGIONS[VICTIM] ?? 'elsewhere' } }) : net.peer(VICTIM)
    say(`peer ${VICTIM} is back after ${(back.readyMs / 1_000).toFixed(1)} s, the same peer; now a language model, split over all ${PEERS}`)
    const same = await splitModel(net, say)
    if (flags.keep) await keep(net)
    const wrong = records.length - outcomes.length
    return wrong === 0 && same && accuracy(outcomes) >= 0.9 ? 0 : 1
  } finally {
    await net[Symbol.asyncDispose]()
  }
}

/** From the peer it was meant for; if that one dies meanwhile, the same key asks another for the same run. */
async function submit(net: Devnet, vdag: string, { id, label, record }: HeldOut, from: number): Promise<Outcome> {
  const sentAt = performance.now()
  const body: Json = { model: vdag, data: { id, record }, key: `demo-${id}`, deadline_ms: RUN_MS }
  const first = net.running().find(({ index }) => index === from)
  const others = net.running().filter(({ index }) => index !== from)
  const route: readonly DevPeer[] = first === undefined ? others : [first, ...others]
  for (const [at, peer] of route.entries()) {
    try {
      const { data } = answer.parse(await peer.client.send('POST', '/v1/infer', body))
      return { id, truth: label, ...triageOf(data), ms: performance.now() - sentAt, from: peer.index, retried: at > 0 || first === undefined }
    } catch (error) {
      if (asMeshError(error).code !== 'PEER_UNREACHABLE' || at === route.length - 1) throw error
    }
  }
  throw new Error('no peer of the demo is running')
}

function triageOf(outputs: Readonly<Record<string, Json>>): { readonly said: string; readonly decision: string } {
  const { decision, probability } = triaged.parse(Object.values(outputs)[0])
  return { said: probability >= 0.5 ? 'malignant' : 'benign', decision }
}

function accuracy(outcomes: readonly Outcome[]): number {
  return outcomes.filter(({ truth, said }) => truth === said).length / outcomes.length
}

function report(outcomes: readonly Outcome[], net: Devnet): void {
  const sorted = outcomes.map(({ ms }) => ms).sort((a, b) => a - b)
  const at = (part: number): string => (sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? 0).toFixed(0)
  say(`${outcomes.length} of ${outcomes.length} runs finished; ${net.running().length} of ${PEERS} peers still up`)
  for (let from = 0; from < PEERS; from += 1) say(`  answered by peer ${from}: ${outcomes.filter(outcome => outcome.from === from).length}`)
  say(`  asked again on another peer with the same key: ${outcomes.filter(({ retried }) => retried).length}`)
  say(`  accuracy of the classifier on held-out records: ${(accuracy(outcomes) * 100).toFixed(1)} %`)
  for (const decision of ['refer-urgent', 'review', 'routine']) {
    const decided = outcomes.filter(outcome => outcome.decision === decision)
    say(`  ${decision.padEnd(12)} ${String(decided.length).padStart(4)}, of which malignant ${decided.filter(({ truth }) => truth === 'malignant').length}`)
  }
  say(`  latency of a whole run: p50 ${at(0.5)} ms, p95 ${at(0.95)} ms, worst ${at(1)} ms`)
}

async function keep(net: Devnet): Promise<void> {
  say('the mesh stays up; stop it with Ctrl-C. Try, in another terminal:')
  for (const peer of net.running()) console.log(`         npm run aios -- peers --data ${peer.dataDir}`)
  await new Promise<void>(resolve => {
    process.once('SIGINT', resolve)
    process.once('SIGTERM', resolve)
  })
}
