import { check, hex } from '../../protocols/codec.ts'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import { blockId as blockIdSchema, type BlockId, type Json, type Millis, type RunId } from '../../protocols/ids.ts'
import { packet as packetSchema, type Packet } from '../../protocols/invoke.ts'
import type { Actions } from '../actions.ts'
import type { Gate } from '../controllers/gate.ts'
import { isJsonObject, mustBeShallow } from '../lib/json.ts'
import { Lru } from '../lib/lru.ts'
import { traceSpan } from '../lib/trace-span.ts'
import type { Inventory } from '../inventory.ts'
import type { Ports, Random } from '../ports.ts'
import type { Catalogue, Invoker } from '../roles.ts'
import { parseBlockGraph } from '../specs/block-graph.ts'
import type { RunEngine } from '../vdag/engine.ts'
import { RequestLog } from './request-log.ts'
import type { ServerQuota } from './server-quota.ts'

/** What is to answer: a block, whatever block a search finds (kept for the session), a published vDAG, or a graph of blocks made up for this request. */
export type Target = { readonly block: BlockId } | { readonly search: Json } | { readonly vdag: string } | { readonly graph: Json }
export type InferOptions = { readonly deadlineMs: Millis; readonly signal: AbortSignal; readonly key?: string | undefined; readonly trace?: string | undefined }
type Answer = { readonly run: string } | { readonly packet: Packet }
export type Inferred = { readonly request: string; readonly packets: readonly Packet[]; readonly run?: string }

const SESSIONS_BOUND = 10_000
const LOG_BOUND = 10_000

/** AIOS's inference server, in every peer: finds who is to answer, asks, and always answers by the deadline. */
export class Inference {
  readonly log = new RequestLog(LOG_BOUND)
  readonly #ports: Pick<Ports, 'clock' | 'content' | 'telemetry'>
  readonly #random: Random
  readonly #parts: { readonly actions: Actions; readonly invoker: Invoker; readonly inventory: Inventory; readonly runs: RunEngine; readonly catalogue: Pick<Catalogue, 'block'>; readonly gate: Gate; readonly quota: ServerQuota }
  /** The block a search found for a session: its later packets go to the same one. */
  readonly #found = new Lru<string, BlockId>(SESSIONS_BOUND)

  constructor(ports: Pick<Ports, 'clock' | 'content' | 'random' | 'telemetry'>, parts: { readonly actions: Actions; readonly invoker: Invoker; readonly inventory: Inventory; readonly runs: RunEngine; readonly catalogue: Pick<Catalogue, 'block'>; readonly gate: Gate; readonly quota: ServerQuota }) {
    this.#ports = ports
    this.#random = ports.random.fork('inference')
    this.#parts = parts
  }

  /** All that a request answers. Throws what stopped it: NOT_FOUND, SPEC_INVALID, DEADLINE, and what the blocks throw. */
  async infer(target: Target, packet: Packet, options: InferOptions): Promise<Inferred> {
    const packets: Packet[] = []
    let run: string | undefined
    const request = `req-${hex(this.#random.bytes(8))}`
    for await (const event of this.#answer(target, packet, options, request, true)) {
      if ('run' in event) run = event.run
      else packets.push(event.packet)
    }
    return { request, packets, ...(run === undefined ? {} : { run }) }
  }

  /** As `infer`, each packet as it comes; a run says which one it is first. What broke after its first packet is not asked for again. */
  stream(target: Target, packet: Packet, options: InferOptions): AsyncGenerator<Answer> {
    return this.#answer(target, packet, options, `req-${hex(this.#random.bytes(8))}`, false)
  }

  async * #answer(target: Target, packet: Packet, { deadlineMs, signal, key, trace: parent }: InferOptions, request: string, whole: boolean): AsyncGenerator<Answer> {
    const { clock, telemetry } = this.#ports
    const began = clock.monotonic()
    const deadline = clock.deadline(deadlineMs, signal)
    const entry = this.log.begin({ request, session: packet.sessionId, seqNo: packet.seqNo, target: nameOf(target), blocks: 'block' in target ? [target.block] : [], at: clock.unix(), data: packet.data })
    const span = traceSpan(telemetry, `infer ${nameOf(target)}`, 'internal', parent, { request, target: nameOf(target), session: packet.sessionId })
    const trace = span.traceparent
    try {
      await this.#parts.quota.enter(packet.sessionId, nameOf(target), packet.data)
      if ('vdag' in target || 'graph' in target) {
        const uri = 'vdag' in target ? target.vdag : await this.#transient(target.graph)
        const { run } = await this.#parts.actions.submitPacket(uri, packet, { key, trace })
        yield { run }
        yield * await this.#outcome(uri, run, packet, deadline, began)
      } else {
        const block = 'block' in target ? await this.#known(target.block) : await this.#search(target.search, packet.sessionId)
        for await (const output of this.#parts.invoker.infer(block, packet, { deadlineMs, signal, whole, ...(key === undefined ? {} : { key }), ...(trace === undefined ? {} : { trace }) })) yield { packet: output }
      }
      entry.outcome = 'ok'
    } catch (error) {
      entry.outcome = asMeshError(error).code
      throw error
    } finally {
      if (entry.outcome === 'running') entry.outcome = 'CANCELLED'
      span.end(entry.outcome === 'ok' ? undefined : entry.outcome)
      entry.ms = clock.monotonic() - began
      telemetry.count('inference_requests_total', { outcome: entry.outcome === 'ok' ? 'ok' : 'failed' })
      telemetry.observe('inference_latency_ms', entry.ms)
    }
  }

  /** AIOS's discovery: the block that a search would choose. Throws NOT_FOUND. */
  async discover(search: Json): Promise<BlockId> {
    for (const found of await this.#parts.inventory.search(search)) {
      const id = isJsonObject(found) ? found['blockId'] ?? found['id'] : found
      const block = blockIdSchema.safeParse(id)
      if (block.success && (await this.#parts.catalogue.block(block.data)) !== undefined) return block.data
    }
    throw new MeshError('NOT_FOUND', 'the search found no block: widen its filter, or name a block')
  }

  /** The packets of a run, once it has ended, and its controller's look at them. */
  async #outcome(uri: string, run: RunId, request: Packet, deadline: AbortSignal, began: Millis): Promise<readonly { readonly packet: Packet }[]> {
    const { clock } = this.#ports
    try {
      const outputs = Object.entries(await this.#parts.runs.packets(run, deadline))
      this.#parts.gate.left(uri, request, { response: Object.fromEntries(outputs.map(([label, { data }]) => [label, data])) }, clock.monotonic() - began)
      return outputs.map(([, packet]) => ({ packet }))
    } catch (error) {
      this.#parts.gate.left(uri, request, { failed: true }, clock.monotonic() - began)
      throw error
    }
  }

  async #search(search: Json, session: string): Promise<BlockId> {
    const key = `${session}\0${JSON.stringify(search)}`
    const known = session === '' ? undefined : this.#found.get(key)
    if (known !== undefined && (await this.#parts.catalogue.block(known)) !== undefined) return known
    const block = await this.discover(search)
    if (session !== '') this.#found.set(key, block)
    return block
  }

  async #known(block: BlockId): Promise<BlockId> {
    if ((await this.#parts.catalogue.block(block)) === undefined) throw new MeshError('NOT_FOUND', `no block is called ${block}: \`aios block list\` shows those there are`)
    return block
  }

  /** A graph made up for one request is content, not a name. */
  async #transient(graph: Json): Promise<string> {
    return `ipld:${await this.#ports.content.putRecord(parseBlockGraph(graph))}`
  }
}

/** A packet as it comes from outside. Throws BAD_INPUT naming the field. */
export function packetFrom(given: unknown): Packet {
  mustBeShallow(given, 'the packet')
  return check(packetSchema, given, 'packet', 'BAD_INPUT')
}

/** AIOS's `data` is text, JSON by habit; what is no JSON is passed on as the text it is. */
export function dataFrom(text: string): Json {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

function nameOf(target: Target): string {
  if ('block' in target) return target.block
  if ('vdag' in target) return target.vdag
  return 'graph' in target ? 'graph' : 'search'
}
