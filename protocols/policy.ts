import { z } from 'zod'
import { defineProtocol } from './codec.ts'
import { bytes, epoch, json, peerId } from './ids.ts'
import { signed } from './signed.ts'
import { policyRef, template, uri } from './specs.ts'

/** Names that people give to executors, functions and jobs. */
const given = z.string().min(1).max(200).regex(/^[A-Za-z0-9][A-Za-z0-9._-]*$/, 'use letters, digits, ".", "_" and "-"')
const members = z.record(z.string().max(200), json)
const labels = z.record(z.string().max(60), z.string().max(200))

/** A name under which a peer runs the policies of others. Value of the `executors` registry; every peer is one under its own id. */
export const policyExecutor = z.object({
  executorId: given,
  host: peerId,
  metadata: members,
  hardware: members,
  /** Asked before the executor takes a job or function "with estimate". */
  resourceEstimator: policyRef.optional(),
})
export type PolicyExecutor = z.infer<typeof policyExecutor>

/** A rule that keeps running, as somebody wants it. Value of the `functions` registry; whoever may operate on it renews it as its copies move. */
export const policyFunction = z.object({
  functionId: given,
  policyRuleURI: uri,
  parameters: members,
  settings: members,
  minReplicas: z.int().min(1).max(64),
  maxReplicas: z.int().min(1).max(64),
  /** Share of its time a copy should be busy; absent where nothing is scaled. */
  targetUtilisation: z.number().min(0.01).max(1).optional(),
  /** The executor asked for; "" leaves it to the mesh. */
  executor: z.string().max(200),
  nodeSelector: labels,
  metadata: members,
  tags: z.array(z.string().max(100)).max(200),
  /** Where its copies live now. One that moves keeps its name and its state, one epoch later (absent: the first). */
  replicas: z.array(z.object({ replica: given, host: peerId, epoch: epoch.optional() })).max(64),
  /** Its rule keeps nothing that anybody would miss: its state is not mirrored. */
  stateless: z.boolean().optional(),
})
export type PolicyFunction = z.infer<typeof policyFunction>

/** Functions that feed one another. Named by `graphs`; checked to be acyclic with one leaf. */
export const policyGraph = z.object({
  graphURI: uri,
  name: z.string().min(1).max(200),
  version: z.string().min(1).max(200),
  releaseTag: z.string().min(1).max(200),
  functionIds: z.array(given).min(1).max(200),
  connections: z.record(z.string().max(200), z.array(given).max(200)),
  searchTags: z.array(z.string().max(100)).max(200),
  description: z.string().max(2_000),
  metadata: members,
  inputSchema: template,
  outputSchema: template,
  author: peerId,
})
export type PolicyGraph = z.infer<typeof policyGraph>

/** "Evaluate this once, on a copy of its own." `settings` carries what the asker injects: a live callable answers from that snapshot. */
export const policyExecute = defineProtocol({
  id: '/aios/policy/1',
  request: z.object({ policy: uri, parameters: members, settings: members, input: json }),
  response: z.object({ value: json, fuel: z.int().nonnegative() }),
  // Inputs of a sandbox end at two million characters, answers at one.
  limits: { requestBytes: 4_194_304, responseBytes: 4_194_304, perPeerPerSecond: 500, deadlineMs: 10_000 },
})

/** Signed by whoever wants it, domain `policy-job`. */
export const policyJobBody = z.object({
  id: given,
  name: z.string().min(1).max(200),
  policy: uri,
  parameters: members,
  input: json,
  nodeSelector: labels,
  /** The executor asked for; "" leaves it to the mesh. */
  executor: z.string().max(200),
  submittedAt: z.int(),
})
export type PolicyJobBody = z.infer<typeof policyJobBody>

/** Signed by the host that ran it, domain `policy-result`. */
export const policyResultBody = z.object({
  job: given,
  epoch,
  status: z.enum(['completed', 'failed']),
  output: json,
  startedAt: z.int(),
  endedAt: z.int(),
})
export type PolicyResultBody = z.infer<typeof policyResultBody>

/** What a keeper of a job knows: whose turn it is to run it, and what came of it. A higher epoch names another host. */
export const policyJobState = z.object({ job: signed, executor: peerId, epoch, result: signed.optional() })
export type PolicyJobState = z.infer<typeof policyJobState>

/** A job is kept by several: durable before each answers. Whoever is named as its executor runs it. */
export const policyJob = defineProtocol({
  id: '/aios/policy-job/1',
  request: z.discriminatedUnion('do', [
    z.object({ do: z.literal('keep'), state: policyJobState }),
    z.object({ do: z.literal('read'), job: given }),
    z.object({ do: z.literal('list'), after: z.string().max(200).optional() }),
  ]),
  /** `known`: the newer of what was offered and what was there. */
  response: z.object({ known: policyJobState.optional(), states: z.array(policyJobState).max(256).optional(), next: z.string().max(200).optional() }),
  limits: { requestBytes: 1_048_576, responseBytes: 4_194_304, perPeerPerSecond: 200, deadlineMs: 5_000 },
})

const policyCallRequest = z.discriminatedUnion('do', [
  z.object({ do: z.literal('call'), function: given, replica: given, input: json }),
  z.object({ do: z.literal('manage'), function: given, replica: given, action: z.string().min(1).max(200), data: json }),
  z.object({ do: z.literal('load'), function: given }),
  z.object({ do: z.literal('logs'), function: given, tail: z.int().min(1).max(1_000) }),
])
export type PolicyCallRequest = z.infer<typeof policyCallRequest>

const policyCallResponse = z.object({
  value: json.optional(),
  /** Since the last question: how busy each copy was, from 0 to 1 and more where calls waited. */
  replicas: z.array(z.object({ replica: given, calls: z.int().nonnegative(), failures: z.int().nonnegative(), busy: z.number().nonnegative() })).max(64).optional(),
  lines: z.array(z.string().max(600)).max(1_000).optional(),
})
export type PolicyCallResponse = z.infer<typeof policyCallResponse>

/** To the host of a function's copy. */
export const policyCall = defineProtocol({
  id: '/aios/policy-function/1',
  request: policyCallRequest,
  response: policyCallResponse,
  limits: { requestBytes: 4_194_304, responseBytes: 4_194_304, perPeerPerSecond: 2_000, deadlineMs: 10_000 },
})

/** The largest state a copy may have, as its sandbox saves it. */
export const FUNCTION_STATE_BYTES = 524_288

/** Signed by the host of a copy, domain `function-state`: all that it holds after a call. */
export const functionStateBody = z.object({ function: given, replica: given.max(100), epoch, version: z.int().nonnegative(), state: bytes.refine(({ byteLength }) => byteLength <= FUNCTION_STATE_BYTES, 'too large a state') })
export type FunctionStateBody = z.infer<typeof functionStateBody>

/** A copy's host tells two others what it holds before it answers a call; the host that replaces it asks them. */
export const functionState = defineProtocol({
  id: '/aios/function-state/1',
  request: z.discriminatedUnion('do', [
    z.object({ do: z.literal('keep'), state: signed }),
    z.object({ do: z.literal('read'), function: given, replica: given.max(100) }),
  ]),
  /** `state`: the newest that is known. */
  response: z.object({ state: signed.optional() }),
  limits: { requestBytes: 655_360, responseBytes: 655_360, perPeerPerSecond: 2_000, deadlineMs: 5_000 },
})
