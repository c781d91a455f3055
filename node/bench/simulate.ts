import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { z } from 'zod'
import { compiledFolder } from '../compiled.ts'

const ROOT = join(import.meta.dirname, '../..')
// As `npm run sim` does: worlds share the cores, and a collector or compiler that asks all of them for help at once costs each more than it
// gives. A world is garbage as a whole when its seed ends: marking what it holds before then finds nothing to free.
// Room for the young that grows in few steps is copied less often.
const ARGUMENTS = ['--single-threaded', '--initial-old-space-size=1024', '--semi-space-growth-factor=4', 'simulations/run.ts', '--scenario', 'mesh', '--peers', '200', '--seeds', '50', '--seconds', '6', '--loss', '0.05', '--churn', '0.05', '--json']

const figures = z.object({ seeds: z.int(), violations: z.int(), seconds: z.number(), cpu_s: z.number(), virtual_s: z.number() })

type Figures = z.infer<typeof figures>

/**
 * 200 simulated peers under churn and 5 % loss, 50 seeds: how many broke an invariant, and how long all of it took; and once more
 * (`cuts_`) with links that are cut and heal besides. `violations` are those of both.
 */
export async function run(): Promise<Record<string, number>> {
  const calm = await simulate('--no-cuts')
  const cuts = await simulate()
  return {
    seeds: calm.seeds, violations: calm.violations + cuts.violations, seconds: calm.seconds, cpu_s: calm.cpu_s, virtual_s: calm.virtual_s,
    cuts_seeds: cuts.seeds, cuts_seconds: cuts.seconds, cuts_cpu_s: cuts.cpu_s, cuts_virtual_s: cuts.virtual_s,
  }
}

async function simulate(...more: readonly string[]): Promise<Figures> {
  const child = spawn(process.execPath, [...ARGUMENTS, ...more], { cwd: ROOT, env: { ...process.env, NODE_COMPILE_CACHE: compiledFolder() }, stdio: ['ignore', 'pipe', 'inherit'] })
  const exited = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve))
  let last = ''
  for await (const line of createInterface({ input: child.stdout })) last = line
  const code = await exited
  if (code !== 0 && code !== 1) throw new Error(`the simulator ended with code ${code}`)
  return figures.parse(JSON.parse(last))
}
