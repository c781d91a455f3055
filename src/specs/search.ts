import type { PolicyRef } from '../../protocols/specs.ts'
import { assert } from '../lib/assert.ts'
import type { JsonObject } from './document.ts'
import { specValues } from './envelope.ts'
import { Fields } from './fields.ts'
import { readFilter, type FilterIR, type MatchType } from './filter.ts'
import { parsePolicyRef } from './policy-refs.ts'
import { Problems } from './problems.ts'

/** A filter, then a ranking rule over what it found. */
export type SearchIR = { readonly matchType: MatchType; readonly filterRule: FilterIR; readonly rankingPolicyRule: PolicyRef; readonly limit?: number }

/**
 * Documents to look through, in AIOS's shapes (`id`, `blockId`/`id`, `componentURI`, `vdagURI`, …). Metrics documents
 * name their subject (`clusterId`, `blockId`, `vdagURI`); where a list of them is absent, each subject's own `metrics`
 * field is used.
 */
export type SearchSources = {
  readonly clusters?: readonly JsonObject[]
  readonly blocks?: readonly JsonObject[]
  readonly components?: readonly JsonObject[]
  readonly vdags?: readonly JsonObject[]
  readonly policies?: readonly JsonObject[]
  readonly policyFunctions?: readonly JsonObject[]
  readonly policyGraphs?: readonly JsonObject[]
  readonly clusterMetrics?: readonly JsonObject[]
  readonly blockMetrics?: readonly JsonObject[]
  readonly vdagMetrics?: readonly JsonObject[]
}

/** A search, enveloped or bare, with or without `.values` around its rule. Throws SPEC_INVALID. */
export function parseSearch(document: unknown): SearchIR {
  const problems = new Problems('search')
  const spec = new Fields(specValues(document, 'search'), '', problems)
  const rule = parsePolicyRef(spec, 'rankingPolicyRule')
  if (rule === undefined && problems.count === 0) spec.wrong('rankingPolicyRule', spec.find('rankingPolicyRule'), 'give { "policyRuleURI": …, "parameters": { "filterRule": … } }')
  const parameters = new Fields(rule?.parameters ?? {}, spec.path('rankingPolicyRule.parameters'), problems)
  if (rule !== undefined && parameters.find('filterRule') === undefined) parameters.wrong('filterRule', undefined, 'give { "matchType": …, "filter": { … } }')
  const filterRule = rule === undefined || parameters.find('filterRule') === undefined ? undefined : readFilter(parameters.inside('filterRule'))
  const limit = parameters.count(['return'], 1, 100_000)
  problems.settle()
  assert(rule !== undefined && filterRule !== undefined, 'a search without a rule passed its check')
  return { matchType: filterRule.matchType, filterRule, rankingPolicyRule: rule, ...(limit === undefined ? {} : { limit }) }
}
