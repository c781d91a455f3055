import { z } from 'zod'
import { granted, MeshError } from '../../protocols/errors.ts'
import type { BlockId, Json, Millis } from '../../protocols/ids.ts'
import type { BlockRecord, PolicyRef } from '../../protocols/specs.ts'
import { isJsonObject, toJson } from '../lib/json.ts'
import type { HookName, MeshView, PolicyCalls } from '../roles.ts'
import { DEFAULT_RULE } from '../specs/policy-refs.ts'
import type { BlockInvoker } from './invoker.ts'

const HEALTH_MS: Millis = 5_000
const LOGS_MS: Millis = 10_000
const STREAM_PATH = '/v1/stream'
/** What every executor takes, besides what a `loadBalancer` policy declares. */
export const EXECUTOR_COMMANDS = ['estimate', 'check_execute', 'health_check', 'get_logs', 'enable_streaming', 'disable_streaming', 'is_streaming_enabled', 'get_streaming_url'] as const
const logsAsked = z.looseObject({ instanceID: z.string().optional(), instance_id: z.string().optional(), tail: z.coerce.number().int().min(1).max(10_000).default(100) })

export type ExecutorParts = {
  readonly view: MeshView
  readonly invoker: Pick<BlockInvoker, 'health' | 'logs' | 'load'>
  readonly policies: PolicyCalls & { management(rule: PolicyRef, action: string, data: Json, hook: HookName, scope?: string): Promise<Json> }
  /** Makes known whether answers of a block may be streamed. */
  readonly setStreaming: (block: BlockRecord, on: boolean) => Promise<void>
  /** Where this peer's HTTP door is. */
  readonly door: () => string | undefined
}

/**
 * Answers what AIOS asks of a block's executor: here that is whoever calls the block, so any peer answers. `estimate`, `check_execute` and
 * `health_check` go to the block's load balancer in the mode of that name where it has one; what is not built in is a command to its rule.
 * Throws BAD_INPUT, POLICY_FAILED.
 */
export class ExecutorCommands {
  readonly #parts: ExecutorParts

  constructor(parts: ExecutorParts) {
    this.#parts = parts
  }

  async perform(block: BlockRecord, action: string, data: Json, signal?: AbortSignal): Promise<Json> {
    const { blockId } = block
    const { invoker, setStreaming, policies } = this.#parts
    const patience = signal === undefined ? {} : { signal }
    switch (action) {
      case 'estimate':
      case 'check_execute':
        return this.#mode(block, action, { inputs: data }, async () => this.#estimate(blockId, action))
      case 'health_check':
        return this.#mode(block, action, {}, async () => toJson(await invoker.health(blockId, { deadlineMs: HEALTH_MS, ...patience })))
      case 'get_logs': {
        const asked = logsAsked.safeParse(isJsonObject(data) ? data : {})
        if (!asked.success) throw new MeshError('BAD_INPUT', 'get_logs takes { instanceID?, tail? }: tail is a number of lines')
        const { instanceID, instance_id, tail } = asked.data
        return toJson(await invoker.logs(blockId, instanceID ?? instance_id, tail, { deadlineMs: LOGS_MS, ...patience }))
      }
      case 'enable_streaming':
      case 'disable_streaming':
        await setStreaming(block, action === 'enable_streaming')
        return { streaming: action === 'enable_streaming' }
      case 'is_streaming_enabled':
        return { streaming: block.streaming !== false }
      case 'get_streaming_url':
        return this.#streamingUrl(block, data)
      default: {
        const rule = block.policies['loadBalancer']
        if (rule === undefined || rule.policyRuleURI === DEFAULT_RULE) throw new MeshError('BAD_INPUT', `the executor has no command ${action.slice(0, 60)}: it has ${EXECUTOR_COMMANDS.join(', ')}, and those of a loadBalancer policy where the block names one`)
        return policies.management(rule, action, data, 'loadBalancer', blockId)
      }
    }
  }

  /** A rule that gives no opinion leaves it to what is built in. */
  async #mode(block: BlockRecord, mode: string, more: { readonly [key: string]: Json }, own: () => Promise<Json>): Promise<Json> {
    const { value } = await this.#parts.policies.decide<Json | undefined>({
      hook: 'loadBalancer', rule: block.policies['loadBalancer'], scope: block.blockId,
      input: { mode, ...more, instances: this.#ready(block.blockId).map(({ instance }) => instance) },
      settings: { block_data: toJson(block) },
      accept: answer => granted(answer === null ? undefined : answer),
      fallback: () => undefined,
    })
    return value ?? own()
  }

  /** What a call sent now would meet: how many wait before it, and about how long until its answer. */
  async #estimate(block: BlockId, mode: 'estimate' | 'check_execute'): Promise<Json> {
    const loads = Object.values(await this.#parts.invoker.load(block, { deadlineMs: HEALTH_MS }).catch(() => ({})))
    const waits = loads.map(({ queued, inFlight, width, latencyMs }) => ({ queued, ms: Math.round((Math.floor((inFlight + queued) / width) + 1) * latencyMs) }))
    const best = waits.sort((a, b) => a.ms - b.ms)[0]
    const estimate = { instances: loads.length, queue_length: best?.queued ?? 0, estimated_ms: best?.ms ?? null }
    return mode === 'estimate' ? estimate : { allowed: loads.length > 0, ...estimate }
  }

  #streamingUrl(block: BlockRecord, data: Json): Json {
    if (block.streaming === false) throw new MeshError('FORBIDDEN', `answers of ${block.blockId} are not streamed: enable_streaming changes that`)
    const door = this.#parts.door()
    const session = isJsonObject(data) && typeof data['session_id'] === 'string' ? data['session_id'] : null
    return { url: `${door === undefined ? '' : door.replace(/^http/, 'ws')}${STREAM_PATH}`, model: block.blockId, session_id: session }
  }

  #ready(block: BlockId) {
    return this.#parts.view.instancesOf(block).map(({ ad }) => ad).filter(({ state }) => state === 'ready')
  }
}
