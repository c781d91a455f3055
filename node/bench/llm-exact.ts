import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'

/** Its models and its oracle are those of the tests. */
const SCRIPT = fileURLToPath(new URL('../../test/llm/onnx/exactness.ts', import.meta.url))

/**
 * Every variant and family of model, split in 2, 3 and 4: the greatest difference of any logit of 64 greedy tokens from the whole
 * model's (`max_diff`), the tokens being the same or the bench failing; plain fp16 apart, which a cut rounds.
 */
export async function run(): Promise<Record<string, number>> {
  const child = spawn(process.execPath, [SCRIPT], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'exit')
  let last = ''
  for await (const line of createInterface(child.stdout)) last = line
  const [code] = await ended
  if (code !== 0) throw new Error('a split model gave other tokens than the whole one')
  return z.record(z.string(), z.number()).parse(JSON.parse(last))
}
