import { mkdir, mkdtemp, readdir, readlink, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { asMeshError } from '../../protocols/errors.ts'
import { json } from '../../protocols/ids.ts'
import { Devnet, type DevPeer } from '../devnet/devnet.ts'

const TASKS = Number(process.env['AIOS_BENCH_TASKS'] ?? '10000')
const BLOCKS = 10
const INSTANCES = 3
const CALLERS = Number(process.env['AIOS_BENCH_CALLERS'] ?? '6')
const DEADLINE_MS = 30_000
const READY_MS = 180_000
const VDAG = 'chain:1.0.0-stable'
const COMPONENT = 'node.adds-one:1.0.0-stable'

const shown = z.looseObject({ instances: z.array(z.looseObject({ instance: z.string(), host: z.string(), state: z.string() })) })
const answered = z.looseObject({ data: z.record(z.string(), z.looseObject({ n: z.number() })) })

/**
 * A vDAG of ten blocks in a row, three instances each, on three real daemons: 10,000 tasks, asked of all three, while one instance of
 * each block is killed (SIGKILL of its process), evenly over the tasks. `succeeded_pct`: tasks answered with the right number within
 * 30 s, asked once; `killed` instances that really died; latencies of the answered ones.
 */
export async function run(): Promise<Record<string, number>> {
  const dir = await mkdtemp(join(tmpdir(), 'aios-vdag-kill-'))
  try {
    await using net = await Devnet.start(dir, 3)
    await publish(net.peer(0), dir)
    const blocks = Array.from({ length: BLOCKS }, (_, at) => `adds-${at}`)
    for (const [at, blockId] of blocks.entries()) {
      await again(() => net.peer(at % 3).client.send('POST', '/mesh/blocks', { spec: { blockId, blockComponentURI: COMPONENT, minInstances: INSTANCES, maxInstances: INSTANCES }, wait: true }))
    }
    const nodes = blocks.map(blockId => ({ nodeLabel: blockId, nodeType: 'block', manualBlockId: blockId }))
    const connections = blocks.slice(1).map((nodeLabel, at) => ({ nodeLabel, inputs: [{ nodeLabel: blocks[at] ?? '' }] }))
    await net.peer(0).client.send('POST', '/mesh/vdags', { spec: { vdagName: 'chain', vdagVersion: { version: '1.0.0', 'release-tag': 'stable' }, nodes, graph: { connections, input: [{ nodeLabel: blocks[0] ?? '' }], output: [{ nodeLabel: blocks.at(-1) ?? '' }] } } })
    for (const peer of net.running()) await again(() => ask(peer, -1))

    const times: number[] = []
    const failures = new Map<string, number>()
    let next = 0
    let succeeded = 0
    let killed = 0
    const began = performance.now()
    const work = async (caller: number): Promise<void> => {
      for (let task = next++; task < TASKS; task = next++) {
        const asked = performance.now()
        try {
          if (await ask(net.peer((caller + task) % 3), task) !== task + BLOCKS) throw new Error('a wrong answer')
          succeeded += 1
          times.push(performance.now() - asked)
          if (succeeded % 1_000 === 0) console.error(`${succeeded} of ${TASKS} answered, ${killed} killed, ${[...failures.values()].reduce((sum, count) => sum + count, 0)} failed, after ${Math.round((performance.now() - began) / 1_000)} s`)
        } catch (error) {
          const { code, message } = asMeshError(error)
          const why = `${code}: ${message.slice(0, 120)}`
          failures.set(why, (failures.get(why) ?? 0) + 1)
        }
      }
    }
    const kill = async (): Promise<void> => {
      for (const [at, block] of blocks.entries()) {
        while (next < ((at + 0.5) / BLOCKS) * TASKS) await pause(20)
        if (await killOne(net, block)) killed += 1
      }
    }
    const killing = kill()
    await Promise.all(Array.from({ length: CALLERS }, (_, caller) => work(caller)))
    const seconds = (performance.now() - began) / 1_000
    await killing
    const whole = await Promise.all(blocks.map(block => again(async () => {
      const ready = (await instances(net.peer(0), block)).filter(({ state }) => state === 'ready').length
      if (ready !== INSTANCES) throw new Error(`${block} has ${ready} instances`)
      return true
    }).catch(() => false)))
    for (const [why, count] of failures) console.error(`${count} x ${why}`)
    times.sort((a, b) => a - b)
    const at = (share: number): number => Math.round(times[Math.min(times.length - 1, Math.floor(share * times.length))] ?? 0)
    return { succeeded_pct: Math.round((succeeded / TASKS) * 1_000_000) / 10_000, succeeded, tasks: TASKS, killed, blocks_whole_again: whole.filter(Boolean).length, p50_ms: at(0.5), p99_ms: at(0.99), worst_ms: Math.round(times.at(-1) ?? 0), tasks_per_s: Math.round((TASKS / seconds) * 10) / 10 }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

async function ask(peer: DevPeer, task: number): Promise<number | undefined> {
  const { data } = answered.parse(await peer.client.send('POST', '/v1/infer', { model: VDAG, data: { n: task }, deadline_ms: DEADLINE_MS }))
  return Object.values(data)[0]?.n
}

/** An author's component, published from a directory as any other. */
async function publish(peer: DevPeer, dir: string): Promise<void> {
  const directory = join(dir, 'adds-one')
  await mkdir(directory, { recursive: true })
  await writeFile(join(directory, 'component.json'), JSON.stringify({ componentId: { name: 'adds-one', version: '1.0.0', releaseTag: 'stable' }, componentType: 'node', runtime: { name: 'node', entry: 'main.mjs' }, resources: { cpu: '20m', memory: '96Mi' } }))
  await writeFile(join(directory, 'main.mjs'), 'import { defineBlock } from \'aios-mesh/sdk\'\nexport default defineBlock({ data: entry => ({ n: entry.data.n + 1 }) })\n')
  for await (const line of peer.client.lines('POST', '/mesh/components', { directory })) if (z.object({ result: json }).safeParse(line).success) return
}

/** SIGKILLs the process of one ready instance; it is found by the folder it works in. */
async function killOne(net: Devnet, block: string): Promise<boolean> {
  const ready = (await instances(net.peer(0), block)).filter(({ state }) => state === 'ready')
  for (const { instance } of ready) {
    for (const pid of await readdir('/proc')) {
      if (!/^\d+$/.test(pid)) continue
      const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => '')
      if (!cwd.includes(`/${instance}/`)) continue
      process.kill(Number(pid), 'SIGKILL')
      return true
    }
  }
  return false
}

async function instances(peer: DevPeer, block: string): Promise<z.infer<typeof shown>['instances']> {
  return shown.parse(await peer.client.get(`/mesh/blocks/${block}`)).instances
}

/** What was written on one peer may not have reached the next one yet. */
async function again<T>(attempt: () => Promise<T>): Promise<T> {
  const ends = performance.now() + READY_MS
  for (;;) {
    try {
      return await attempt()
    } catch (error) {
      if (performance.now() > ends) throw error
      await pause(200)
    }
  }
}

function pause(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms))
}
