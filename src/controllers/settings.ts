import { z } from 'zod'
import type { Json, Millis } from '../../protocols/ids.ts'
import type { QuotaTerms } from '../../protocols/quota.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { isJsonObject, type JsonObject } from '../lib/json.ts'
import { Fields } from '../specs/fields.ts'
import { parsePolicyRef } from '../specs/policy-refs.ts'
import { Problems } from '../specs/problems.ts'

/** What the controllers of a vDAG watch over, once AIOS's two places for it are read. */
export type ControllerSettings = {
  readonly quota?: QuotaTerms
  readonly quotaChecker?: PolicyRef
  readonly qualityChecker?: { readonly rule: PolicyRef; readonly framesInterval: number }
  readonly healthChecker?: { readonly rule: PolicyRef; readonly intervalMs: Millis; readonly maxRetries: number }
}

const FRAMES_INTERVAL = 100
const HEALTH_INTERVAL_S = 60
const switched = z.looseObject({ enabled: z.boolean().default(true), disable: z.boolean().default(false) })
const quota = z.looseObject({ limit: z.coerce.number().int().nonnegative().max(1_000_000_000), windowMs: z.coerce.number().int().positive().max(31 * 86_400_000).optional(), windowSeconds: z.coerce.number().positive().max(31 * 86_400).optional() })

/**
 * The `controller` of a vDAG, overridden by the `custom_data` of a controller's config. `quota: { limit, windowSeconds }` is ours: a bound
 * that all controllers together keep; the checkers are AIOS's. Throws SPEC_INVALID naming the field.
 */
export function controllerSettings(controller: JsonObject, customData: JsonObject = {}): ControllerSettings {
  const all: JsonObject = { ...controller, ...customData }
  const problems = new Problems('vDAG controller')
  const checker = (name: string): { readonly rule: PolicyRef; readonly given: JsonObject } | undefined => {
    const given = all[name]
    if (given === undefined || given === null) return undefined
    if (!isJsonObject(given)) {
      problems.add(name, `give { "enabled": true, "${name}PolicyRule": { "policyRuleURI": … } }`)
      return undefined
    }
    const on = switched.safeParse(given)
    if (on.success && (!on.data.enabled || on.data.disable)) return undefined
    const rule = parsePolicyRef(new Fields(given, name, problems), `${name}PolicyRule`, 'policyRule')
    return rule === undefined ? undefined : { rule, given }
  }
  const [quotaChecker, qualityChecker, healthChecker] = [checker('quotaChecker')?.rule ?? sourceQuota(all, problems), checker('qualityChecker'), checker('healthChecker')]
  const terms = readQuota(all['quota'], problems)
  const count = (value: Json | undefined, otherwise: number): number => (typeof value === 'number' && value > 0 ? Math.ceil(value) : otherwise)
  problems.settle()
  return {
    ...(terms === undefined ? {} : { quota: terms }),
    ...(quotaChecker === undefined ? {} : { quotaChecker }),
    ...(qualityChecker === undefined ? {} : { qualityChecker: { rule: qualityChecker.rule, framesInterval: count(qualityChecker.given['framesInterval'], FRAMES_INTERVAL) } }),
    ...(healthChecker === undefined ? {} : { healthChecker: { rule: healthChecker.rule, intervalMs: 1_000 * count(healthChecker.given['interval'], HEALTH_INTERVAL_S), maxRetries: count(healthChecker.given['maxRetries'], 1) } }),
  }
}

/** AIOS's documentation puts a quota rule under the input source. */
function sourceQuota(controller: JsonObject, problems: Problems): PolicyRef | undefined {
  const sources = controller['inputSources']
  for (const source of Array.isArray(sources) ? sources : []) {
    const config: Json | undefined = isJsonObject(source) && source['enabled'] !== false ? source['sourceConfig'] : undefined
    const rule = isJsonObject(config) ? parsePolicyRef(new Fields(config, 'inputSources.sourceConfig', problems), 'quotaCheckerPolicyRule') : undefined
    if (rule !== undefined) return rule
  }
  return undefined
}

function readQuota(given: Json | undefined, problems: Problems): QuotaTerms | undefined {
  if (given === undefined || given === null) return undefined
  const parsed = quota.safeParse(given)
  if (!parsed.success) {
    problems.add('quota', 'give { "limit": 1000, "windowSeconds": 60 }')
    return undefined
  }
  const { limit, windowMs, windowSeconds } = parsed.data
  return { limit, windowMs: windowMs ?? (windowSeconds === undefined ? 60_000 : Math.ceil(windowSeconds * 1_000)) }
}
