import type { Json } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { isObject, type JsonObject } from './document.ts'
import { Fields } from './fields.ts'
import { parsePolicyRef } from './policy-refs.ts'
import { Problems } from './problems.ts'

const NAMES = ['failurePolicy', 'failure_policy', 'failurePolicyRule', 'failure_policy_id'] as const

/** The failure policy that a block's init data, a vDAG's controller, or the config of a cluster or network names, under any of its names. */
export function failureRef(given: Json | undefined): PolicyRef | undefined {
  if (given === undefined || !isObject(given)) return undefined
  const found: JsonObject = given
  const [first, ...others] = NAMES
  return parsePolicyRef(new Fields(found, '', new Problems('failure policy')), first, ...others)
}
