import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { z } from 'zod'

const ROOT = join(import.meta.dirname, '../..')
const PIPELINES = '10000'

/** How far from the optimum the planner's chains and swarms are, beside those of others on the same hosts, and what an answer costs. */
export async function run(): Promise<Record<string, number>> {
  const child = spawn(process.execPath, ['simulations/planning/figures.ts', PIPELINES], { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] })
  const exited = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve))
  let last = ''
  for await (const line of createInterface({ input: child.stdout })) last = line
  const code = await exited
  if (code !== 0) throw new Error(`the simulation ended with code ${code}`)
  return z.record(z.string(), z.number()).parse(JSON.parse(last))
}
