import { z } from 'zod'
import type { InstanceId, Json, Millis } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { isJsonObject } from '../lib/json.ts'

const settingsOf = z.object({
  health_check_interval: z.coerce.number().positive().max(86_400).default(30),
  health_check_timeout: z.coerce.number().positive().max(600).optional(),
  unhealthy_rounds: z.coerce.number().int().min(1).max(1_000).default(3),
})

/** Code that computes in the thread that answers gets longer. */
const TIMEOUT_S = 5
const STAGE_TIMEOUT_S = 30

export type HealthSettings = { readonly intervalMs: Millis; readonly timeoutMs: Millis; /** Failed rounds in a row after which an instance is replaced. */ readonly rounds: number }

/** `settings` of the block's `stabilityChecker`. */
export function healthSettings({ policies, runtime }: Pick<BlockRecord, 'policies' | 'runtime'>): HealthSettings {
  const rule = policies['stabilityChecker']
  const parsed = settingsOf.safeParse({ ...rule?.parameters, ...rule?.settings })
  const said = parsed.success ? parsed.data : settingsOf.parse({})
  return { intervalMs: 1_000 * said.health_check_interval, timeoutMs: 1_000 * (said.health_check_timeout ?? (runtime.name === 'llm' ? STAGE_TIMEOUT_S : TIMEOUT_S)), rounds: said.unhealthy_rounds }
}

export type Checked = { readonly healthy: boolean; readonly because: string }
export type InstanceHealth = Checked & { /** Failed rounds in a row. */ readonly misses: number }

/**
 * One round. `answers`: of those that were asked. `others`: instances that could not be asked, and why: one that crashes and starts again
 * and again never is healthy, whatever its container says (AIOS took those that wait for a restart for healthy). One that has never been
 * up is only starting.
 */
export function healthRound(before: ReadonlyMap<InstanceId, InstanceHealth>, answers: ReadonlyMap<InstanceId, Checked>, others: ReadonlyMap<InstanceId, string>): ReadonlyMap<InstanceId, InstanceHealth> {
  const after = new Map<InstanceId, InstanceHealth>()
  for (const [instance, checked] of answers) after.set(instance, { ...checked, misses: checked.healthy ? 0 : (before.get(instance)?.misses ?? 0) + 1 })
  for (const [instance, because] of others) after.set(instance, { healthy: false, because, misses: (before.get(instance)?.misses ?? 0) + 1 })
  return after
}

/** Those to replace: who failed `rounds` in a row and could be asked; one at a time, so that a fault they all share does not end them all. */
export function toReplace(health: ReadonlyMap<InstanceId, InstanceHealth>, asked: ReadonlySet<InstanceId>, rounds: number): readonly InstanceId[] {
  const sick = [...health].filter(([instance, { misses }]) => misses >= rounds && asked.has(instance)).sort(([a, x], [b, y]) => y.misses - x.misses || (a < b ? -1 : 1))
  return sick.slice(0, 1).map(([instance]) => instance)
}

/** Instances that a stability rule names to be replaced. AIOS reads nothing of its answer. */
export function namedByRule(answer: Json): readonly string[] {
  const named = isJsonObject(answer) ? answer['replace'] ?? answer['instances_to_replace'] : undefined
  return Array.isArray(named) ? named.map(String).slice(0, 1_000) : []
}
