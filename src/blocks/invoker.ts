import { z } from 'zod'
import { MeshError, asMeshError, isErrorCode, refused, type ErrorCode } from '../../protocols/errors.ts'
import { invoke, type InvokeFrame, type Packet } from '../../protocols/invoke.ts'
import type { BlockId, InstanceId, Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { Backoff } from '../lib/backoff.ts'
import { Lru } from '../lib/lru.ts'
import { isJsonObject, toJson } from '../lib/json.ts'
import { failureText, traceSpan } from '../lib/trace-span.ts'
import type { Health, Ports, Random } from '../ports.ts'
import type { CallOptions, Catalogue, Invoker, MeshView, MetricsSource, PolicyCalls } from '../roles.ts'
import { namedInstance, pickInstance, type Candidate } from './balance.ts'
import { checkPacket, pack, unpackJson, unpackPacket } from './bodies.ts'
import { bodyOf, type Call, type Calls } from './calls.ts'
import { instanceLoad, type InstanceLoad } from './instance-load.ts'
import { span, type Span } from './span.ts'

const RETRIES = 24
/** When every ready instance has been tried, they get another go after this long. */
const ANOTHER_GO_MS = 300
/** Packets of one answer that is taken whole. */
const WHOLE_BOUND = 10_000
const BACKOFF = { firstMs: 25, maxMs: 1_000, retries: RETRIES }
/** The same failure that often is the packet's own: a bug that it meets, or memory that it takes. Others need not die of it, nor the caller wait. */
const SAME_FAILURES = 3
const SESSIONS_BOUND = 10_000
/** Calls of one block that wait here for an instance to take them. */
const WAITING_BOUND = 1_000
const sticky = z.object({ sticky_sessions: z.union([z.boolean(), z.stringbool()]).default(false) })
const named = z.object({ instance_id: z.string() })
const followed = z.object({ next: z.number(), lines: z.array(z.string()) })
/** Said by a host and not by the instance: it will not change its mind, but another host may be of another one. */
const ELSEWHERE: ReadonlySet<ErrorCode> = new Set(['UNAUTHENTICATED', 'NETWORK_REFUSED', 'PROTOCOL_UNSUPPORTED'])

/** One call's way through the instances. */
type Search = {
  readonly block: BlockId
  readonly packet: Packet
  readonly signal: AbortSignal
  /** Never asked: the caller said so, or their hosts refused. */
  readonly avoid: Set<InstanceId>
  /** Asked and failed: asked again when the others have failed too. */
  readonly tried: Set<InstanceId>
  failure: MeshError | undefined
  /** How often instances failed with these words. */
  readonly heard: Map<string, number>
}

/**
 * Calls instances of a block wherever they run. What has not answered yet and may be retried is sent to another instance;
 * when none is left it waits, within the caller's deadline, for the steward to bring one up.
 */
export class BlockInvoker implements Invoker {
  readonly #ports: Pick<Ports, 'clock' | 'network' | 'content' | 'telemetry'>
  readonly #random: Random
  readonly #view: MeshView
  readonly #calls: Calls
  readonly #catalogue: Pick<Catalogue, 'block' | 'onBlock'>
  readonly #policies: PolicyCalls
  readonly #metrics: Pick<MetricsSource, 'known'>
  readonly #outstanding = new Map<InstanceId, number>()
  readonly #sessions = new Lru<string, InstanceId>(SESSIONS_BOUND)
  /** Calls that no instance has taken yet. */
  readonly #waiting = new Map<BlockId, number>()
  #wanting: (block: BlockId) => void = () => undefined
  /** Calls at each host, to be given up when it is dead. */
  readonly #away = new Map<PeerId, Set<Span>>()

  constructor(ports: Pick<Ports, 'clock' | 'network' | 'content' | 'telemetry' | 'random'>, view: MeshView, calls: Calls, catalogue: Pick<Catalogue, 'block' | 'onBlock'>, policies: PolicyCalls & { release(scope: string): void }, metrics: Pick<MetricsSource, 'known'>) {
    this.#ports = ports
    this.#random = ports.random.fork('invoker')
    this.#view = view
    this.#calls = calls
    this.#catalogue = catalogue
    this.#policies = policies
    this.#metrics = metrics
    view.onLife((peer, what) => {
      // A host that lost its power closes nothing: its calls would wait for their deadlines.
      if (what === 'dead' || what === 'left') for (const call of this.#away.get(peer) ?? []) call.fail(new MeshError('PEER_UNREACHABLE', `${peer} is ${what === 'dead' ? 'dead' : 'gone'}`))
    })
    catalogue.onBlock((id, block) => {
      if (block === undefined) policies.release(id)
    })
  }

  /** Whoever wakes a block that has no instance and is called. One at most. */
  wakeBy(wanting: (block: BlockId) => void): void {
    this.#wanting = wanting
  }

  async * infer(block: BlockId, packet: Packet, options: CallOptions): AsyncGenerator<Packet> {
    const { clock, telemetry } = this.#ports
    using whole = span([options.signal], { clock, ms: options.deadlineMs })
    const ends = clock.monotonic() + options.deadlineMs
    const search: Search = { block, packet, signal: whole.signal, avoid: new Set(options.avoid), tried: new Set(), failure: undefined, heard: new Map() }
    const backoff = new Backoff(this.#random, BACKOFF)
    while (true) {
      const chosen = await this.#queued(search)
      let answered = false
      const called = traceSpan(telemetry, `call ${block}`, 'client', options.trace, { block, instance: chosen.ad.instance, host: chosen.host, tried: search.tried.size })
      try {
        options.onInstance?.(chosen.ad.instance, chosen.host)
        const outputs: Packet[] = []
        for await (const output of this.#attempt(chosen, search, called.traceparent === undefined ? options : { ...options, trace: called.traceparent }, ends - clock.monotonic())) {
          if (options.whole === true) {
            if (outputs.push(output) > WHOLE_BOUND) throw new MeshError('COMPONENT_ERROR', `an answer taken whole may have at most ${WHOLE_BOUND} packets: stream it`)
            continue
          }
          answered = true
          yield output
        }
        answered = true
        yield * outputs
        return
      } catch (error) {
        called.end(failureText(error))
        if (search.signal.aborted) throw search.signal.reason
        const failure = asMeshError(error)
        search.failure = failure
        const pauseMs = backoff.next()
        const elsewhere = ELSEWHERE.has(failure.code)
        if (answered || pauseMs === undefined || !(failure.retryable || elsewhere) || hopeless(search, failure)) throw failure
        telemetry.count('calls_retried_total', { code: failure.code })
        if (elsewhere) search.avoid.add(chosen.ad.instance)
        // An overloaded instance may be free again; one that is gone will not come back under its id.
        else if (failure.code !== 'OVERLOADED') search.tried.add(chosen.ad.instance)
        // Out of time: the next choice says so, with what went wrong until then.
        await this.#counted(search, clock.sleep(pauseMs, search.signal).catch(() => undefined))
      } finally {
        called.end()
        this.#giveBack(chosen)
      }
    }
  }

  /** The way to an instance is a queue with an end: what could only wait behind a thousand others is told so at once. */
  async #queued(search: Search): Promise<Candidate> {
    const waiting = this.#waiting.get(search.block) ?? 0
    if (waiting >= WAITING_BOUND) throw search.failure ?? new MeshError('OVERLOADED', `QUEUE_FULL: ${waiting} calls of ${search.block} wait at this peer for an instance: come back later`, { details: { reason: 'QUEUE_FULL', retryAfterMs: 1_000 } })
    return this.#counted(search, this.#choose(search))
  }

  async #counted<T>({ block }: Search, work: Promise<T>): Promise<T> {
    this.#waiting.set(block, (this.#waiting.get(block) ?? 0) + 1)
    try {
      return await work
    } finally {
      const left = (this.#waiting.get(block) ?? 1) - 1
      if (left <= 0) this.#waiting.delete(block)
      else this.#waiting.set(block, left)
    }
  }

  /** Waits for a ready instance that was not tried; when all were tried and failed, tries them again. Counts the one it gives. */
  async #choose(search: Search): Promise<Candidate> {
    const { block, signal, avoid, tried } = search
    const record = await this.#catalogue.block(block)
    if (record === undefined) throw unknownBlock(block)
    using anotherGo = span([signal], { clock: this.#ports.clock, ms: ANOTHER_GO_MS })
    while (true) {
      if (signal.aborted) throw this.#gaveUp(search)
      const ready = this.#candidates(block)
      const allowed = ready.filter(({ ad }) => !avoid.has(ad.instance))
      if (allowed.length === 0 && ready.length > 0 && search.failure !== undefined && ELSEWHERE.has(search.failure.code)) throw search.failure
      if (anotherGo.signal.aborted) tried.clear()
      const fresh = allowed.filter(({ ad }) => !tried.has(ad.instance))
      const healthy = fresh.filter(({ ad }) => ad.unhealthy !== true)
      if (fresh.length > 0) return this.#pick(record, search.packet, healthy.length > 0 ? healthy : fresh)
      if (ready.length === 0 && record.minInstances === 0) this.#wanting(block)
      await this.#nextChange(allowed.length > 0 ? anotherGo.signal : signal)
    }
  }

  #gaveUp({ block, signal, failure }: Search): MeshError {
    const reason = asMeshError(signal.reason)
    if (reason.code !== 'DEADLINE') return reason
    const known = this.#view.instancesOf(block).length
    return failure ?? new MeshError('NO_INSTANCE', `block ${block} has ${known === 0 ? 'no instance' : `${known} instance(s), none ready`}: \`aios block show ${block}\` tells why`)
  }

  #candidates(block: BlockId): readonly Candidate[] {
    return this.#view.instancesOf(block).filter(({ ad }) => ad.state === 'ready').map(({ host, ad }) => ({ host, ad, ours: this.#outstanding.get(ad.instance) ?? 0 }))
  }

  async #pick(block: BlockRecord, packet: Packet, candidates: readonly Candidate[]): Promise<Candidate> {
    const session = packet.sessionId !== '' && sticky.safeParse(block.initData).data?.sticky_sessions === true ? `${block.blockId}\0${packet.sessionId}` : undefined
    const bound = (): Candidate | undefined => {
      const instance = session === undefined ? undefined : this.#sessions.get(session)
      return instance === undefined ? undefined : candidates.find(({ ad }) => ad.instance === instance)
    }
    let chosen = bound()
    if (chosen === undefined) {
      const balanced = await this.#balance(block, packet, candidates)
      // Another packet of the session may have been bound while the policy thought.
      chosen = bound() ?? balanced
    }
    if (session !== undefined) this.#sessions.set(session, chosen.ad.instance)
    this.#outstanding.set(chosen.ad.instance, (this.#outstanding.get(chosen.ad.instance) ?? 0) + 1)
    return chosen
  }

  async #balance(block: BlockRecord, packet: Packet, candidates: readonly Candidate[]): Promise<Candidate> {
    const fair = (): Candidate => {
      const picked = pickInstance(candidates, [this.#random.float(), this.#random.float()])
      if (!picked.ok) throw new MeshError('NO_INSTANCE', picked.because)
      return picked.value
    }
    const rule = block.policies['loadBalancer']
    if (rule === undefined) return fair()
    const decision = await this.#policies.decide<Candidate>({
      hook: 'loadBalancer',
      rule,
      input: { mode: 'load_balance', packet: { session_id: packet.sessionId, seq_no: packet.seqNo, ts: packet.ts, data: packet.data }, instances: candidates.map(({ ad }) => ad.instance) },
      settings: { get_metrics: this.#metricsOf(block.blockId, candidates), block_data: toJson(block) },
      scope: block.blockId,
      accept: answer => {
        const parsed = named.safeParse(answer)
        return parsed.success ? namedInstance(candidates, parsed.data.instance_id) : refused('a load balancer must return { instance_id }')
      },
      fallback: fair,
    })
    return decision.value
  }

  /** With what this peer has under way at each instance, which is newer than anything an instance could tell. */
  #metricsOf(block: BlockId, candidates: readonly Candidate[]): Json {
    const { block_metrics, cluster_metrics } = this.#metrics.known({ block })
    const ours = new Map(candidates.map(({ ad, ours }) => [ad.instance, ours]))
    const { instances } = block_metrics
    return { block_metrics: { ...block_metrics, instances: (Array.isArray(instances) ? instances.filter(isJsonObject) : []).map(instance => ({ ...instance, ours: ours.get(String(instance['instanceId'])) ?? 0 })) }, cluster_metrics }
  }

  #giveBack({ ad: { instance } }: Candidate): void {
    const left = (this.#outstanding.get(instance) ?? 1) - 1
    if (left <= 0) this.#outstanding.delete(instance)
    else this.#outstanding.set(instance, left)
  }

  /** Resolves when the view changes, or `patience` ends. */
  #nextChange(patience: AbortSignal): Promise<void> {
    if (patience.aborted) return Promise.resolve()
    const { promise, resolve } = Promise.withResolvers<void>()
    const stop = this.#view.onChange(() => resolve())
    const abort = (): void => resolve()
    patience.addEventListener('abort', abort, { once: true })
    return promise.finally(() => {
      stop()
      patience.removeEventListener('abort', abort)
    })
  }

  async * #attempt(chosen: Candidate, { block, packet, signal }: Search, options: CallOptions, leftMs: Millis): AsyncGenerator<Packet> {
    const call = header(chosen, block, 'infer', options, leftMs)
    if (chosen.host === this.#view.self) {
      yield * this.#calls.infer(call, checkPacket(packet), signal)
      return
    }
    for await (const { header: said, body } of this.#frames(chosen.host, call, packet, signal)) {
      if (body.byteLength > 0 || said.bodyCid !== undefined) yield await unpackPacket(this.#ports.content, bodyOf(said, body), chosen.host, signal)
      if (said.last) return
    }
    throw new MeshError('INSTANCE_FAILED', `${chosen.ad.instance} on ${chosen.host} stopped answering in the middle`)
  }

  /** What a host answers to a call. Throws what it throws, and PEER_UNREACHABLE as soon as it is believed dead. */
  async * #frames(host: PeerId, call: Call, value: Packet | Json, signal: AbortSignal): AsyncGenerator<{ readonly header: Extract<InvokeFrame['header'], { kind: 'output' }>; readonly body: Uint8Array }> {
    using away = span([signal])
    const calls = this.#away.get(host) ?? new Set<Span>()
    this.#away.set(host, calls.add(away))
    try {
      const { body, bodyCid } = await pack(this.#ports.content, value)
      await using stream = await this.#ports.network.open(host, invoke, away.signal)
      const hangUp = (): void => stream.abort(away.signal.reason)
      away.signal.addEventListener('abort', hangUp, { once: true })
      try {
        if (away.signal.aborted) hangUp()
        await stream.send({ header: bodyCid === undefined ? call : { ...call, bodyCid }, body })
        await stream.end()
        for await (const { header, body: answer } of stream) {
          if (header.kind === 'error') throw remoteError(header)
          if (header.kind !== 'output') throw new MeshError('MESSAGE_INVALID', `expected an output frame, got ${header.kind}`)
          yield { header, body: answer }
        }
      } finally {
        away.signal.removeEventListener('abort', hangUp)
      }
    } finally {
      calls.delete(away)
      if (calls.size === 0) this.#away.delete(host)
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
    return Object.fromEntries(Object.entries(answers).map(([id, answer]) => [id, isJsonObject(answer) && 'healthy' in answer ? { healthy: answer['healthy'] === true, detail: answer['detail'] ?? null } : { healthy: false, detail: answer }]))
  }

  /** How busy each instance is, by its host's count; without those that cannot be reached. */
  async load(block: BlockId, options: CallOptions): Promise<Readonly<Record<InstanceId, InstanceLoad>>> {
    const answers = await this.#fanOut(block, undefined, 'health', { only: 'load' }, options)
    return Object.fromEntries(Object.entries(answers).flatMap(([id, answer]) => {
      const parsed = instanceLoad.safeParse(isJsonObject(answer) ? answer['load'] : undefined)
      return parsed.success ? [[id, parsed.data] as const] : []
    }))
  }

  /** What instances printed from line number `from` of each on, and each one's next number. */
  async logsFrom(block: BlockId, instance: InstanceId | undefined, from: Readonly<Record<InstanceId, number>>, options: CallOptions): Promise<Readonly<Record<InstanceId, { readonly next: number; readonly lines: readonly string[] }>>> {
    const answers = await this.#fanOut(block, instance, 'logs', candidate => ({ from: from[candidate] ?? 0 }), options)
    return Object.fromEntries(Object.entries(answers).flatMap(([id, answer]) => {
      const parsed = followed.safeParse(answer)
      return parsed.success ? [[id, parsed.data] as const] : []
    }))
  }

  async logs(block: BlockId, instance: InstanceId | undefined, tail: number, options: CallOptions): Promise<Readonly<Record<InstanceId, readonly string[]>>> {
    const answers = await this.#fanOut(block, instance, 'logs', tail, options)
    return Object.fromEntries(Object.entries(answers).map(([id, lines]) => [id, Array.isArray(lines) ? lines.map(String) : [`(no logs: ${JSON.stringify(lines)})`]]))
  }

  /** One answer an instance; an instance that fails answers `{ error }`, so that one does not hide the others. */
  async #fanOut(block: BlockId, instance: InstanceId | undefined, method: Call['method'], body: Json | ((instance: InstanceId) => Json), options: CallOptions): Promise<Record<InstanceId, Json>> {
    const all = this.#candidates(block).filter(({ ad }) => instance === undefined || ad.instance === instance)
    if (all.length === 0 && (await this.#catalogue.block(block)) === undefined) throw unknownBlock(block)
    if (all.length === 0) throw new MeshError('NO_INSTANCE', instance === undefined ? `block ${block} has no ready instance` : `${instance} is not a ready instance of ${block}`)
    using whole = span([options.signal], { clock: this.#ports.clock, ms: options.deadlineMs })
    const answers = await Promise.all(all.map(async candidate => {
      try {
        return [candidate.ad.instance, await this.#control(candidate, block, method, typeof body === 'function' ? body(candidate.ad.instance) : body, options, whole.signal)] as const
      } catch (error) {
        return [candidate.ad.instance, { error: toJson(asMeshError(error).toJSON()) }] as const
      }
    }))
    return Object.fromEntries(answers)
  }

  async #control(candidate: Candidate, block: BlockId, method: Call['method'], body: Json, options: CallOptions, signal: AbortSignal): Promise<Json> {
    const call = header(candidate, block, method, options, options.deadlineMs)
    if (candidate.host === this.#view.self) return this.#calls.control(call, body, signal)
    for await (const { header: said, body: answer } of this.#frames(candidate.host, call, body, signal)) return unpackJson(this.#ports.content, bodyOf(said, answer), candidate.host, signal)
    throw new MeshError('INSTANCE_FAILED', `${candidate.ad.instance} on ${candidate.host} did not answer`)
  }
}

function unknownBlock(block: BlockId): MeshError {
  return new MeshError('NOT_FOUND', `no block is called ${block}: \`aios block list\` shows those there are`)
}

function header(chosen: Candidate, block: BlockId, method: Call['method'], { key, trace, vdag, whole }: CallOptions, leftMs: Millis): Call {
  return {
    kind: 'call', block, instance: chosen.ad.instance, epoch: chosen.ad.epoch, method, deadlineMs: Math.max(1, Math.ceil(leftMs)),
    ...(key === undefined ? {} : { key }), ...(trace === undefined ? {} : { trace }), ...(whole === true || method !== 'infer' ? {} : { streams: true }), ...(vdag === undefined ? {} : { vdag }),
  }
}

function hopeless({ heard }: Search, { code, message }: MeshError): boolean {
  if (code !== 'INSTANCE_FAILED') return false
  const times = (heard.get(message) ?? 0) + 1
  heard.set(message, times)
  return times >= SAME_FAILURES
}

function remoteError({ code, message, retryable, retryAfterMs }: { readonly code: string; readonly message: string; readonly retryable: boolean; readonly retryAfterMs?: Millis | undefined }): MeshError {
  return new MeshError(isErrorCode(code) ? code : 'INSTANCE_FAILED', message, { retryable, ...(retryAfterMs === undefined ? {} : { details: { retryAfterMs } }) })
}
