import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { asMeshError } from '../../protocols/errors.ts'
import { Devnet, type DevPeer } from '../devnet/devnet.ts'
import { publishTriage } from '../demo/triage.ts'

const CALLERS = 4
const AFTER_MS = 8_000

const shown = z.object({ instances: z.array(z.object({ instance: z.string(), host: z.string(), state: z.string() })) }).loose()

/**
 * kill -9 of the host that runs the only instance of a block, while callers on another peer keep asking: `seconds` from
 * the kill to the first answer of the replacement, `lost` calls that failed although they could be retried.
 */
export async function run(): Promise<Record<string, number>> {
  const dir = await mkdtemp(join(tmpdir(), 'aios-failover-'))
  try {
    await using net = await Devnet.start(dir, 3)
    const asking = net.peer(0)
    const triage = await publishTriage(net.running(), () => undefined)
    const block = 'triage-normalise'
    const input = { record: triage.records[0]?.record ?? {} }
    const victim = await hostOf(net, asking, block)
    // The bench must still have somebody to ask: if the asker hosts the instance, ask another peer.
    const asker = victim.peer === asking.peer ? net.peer(1) : asking
    const answers: number[] = []
    let lost = 0
    let calls = 0
    let ended = false
    let killedAt = performance.now()
    const ask = async (): Promise<void> => {
      while (!ended) {
        calls += 1
        try {
          await asker.client.send('POST', '/v1/infer', { model: block, data: input, deadline_ms: 15_000 })
          answers.push(performance.now())
        } catch (error) {
          lost += 1
          const { code, message } = asMeshError(error)
          console.error(`a call failed ${Math.round(performance.now() - killedAt)} ms after the kill: ${code}: ${message}`)
        }
      }
    }
    const callers = Array.from({ length: CALLERS }, ask)
    await waitFor(() => answers.length >= 20)
    killedAt = performance.now()
    await net.kill(victim.index)
    await waitFor(async () => (await instances(asker, block)).some(({ host, state }) => host !== victim.peer && state === 'ready') && answers.some(at => at > killedAt + 20))
    const replacedAt = await firstAnswerAfterGap(answers, killedAt)
    await new Promise(resolve => setTimeout(resolve, Math.max(0, AFTER_MS - (performance.now() - killedAt))))
    ended = true
    await Promise.all(callers)
    return { seconds: Math.round(replacedAt - killedAt) / 1_000, lost, calls }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** The end of the longest silence after the kill: answers already on their way do not count as the replacement's. */
async function firstAnswerAfterGap(answers: readonly number[], killedAt: number): Promise<number> {
  const after = [killedAt, ...answers.filter(at => at > killedAt)]
  let ends = after[1] ?? killedAt
  let longest = 0
  for (let at = 1; at < after.length; at += 1) {
    const gap = (after[at] ?? 0) - (after[at - 1] ?? 0)
    if (gap > longest) {
      longest = gap
      ends = after[at] ?? ends
    }
  }
  return ends
}

async function instances(peer: DevPeer, block: string): Promise<z.infer<typeof shown>['instances']> {
  return shown.parse(await peer.client.get(`/mesh/blocks/${block}`)).instances
}

async function hostOf(net: Devnet, asking: DevPeer, block: string): Promise<DevPeer> {
  const [first] = await instances(asking, block)
  const host = net.running().find(({ peer }) => peer === first?.host)
  if (host === undefined) throw new Error(`no instance of ${block} on the devnet`)
  return host
}

async function waitFor(reached: () => boolean | Promise<boolean>, limitMs = 60_000): Promise<void> {
  const ends = performance.now() + limitMs
  while (!(await reached())) {
    if (performance.now() > ends) throw new Error('the bench waited for something that did not come')
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}
