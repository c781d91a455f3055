import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'

const RECORDS = 10_000
const LIMIT_MS = 300_000

const written = z.object({ addresses: z.array(z.string()).min(1), writeSeconds: z.number() })
const copied = z.object({ seconds: z.number(), readable: z.number(), verified: z.number() })

/**
 * Two processes over libp2p: one wrote 10,000 records through its store; the other starts with an empty folder.
 * `seconds`: from spawning the fresh replica until every record was verified and is readable there.
 */
export async function run(): Promise<Record<string, number>> {
  const dir = await mkdtemp(join(tmpdir(), 'aios-replica-'))
  const children: ChildProcess[] = []
  try {
    const writer = start(children, join(dir, 'writer'))
    const { addresses, writeSeconds } = written.parse(await firstLine(writer))
    const began = performance.now()
    const replica = start(children, join(dir, 'replica'), addresses[0])
    const { seconds: copySeconds, readable, verified } = copied.parse(await firstLine(replica))
    const seconds = (performance.now() - began) / 1_000
    if (readable !== RECORDS || verified < RECORDS) throw new MeshError('INTERNAL', `${readable} of ${RECORDS} records are readable and ${verified} signatures were checked`)
    return { seconds: round(seconds), copy_seconds: round(copySeconds), records: readable, verified, write_seconds: round(writeSeconds) }
  } finally {
    await Promise.all(children.map(async child => {
      if (child.exitCode !== null || child.signalCode !== null) return
      const exited = once(child, 'exit')
      child.kill('SIGKILL')
      await exited
    }))
    await rm(dir, { recursive: true, force: true })
  }
}

function start(children: ChildProcess[], dir: string, address?: string): ChildProcess {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'replica-peer.ts'), dir, String(RECORDS), ...(address === undefined ? [] : [address])], { stdio: ['ignore', 'pipe', 'inherit'] })
  children.push(child)
  return child
}

async function firstLine(child: ChildProcess): Promise<unknown> {
  if (child.stdout === null) throw new MeshError('INTERNAL', 'the benchmark process has no output')
  const late = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS)
  try {
    for await (const line of createInterface({ input: child.stdout })) return JSON.parse(line)
  } finally {
    clearTimeout(late)
  }
  throw new MeshError('INTERNAL', `the benchmark process ended without a word, or took over ${LIMIT_MS} ms`)
}

function round(value: number): number {
  return Math.round(value * 100) / 100
}
