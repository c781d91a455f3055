import { MeshError, asMeshError } from '../../protocols/errors.ts'
import { invoke, type InvokeFrame, type InvokeHeader, type Packet } from '../../protocols/invoke.ts'
import type { Json, Millis, PeerId } from '../../protocols/ids.ts'
import { Lru } from '../lib/lru.ts'
import { isJsonObject, toJson } from '../lib/json.ts'
import type { Ports, Stream } from '../ports.ts'
import type { ContractBook } from '../roles.ts'
import { pack, unpackJson, unpackPacket } from './bodies.ts'
import type { Instances } from './instances.ts'

export type Call = Extract<InvokeHeader, { kind: 'call' }>

const FINISHED_BOUND = 2_048
const REMEMBER_MS = 10 * 60_000
const KEYED_OUTPUTS = 10_000
const EMPTY = new Uint8Array(0)

/** Serves calls to the instances of this host, its own and other peers': fenced by epoch, each keyed call run once. */
export class Calls {
  readonly #ports: Pick<Ports, 'clock' | 'network' | 'content' | 'telemetry'>
  readonly #instances: Instances
  readonly #book: ContractBook
  /** Keyed calls in flight or finished: a caller that lost the answer asks again and gets the same one. */
  readonly #keyed = new Lru<string, { readonly at: Millis; readonly outputs: Promise<readonly Packet[]> }>(FINISHED_BOUND)

  constructor(ports: Pick<Ports, 'clock' | 'network' | 'content' | 'telemetry'>, instances: Instances, book: ContractBook) {
    this.#ports = ports
    this.#instances = instances
    this.#book = book
  }

  start(): void {
    this.#ports.network.accept(invoke, (stream, from) => this.#serve(stream, from))
  }

  /** Runs one `infer` call here. Throws EPOCH_FENCED, NO_INSTANCE, OVERLOADED and what the component throws. */
  async * infer(call: Call, packet: Packet, signal: AbortSignal): AsyncGenerator<Packet> {
    this.#fence(call)
    const vdag = call.vdag === undefined ? undefined : toJson(call.vdag)
    if (call.key === undefined) {
      yield * this.#instances.infer(call.instance, packet, signal, vdag)
      return
    }
    yield * await this.#once(`${call.block}\0${call.key}`, call, packet, vdag)
  }

  #once(key: string, call: Call, packet: Packet, vdag: Json | undefined): Promise<readonly Packet[]> {
    const known = this.#keyed.get(key)
    if (known !== undefined && this.#ports.clock.monotonic() - known.at < REMEMBER_MS) {
      this.#ports.telemetry.count('calls_answered_from_memory_total')
      return known.outputs
    }
    // Its own deadline, not the caller's signal: the caller may vanish and somebody else come for the answer.
    const outputs = this.#collect(call, packet, this.#ports.clock.deadline(call.deadlineMs), vdag)
    this.#keyed.set(key, { at: this.#ports.clock.monotonic(), outputs })
    outputs.catch(() => this.#keyed.delete(key))
    return outputs
  }

  async #collect(call: Call, packet: Packet, signal: AbortSignal, vdag: Json | undefined): Promise<readonly Packet[]> {
    const outputs: Packet[] = []
    for await (const output of this.#instances.infer(call.instance, packet, signal, vdag)) {
      outputs.push(output)
      if (outputs.length > KEYED_OUTPUTS) throw new MeshError('COMPONENT_ERROR', `a call with a key may answer at most ${KEYED_OUTPUTS} packets`)
    }
    return outputs
  }

  /** The other methods: JSON in, JSON out. */
  async control(call: Call, body: Json, signal: AbortSignal): Promise<Json> {
    this.#fence(call)
    switch (call.method) {
      case 'management': {
        const action = isJsonObject(body) ? body['action'] : undefined
        if (typeof action !== 'string') throw new MeshError('BAD_INPUT', 'a management command needs { action, data }')
        return this.#instances.management(call.instance, action, isJsonObject(body) ? body['data'] ?? null : null, signal)
      }
      case 'update':
        return this.#instances.update(call.instance, body, signal)
      case 'health': {
        const { healthy, detail } = await this.#instances.health(call.instance, signal)
        return { healthy, detail }
      }
      case 'logs':
        return [...this.#instances.logs(call.instance, typeof body === 'number' ? Math.min(Math.max(0, body), 10_000) : 100)]
      case 'infer':
        throw new MeshError('BAD_INPUT', 'infer takes a packet')
    }
  }

  #fence(call: Call): void {
    const verdict = this.#book.fence(call.instance, call.epoch)
    if (!verdict.ok) throw new MeshError('EPOCH_FENCED', verdict.because)
  }

  async #serve(stream: Stream<InvokeFrame>, from: PeerId): Promise<void> {
    const { clock, content, telemetry } = this.#ports
    try {
      const first = await stream[Symbol.asyncIterator]().next()
      if (first.done === true) return
      const { header, body } = first.value
      if (header.kind !== 'call') throw new MeshError('MESSAGE_INVALID', `a call begins with a call frame, not ${header.kind}`)
      const signal = clock.deadline(header.deadlineMs, stream.signal)
      const carried = header.bodyCid === undefined ? { body } : { body, bodyCid: header.bodyCid }
      telemetry.count('calls_served_total', { method: header.method })
      if (header.method === 'infer') await this.#answer(stream, header, await unpackPacket(content, carried, signal), signal)
      else {
        const value = await this.control(header, await unpackJson(content, carried, signal), signal)
        const { body: answer, bodyCid } = await pack(content, value)
        await stream.send({ header: bodyCid === undefined ? { kind: 'output', last: true } : { kind: 'output', last: true, bodyCid }, body: answer })
      }
      await stream.end()
    } catch (error) {
      const failure = asMeshError(error)
      if (failure.code === 'INTERNAL') telemetry.event('warn', 'call.failed', { from, because: failure.message })
      if (stream.signal.aborted) return
      await stream.send({ header: { kind: 'error', code: failure.code, message: failure.message.slice(0, 2_000), retryable: failure.retryable }, body: EMPTY })
      await stream.end()
    }
  }

  /** Sends each packet as soon as the next one or the end is known, so that the last one says it is the last. */
  async #answer(stream: Stream<InvokeFrame>, call: Call, packet: Packet, signal: AbortSignal): Promise<void> {
    for await (const output of this.infer(call, packet, signal)) {
      const { body, bodyCid } = await pack(this.#ports.content, output)
      await stream.send({ header: bodyCid === undefined ? { kind: 'output', last: false } : { kind: 'output', last: false, bodyCid }, body })
    }
    await stream.send({ header: { kind: 'output', last: true }, body: EMPTY })
  }
}
