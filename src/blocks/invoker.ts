import { z } from 'zod'
import { MeshError, asMeshError, isErrorCode, refused } from '../../protocols/errors.ts'
import { invoke, packet as packetSchema, type InvokeFrame, type Packet } from '../../protocols/invoke.ts'
import type { BlockId, InstanceId, Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { Backoff } from '../lib/backoff.ts'
import { Lru } from '../lib/lru.ts'
import { isJsonObject, toJson } from '../lib/json.ts'
import type { Health, Ports, Random } from '../ports.ts'
import type { CallOptions, Catalogue, Invoker, MeshView, PolicyCalls } from '../roles.ts'
import { namedInstance, pickInstance, type Candidate } from './balance.ts'
import { pack, unpackJson, unpackPacket } from './bodies.ts'
import type { Call, Calls } from './calls.ts'

const RETRIES = 24
/** When every ready instance has been tried, they get another go after this long. */
const ANOTHER_GO_MS = 300
const BACKOFF = { firstMs: 25, maxMs: 1_000, retries: RETRIES }
const SESSIONS_BOUND = 10_000
const sticky = z.object({ sticky_sessions: z.coerce.boolean().default(false) })
const named = z.object({ instance_id: z.string() })

/**
 * Calls instances of a block wherever they run. What has not answered yet and may be retried is sent to another instance;
 * when none is left it waits, within the caller's deadline, for the steward to bring one up.
 */
export class BlockInvoker implements Invoker {
  readonly #ports: Pick<Ports, 'clock' | 'network' | 'content' | 'telemetry'>
  readonly #random: Random
  readonly #view: MeshView
  readonly #calls: Calls
  readonly #catalogue: Catalogue
  readonly #policies: PolicyCalls
  readonly #outstanding = new Map<InstanceId, number>()
  readonly #sessions = new Lru<string, InstanceId>(SESSIONS_BOUND)

  constructor(ports: Pick<Ports, 'clock' | 'network' | 'content' | 'telemetry' | 'random'>, view: MeshView, calls: Calls, catalogue: Catalogue, policies: PolicyCalls) {
    this.#ports = ports
    this.#random = ports.random.fork('invoker')
    this.#view = view
    this.#calls = calls
    this.#catalogue = catalogue
    this.#policies = policies
  }

  async * infer(block: BlockId, packet: Packet, options: CallOptions): AsyncGenerator<Packet> {
    const signal = this.#ports.clock.deadline(options.deadlineMs, options.signal)
    const ends = this.#ports.clock.monotonic() + options.deadlineMs
    const avoid = new Set<InstanceId>(options.avoid)
    const backoff = new Backoff(this.#random, BACKOFF)
    let lastError: MeshError | undefined
    while (true) {
      const chosen = await this.#choose(block, packet, avoid, signal, lastError)
      let answered = false
      this.#outstanding.set(chosen.ad.instance, (this.#outstanding.get(chosen.ad.instance) ?? 0) + 1)
      options.onInstance?.(chosen.ad.instance, chosen.host)
      try {
        for await (const output of this.#once(chosen, block, packet, options, Math.max(1, ends - this.#ports.clock.monotonic()), signal)) {
          answered = true
          yield output
        }
        return
      } catch (error) {
        if (signal.aborted) throw asMeshError(signal.reason)
        lastError = asMeshError(error)
        const pauseMs = backoff.next()
        if (!lastError.retryable || answered || pauseMs === undefined) throw lastError
        this.#ports.telemetry.count('calls_retried_total', { code: lastError.code })
        // An overloaded instance may be free again; one that is gone will not come back under its id.
        if (lastError.code !== 'OVERLOADED') avoid.add(chosen.ad.instance)
        await this.#ports.clock.sleep(pauseMs, signal)
      } finally {
        const left = (this.#outstanding.get(chosen.ad.instance) ?? 1) - 1
        if (left <= 0) this.#outstanding.delete(chosen.ad.instance)
        else this.#outstanding.set(chosen.ad.instance, left)
      }
    }
  }

  /** Waits for a ready instance that was not tried; when all were tried and answered with an error, tries them again. */
  async #choose(block: BlockId, packet: Packet, avoid: Set<InstanceId>, signal: AbortSignal, lastError: MeshError | undefined): Promise<Candidate> {
    const record = await this.#catalogue.block(block)
    if (record === undefined) throw new MeshError('NOT_FOUND', `no block is called ${block}: \`aios block list\` shows those there are`)
    while (true) {
      if (signal.aborted) throw this.#gaveUp(block, signal, lastError)
      const ready = this.#candidates(block)
      const fresh = ready.filter(({ ad }) => !avoid.has(ad.instance))
      if (fresh.length > 0) return this.#pick(record, packet, fresh)
      const patience = ready.length > 0 ? this.#ports.clock.deadline(ANOTHER_GO_MS, signal) : signal
      await this.#nextChange(patience).catch(() => {
        if (signal.aborted) throw this.#gaveUp(block, signal, lastError)
        avoid.clear()
      })
    }
  }

  #gaveUp(block: BlockId, signal: AbortSignal, lastError: MeshError | undefined): MeshError {
    const reason = asMeshError(signal.reason)
    if (reason.code !== 'DEADLINE') return reason
    const known = this.#view.instancesOf(block).length
    return lastError ?? new MeshError('NO_INSTANCE', `block ${block} has ${known === 0 ? 'no instance' : `${known} instance(s), none ready`}: \`aios block show ${block}\` tells why`)
  }

  #candidates(block: BlockId): readonly Candidate[] {
    return this.#view.instancesOf(block).filter(({ ad }) => ad.state === 'ready').map(({ host, ad }) => ({ host, ad, ours: this.#outstanding.get(ad.instance) ?? 0 }))
  }

  async #pick(block: BlockRecord, packet: Packet, candidates: readonly Candidate[]): Promise<Candidate> {
    const stickyHere = packet.sessionId !== '' && sticky.safeParse(block.initData).data?.sticky_sessions === true
    const session = `${block.blockId}\0${packet.sessionId}`
    if (stickyHere) {
      const bound = this.#sessions.get(session)
      const same = candidates.find(({ ad }) => ad.instance === bound)
      if (same !== undefined) return same
    }
    const fair = (): Candidate => {
      const picked = pickInstance(candidates, [this.#random.float(), this.#random.float()])
      if (!picked.ok) throw new MeshError('NO_INSTANCE', picked.because)
      return picked.value
    }
    const rule = block.policies['loadBalancer']
    const chosen = rule === undefined
      ? fair()
      : (await this.#policies.decide<Candidate>({
          hook: 'loadBalancer',
          rule,
          input: { mode: 'load_balance', packet: { session_id: packet.sessionId, seq_no: packet.seqNo, ts: packet.ts, data: packet.data }, instances: candidates.map(({ ad }) => ad.instance) },
          settings: { get_metrics: { block_metrics: { blockId: block.blockId, instances: candidates.map(candidate => toJson({ instanceId: candidate.ad.instance, nodeId: candidate.host, ...candidate.ad, ours: candidate.ours })) }, cluster_metrics: {} } },
          scope: block.blockId,
          accept: answer => {
            const parsed = named.safeParse(answer)
            return parsed.success ? namedInstance(candidates, parsed.data.instance_id) : refused('a load balancer must return { instance_id }')
          },
          fallback: fair,
        })).value
    if (stickyHere) this.#sessions.set(session, chosen.ad.instance)
    return chosen
  }

  #nextChange(signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const stop = this.#view.onChange(() => resolve())
    const abort = (): void => reject(signal.reason)
    signal.addEventListener('abort', abort, { once: true })
    if (signal.aborted) abort()
    return promise.finally(() => {
      stop()
      signal.removeEventListener('abort', abort)
    })
  }

  async * #once(chosen: Candidate, block: BlockId, packet: Packet, options: CallOptions, deadlineMs: Millis, signal: AbortSignal): AsyncGenerator<Packet> {
    const call = this.#header(chosen, block, 'infer', options, deadlineMs)
    if (chosen.host === this.#view.self) {
      yield * this.#calls.infer(call, packetSchema.parse(packet), signal)
      return
    }
    for await (const frame of this.#frames(chosen.host, call, packet, signal)) {
      if (frame.header.kind !== 'output') throw unexpected(frame)
      const carried = frame.header.bodyCid === undefined ? { body: frame.body } : { body: frame.body, bodyCid: frame.header.bodyCid }
      if (frame.body.byteLength > 0 || frame.header.bodyCid !== undefined) yield await unpackPacket(this.#ports.content, carried, signal)
      if (frame.header.last) return
    }
    throw new MeshError('INSTANCE_FAILED', `${chosen.ad.instance} on ${chosen.host} stopped answering in the middle`)
  }

  async * #frames(host: PeerId, call: Call, value: Packet | Json, signal: AbortSignal): AsyncGenerator<InvokeFrame> {
    const { body, bodyCid } = await pack(this.#ports.content, value)
    await using stream = await this.#ports.network.open(host, invoke, signal)
    await stream.send({ header: bodyCid === undefined ? call : { ...call, bodyCid }, body })
    await stream.end()
    for await (const frame of stream) {
      if (frame.header.kind === 'error') throw remoteError(frame.header)
      yield frame
    }
  }

  #header(chosen: Candidate, block: BlockId, method: Call['method'], options: CallOptions, deadlineMs: Millis): Call {
    const { key, trace, vdag } = options
    return {
      kind: 'call', block, instance: chosen.ad.instance, epoch: chosen.ad.epoch, method, deadlineMs: Math.ceil(deadlineMs),
      ...(key === undefined ? {} : { key }), ...(trace === undefined ? {} : { trace }), ...(vdag === undefined ? {} : { vdag }),
    }
  }

  async management(block: BlockId, instance: InstanceId | undefined, action: string, data: Json, options: CallOptions): Promise<Readonly<Record<InstanceId, Json>>> {
    return this.#fanOut(block, instance, 'management', { action, data }, options)
  }

  async update(block: BlockId, parameters: Json, options: CallOptions): Promise<Readonly<Record<InstanceId, Json>>> {
    return this.#fanOut(block, undefined, 'update', parameters, options)
  }

  async health(block: BlockId, options: CallOptions): Promise<Readonly<Record<InstanceId, Health>>> {
    const answers = await this.#fanOut(block, undefined, 'health', null, options)
    return Object.fromEntries(Object.entries(answers).map(([id, answer]) => [id, { healthy: isJsonObject(answer) && answer['healthy'] === true, detail: isJsonObject(answer) ? answer['detail'] ?? null : answer }]))
  }

  async logs(block: BlockId, instance: InstanceId | undefined, tail: number, options: CallOptions): Promise<Readonly<Record<InstanceId, readonly string[]>>> {
    const answers = await this.#fanOut(block, instance, 'logs', tail, options)
    return Object.fromEntries(Object.entries(answers).map(([id, lines]) => [id, Array.isArray(lines) ? lines.map(String) : [`(no logs: ${JSON.stringify(lines)})`]]))
  }

  /** One answer an instance; an instance that fails answers `{ error }`, so that one does not hide the others. */
  async #fanOut(block: BlockId, instance: InstanceId | undefined, method: Call['method'], body: Json, options: CallOptions): Promise<Record<InstanceId, Json>> {
    const all = this.#candidates(block).filter(({ ad }) => instance === undefined || ad.instance === instance)
    if (all.length === 0) throw new MeshError('NO_INSTANCE', instance === undefined ? `block ${block} has no ready instance` : `${instance} is not a ready instance of ${block}`)
    const signal = this.#ports.clock.deadline(options.deadlineMs, options.signal)
    const answers = await Promise.all(all.map(async candidate => {
      try {
        return [candidate.ad.instance, await this.#control(candidate, block, method, body, options, signal)] as const
      } catch (error) {
        return [candidate.ad.instance, { error: toJson(asMeshError(error).toJSON()) }] as const
      }
    }))
    return Object.fromEntries(answers)
  }

  async #control(candidate: Candidate, block: BlockId, method: Call['method'], body: Json, options: CallOptions, signal: AbortSignal): Promise<Json> {
    const call = this.#header(candidate, block, method, options, options.deadlineMs)
    if (candidate.host === this.#view.self) return this.#calls.control(call, body, signal)
    for await (const frame of this.#frames(candidate.host, call, body, signal)) {
      if (frame.header.kind !== 'output') throw unexpected(frame)
      return unpackJson(this.#ports.content, frame.header.bodyCid === undefined ? { body: frame.body } : { body: frame.body, bodyCid: frame.header.bodyCid }, signal)
    }
    throw new MeshError('INSTANCE_FAILED', `${candidate.ad.instance} on ${candidate.host} did not answer`)
  }
}

function remoteError(header: { readonly code: string; readonly message: string; readonly retryable: boolean }): MeshError {
  return new MeshError(isErrorCode(header.code) ? header.code : 'INSTANCE_FAILED', header.message, { retryable: header.retryable })
}

function unexpected(frame: InvokeFrame): MeshError {
  return new MeshError('MESSAGE_INVALID', `expected an output frame, got ${frame.header.kind}`)
}
