import { MeshError } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import { policyJobBody, policyResultBody, type PolicyJobBody, type PolicyJobState, type PolicyResultBody } from '../../protocols/policy.ts'
import type { Identity } from '../ports.ts'
import { unseal } from '../trust/seal.ts'

const BODY_BYTES = 524_288
/** Parameters and inputs of a job, and its output, as JSON text: with both a state still fits its message. */
export const JOB_BYTES = 262_144

/** A job with what was signed about it taken apart. */
export type Job = {
  readonly body: PolicyJobBody
  readonly submitter: PeerId
  readonly executor: PeerId
  readonly epoch: number
  readonly result: PolicyResultBody | undefined
  /** As it travels. */
  readonly state: PolicyJobState
}

/** Checks who signed what. Throws SIGNATURE_INVALID, MESSAGE_INVALID; a result counts only from the executor named for its epoch. */
export function readJob(identity: Identity, state: PolicyJobState): Job {
  const { value: body, signer: submitter } = unseal(identity, 'policy-job', policyJobBody, state.job, BODY_BYTES)
  const { executor, epoch } = state
  if (state.result === undefined) return { body, submitter, executor, epoch, result: undefined, state }
  const { value: result, signer } = unseal(identity, 'policy-result', policyResultBody, state.result, BODY_BYTES)
  if (signer !== executor || result.job !== body.id || result.epoch !== epoch) throw new MeshError('SIGNATURE_INVALID', `the result of job ${body.id} is not from the executor that was named for it`)
  return { body, submitter, executor, epoch, result, state }
}

/** Which of two states of one job stands: every peer that knows both keeps the same one. A job that was signed twice under one id is the first one's. */
export function standing(a: Job, b: Job): Job {
  if (a.submitter !== b.submitter || a.body.submittedAt !== b.body.submittedAt) return a.body.submittedAt < b.body.submittedAt || (a.body.submittedAt === b.body.submittedAt && a.submitter < b.submitter) ? a : b
  if (a.epoch !== b.epoch) return a.epoch > b.epoch ? a : b
  if ((a.result === undefined) !== (b.result === undefined)) return a.result === undefined ? b : a
  return a.executor <= b.executor ? a : b
}
