import { MeshError } from '../../protocols/errors.ts'
import type { Cid, InstanceId, PeerId, RunId } from '../../protocols/ids.ts'
import { packet as packetSchema, type Packet } from '../../protocols/invoke.ts'
import type { Ports } from '../ports.ts'
import type { Invoker } from '../roles.ts'
import { fanIn } from './fan-in.ts'
import type { NodePolicies } from './node-policies.ts'
import type { PlanIndex } from './plan.ts'
import { getValue, putValue } from './records.ts'
import type { RunEffect } from './run.ts'

export type NodeResult = { readonly output: Cid; readonly host: PeerId; readonly route: string[] | undefined }

/** Packets one call may answer. */
const OUTPUTS = 10_000

/** Runs one attempt of one node: what arrived → converters → pre policies → muxer → the block → post policies → content store. */
export class NodeCalls {
  readonly #ports: Pick<Ports, 'clock' | 'content' | 'identity' | 'telemetry'>
  readonly #invoker: Invoker
  readonly #policies: NodePolicies

  constructor(ports: Pick<Ports, 'clock' | 'content' | 'identity' | 'telemetry'>, invoker: Invoker, policies: NodePolicies) {
    this.#ports = ports
    this.#invoker = invoker
    this.#policies = policies
  }

  /** `onStart` is told each instance that is tried. Throws what the block throws, CONTENT_UNAVAILABLE, POLICY_FAILED, DEADLINE. */
  async call(run: RunId, index: PlanIndex, effect: Extract<RunEffect, { type: 'invoke' }>, trace: string | undefined, cancelled: AbortSignal, onStart: (instance: InstanceId, host: PeerId) => void): Promise<NodeResult> {
    const { clock, content, identity, telemetry } = this.#ports
    const { plan } = index
    const signal = clock.deadline(plan.limits.deadlineMs, cancelled)
    const began = clock.monotonic()
    const arrived = await Promise.all(effect.arrivals.map(async ({ output, edge }) => {
      const packet = await getValue(content, output, packetSchema, signal)
      const converted = edge === undefined ? packet : await this.#policies.convert(packet, edge, effect.label, plan.vdag)
      return this.#policies.before(effect.player.pre, converted, index, effect.block, signal)
    }))
    let host = identity.peer
    const outputs: Packet[] = []
    const answers = this.#invoker.infer(effect.block, fanIn(arrived, effect.player.join), {
      deadlineMs: Math.max(1, plan.limits.deadlineMs - (clock.monotonic() - began)),
      signal,
      key: effect.key,
      whole: true,
      ...(trace === undefined ? {} : { trace }),
      vdag: { uri: plan.vdag, label: effect.label, run },
      onInstance: (instance, peer) => {
        host = peer
        onStart(instance, peer)
      },
    })
    for await (const output of answers) {
      outputs.push(output)
      if (outputs.length > OUTPUTS) throw new MeshError('COMPONENT_ERROR', `block ${effect.block} answered more than ${OUTPUTS} packets`)
    }
    const [first] = outputs
    if (first === undefined) {
      // AIOS: a block that returns nothing forwards nothing, and its branch ends here.
      telemetry.count('run_nodes_without_output_total', { block: effect.block })
      const nothing = { ...arrived[0]!, data: null, files: [] }
      return { output: await putValue(content, nothing, signal), host, route: [] }
    }
    const whole = outputs.length === 1 ? first : { ...fanIn(outputs, 'list'), data: { outputs: outputs.map(({ data }) => data) } }
    const { packet, route } = await this.#policies.after(effect.player.post, effect.label, whole, index, effect.block, signal)
    // Files that travel by CID lie with the instance's host alone; a second copy here outlives it.
    await Promise.all(packet.files.map(async file => (file.cid === undefined || await content.has(file.cid) ? undefined : content.fetch(file.cid, { signal, from: [host] }))))
    return { output: await putValue(content, packet, signal), host, route }
  }
}
