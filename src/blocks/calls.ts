import { digest, encode, hex } from '../../protocols/codec.ts'
import { MeshError, asMeshError, type Verdict } from '../../protocols/errors.ts'
import { invoke, type InvokeFrame, type InvokeHeader, type Packet } from '../../protocols/invoke.ts'
import type { Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { isJsonObject, toJson } from '../lib/json.ts'
import { failureText, traceSpan } from '../lib/trace-span.ts'
import type { Ports, Stream } from '../ports.ts'
import type { ContractBook } from '../roles.ts'
import { pack, unpackJson, unpackPacket, type Body } from './bodies.ts'
import type { Instances } from './instances.ts'
import { KeyedCalls } from './keyed-calls.ts'
import { span, unlessAborted } from './span.ts'

type Command = { readonly action: string; readonly data: Json }
/** The command as the rules left it. Throws POLICY_DENIED. */
export type CommandCheck = (block: BlockRecord, asked: Command) => Promise<Command>
export type Call = Extract<InvokeHeader, { kind: 'call' }>

/** A stream that does not say what it wants by then is closed. */
const FIRST_FRAME_MS: Millis = 10_000
/** For an error to leave, when the caller does not read. */
const LAST_WORDS_MS: Millis = 5_000
/** No call lasts longer, whatever its caller says. */
const LONGEST_MS: Millis = 86_400_000
const EMPTY = new Uint8Array(0)
/** What a caller needs to be allowed to; everything else takes a member. */
const RIGHT_TO_CALL: Readonly<Partial<Record<Call['method'], Right>>> = { management: 'operate', update: 'operate' }

/** Serves calls to the instances of this host, its own and other peers': fenced by epoch, each keyed call run once. */
export class Calls {
  readonly #ports: Pick<Ports, 'clock' | 'network' | 'content' | 'telemetry'>
  readonly #instances: Instances
  readonly #book: ContractBook
  readonly #may: (peer: PeerId, right: Right) => Verdict<true>
  readonly #command: CommandCheck
  readonly #keyed: KeyedCalls

  /** `may`: whether a peer holds a right now; its connection may be older than its capability lasts. `command`: asks the rules over a block before it is commanded. */
  constructor(ports: Pick<Ports, 'clock' | 'network' | 'content' | 'telemetry'>, instances: Instances, book: ContractBook, may: (peer: PeerId, right: Right) => Verdict<true> = () => ({ ok: true, value: true }), command: CommandCheck = async (_, asked) => asked) {
    this.#ports = ports
    this.#instances = instances
    this.#book = book
    this.#may = may
    this.#command = command
    this.#keyed = new KeyedCalls(ports.clock)
  }

  start(): void {
    this.#ports.network.accept(invoke, (stream, from) => this.#serve(stream, from))
  }

  /** Runs one `infer` call here. Throws EPOCH_FENCED, NO_INSTANCE, OVERLOADED and what the component throws. */
  async * infer(call: Call, packet: Packet, signal: AbortSignal): AsyncGenerator<Packet> {
    this.#fence(call)
    const vdag = call.vdag === undefined ? undefined : toJson(call.vdag)
    const served = traceSpan(this.#ports.telemetry, `serve ${call.block}`, 'server', call.trace, { block: call.block, instance: call.instance })
    const caller = { ...(served.traceparent === undefined ? {} : { trace: served.traceparent }), ...(call.streams === undefined ? {} : { streams: call.streams }) }
    try {
      if (call.key === undefined) yield * this.#instances.infer(call.instance, packet, signal, vdag, caller)
      else yield * await this.#keyed.answer(`${call.block}\0${call.key}`, askedOf(call, packet), lasting(call), signal, life => this.#instances.infer(call.instance, packet, life, vdag, caller))
    } catch (error) {
      served.end(failureText(error))
      throw error
    } finally {
      served.end()
    }
  }

  /** The other methods: JSON in, JSON out. */
  async control(call: Call, body: Json, signal: AbortSignal): Promise<Json> {
    this.#fence(call)
    switch (call.method) {
      case 'management': {
        const action = isJsonObject(body) ? body['action'] : undefined
        if (typeof action !== 'string') throw new MeshError('BAD_INPUT', 'a management command needs { action, data }')
        const asked = { action, data: isJsonObject(body) ? body['data'] ?? null : null }
        const block = this.#book.contracts().find(({ contract }) => contract.instance === call.instance)?.block
        const allowed = block === undefined ? asked : await this.#command(block, asked)
        return this.#instances.management(call.instance, allowed.action, allowed.data, signal)
      }
      case 'update':
        return this.#instances.update(call.instance, body, signal)
      case 'health': {
        // Whoever wants to know the load alone does not trouble the component.
        if (isJsonObject(body) && body['only'] === 'load') return { load: { ...this.#instances.load(call.instance) } }
        const { healthy, detail } = await this.#instances.health(call.instance, signal)
        return { healthy, detail }
      }
      case 'logs':
        if (isJsonObject(body)) {
          const { next, lines } = this.#instances.logsFrom(call.instance, typeof body['from'] === 'number' ? Math.max(0, body['from']) : 0)
          return { next, lines: [...lines] }
        }
        return [...this.#instances.logs(call.instance, typeof body === 'number' ? Math.min(Math.max(0, body), 10_000) : 100)]
      case 'infer':
        throw new MeshError('BAD_INPUT', 'infer takes a packet')
    }
  }

  #fence(call: Call): void {
    const verdict = this.#book.fence(call.instance, call.epoch)
    if (!verdict.ok) throw new MeshError('EPOCH_FENCED', verdict.because)
    // The instance is the caller's claim, and so is the block: keys and rights are the block's.
    if (verdict.value.block !== call.block) throw new MeshError('EPOCH_FENCED', `${call.instance} is an instance of ${verdict.value.block}, not of ${call.block}`)
  }

  #admit(from: PeerId, method: Call['method']): void {
    const verdict = this.#may(from, RIGHT_TO_CALL[method] ?? 'join')
    if (!verdict.ok) throw new MeshError(verdict.retryable ? 'UNAUTHENTICATED' : 'FORBIDDEN', `${method}: ${verdict.because}`)
  }

  async #serve(stream: Stream<InvokeFrame>, from: PeerId): Promise<void> {
    try {
      const { header, body } = await this.#first(stream)
      this.#admit(from, header.method)
      this.#ports.telemetry.count('calls_served_total', { method: header.method })
      using call = span([stream.signal], { clock: this.#ports.clock, ms: lasting(header) })
      await this.#answer(stream, header, bodyOf(header, body), from, call.signal)
      await stream.end()
    } catch (error) {
      const failure = asMeshError(error)
      if (failure.code === 'INTERNAL') this.#ports.telemetry.event('warn', 'call.failed', { from, because: failure.message })
      if (!stream.signal.aborted) await this.#refuse(stream, failure)
    }
  }

  async #first(stream: Stream<InvokeFrame>): Promise<{ readonly header: Call; readonly body: Uint8Array }> {
    const cancel = this.#ports.clock.after(FIRST_FRAME_MS, () => stream.abort(new MeshError('DEADLINE', `no call came within ${FIRST_FRAME_MS} ms`)))
    try {
      const first = await stream[Symbol.asyncIterator]().next()
      if (first.done === true) throw new MeshError('MESSAGE_INVALID', 'the stream ended before it said what to call')
      const { header, body } = first.value
      if (header.kind !== 'call') throw new MeshError('MESSAGE_INVALID', `a call begins with a call frame, not ${header.kind}`)
      return { header, body }
    } finally {
      cancel()
    }
  }

  /** A caller that does not read must not keep a place in the queue beyond its deadline: hence every wait has the signal. */
  async #answer(stream: Stream<InvokeFrame>, call: Call, body: Body, from: PeerId, signal: AbortSignal): Promise<void> {
    const { content } = this.#ports
    if (call.method !== 'infer') {
      const answer = await pack(content, await unlessAborted(this.control(call, await unpackJson(content, body, from, signal), signal), signal))
      await unlessAborted(stream.send(outputFrame(answer, true)), signal)
      return
    }
    for await (const output of this.infer(call, await unpackPacket(content, body, from, signal), signal)) {
      await unlessAborted(stream.send(outputFrame(await pack(content, output), false)), signal)
    }
    // A packet leaves at once, before it is known to be the last: an empty frame says so.
    await unlessAborted(stream.send(outputFrame({ body: EMPTY }, true)), signal)
  }

  async #refuse(stream: Stream<InvokeFrame>, { code, message, retryable, details: { retryAfterMs } }: MeshError): Promise<void> {
    const cancel = this.#ports.clock.after(LAST_WORDS_MS, () => stream.abort(new MeshError(code, message, { retryable })))
    try {
      await stream.send({ header: { kind: 'error', code, message: message.slice(0, 2_000), retryable, ...(typeof retryAfterMs === 'number' ? { retryAfterMs: Math.round(retryAfterMs) } : {}) }, body: EMPTY })
      await stream.end()
    } catch (error) {
      // It was closed from the other side, or by us: nobody is left to be told.
      if (!stream.signal.aborted) throw error
    } finally {
      cancel()
    }
  }
}

function lasting({ deadlineMs }: Call): Millis {
  return Math.min(Math.max(1, deadlineMs), LONGEST_MS)
}

/** The body of a frame that may have put it aside. */
export function bodyOf(header: { readonly bodyCid?: string | undefined }, body: Uint8Array): Body {
  return header.bodyCid === undefined ? { body } : { body, bodyCid: header.bodyCid }
}

function outputFrame({ body, bodyCid }: Body, last: boolean): InvokeFrame {
  return { header: bodyCid === undefined ? { kind: 'output', last } : { kind: 'output', last, bodyCid }, body }
}

/** A run's own keys name its nodes, whose input its journal settles. */
function askedOf({ vdag }: Call, { data, files }: Packet): string | undefined {
  return vdag === undefined ? hex(digest(encode([data, files]))) : undefined
}
