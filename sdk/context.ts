import type { Json } from '../protocols/ids.ts'
import type { Packet } from '../protocols/invoke.ts'
import type { BlockClock } from './clock.ts'
import { ComponentError } from './error.ts'
import { toJson } from './json.ts'
import { Metrics } from './metrics.ts'
import { SessionsManager } from './sessions.ts'
import type { Model } from './tensor.ts'

export type Fields = Readonly<Record<string, Json>>

/** What an instance is told of itself before it loads. */
export type BlockStart = {
  /** AIOS's block document as far as an instance may know it: id, componentURI, protocols, tags. */
  readonly blockData: Fields
  readonly blockInitData: Fields
  readonly blockInitSettings: Fields
  readonly blockInitParameters: Fields
  readonly allocationInfo: { readonly gpus: readonly string[]; readonly node_id: string; readonly cluster_id: string; readonly instance_id: string }
  /** Folders it may write in, where its manifest asks for disk: its own, and its block's, which instances on the same host share. */
  readonly folders?: { readonly block: string; readonly instance: string }
}

/** Files of the bundle, by the path they were published under. */
export interface Assets {
  /** Throws ComponentError naming the path when the bundle has no such file. */
  read(path: string): Promise<Uint8Array>
  text(path: string): Promise<string>
  json(path: string): Promise<Json>
  /** Where the file lies on the host, for libraries that open files themselves. */
  path(path: string): string
}

/** What runs a block lends it: the instance process on a host, `BlockTester` in a test. */
export interface BlockHost {
  readonly clock: BlockClock
  readonly assets: Assets
  model(path: string, mapping: Fields): Promise<Model>
  event(name: string, data: Json): void
  sideCar(name: string, data: Json): void
  log(line: string): void
  /** The block's own policies around each packet; absent where none is set. */
  policy?(hook: 'pre_processing' | 'post_processing', packet: Packet, signal: AbortSignal): Promise<Packet>
}

/** One call as its block sees it. */
export type Call = {
  /** Aborts when the caller gave up or its deadline passed. */
  readonly signal: AbortSignal
  /** Where in a vDAG run this call stands, when it does. */
  readonly vdag: Json
  readonly traceparent?: string
  /** The caller takes each answer as it comes. */
  readonly streams?: boolean
}

/** What a block may use. The same object for its whole life; `signal`, `vdag` and `stream` belong to the current call. */
export interface Context<State = unknown> {
  readonly blockData: Fields
  readonly blockInitData: Fields
  readonly blockInitSettings: Fields
  readonly blockInitParameters: Fields
  /** Parameters as last updated; starts as `blockInitParameters`. */
  readonly parameters: Fields
  readonly allocationInfo: BlockStart['allocationInfo']
  /** What `load` or `init` returned. */
  readonly state: State
  /** Folder of the instance, which goes with it; empty text where there is none. */
  readonly instancePath: string
  /** Folder that the block's instances on this host share, for as long as its daemon runs. */
  readonly blockPath: string
  /** AIOS's folder of all blocks of a host. Here blocks of different authors share nothing: it is the block's. */
  readonly commonPath: string
  readonly clock: BlockClock
  readonly metrics: Metrics
  readonly sessions: SessionsManager
  readonly events: { push(name: string, data?: unknown): void }
  readonly sideCars: { push(name: string, data: unknown): void; pushAll(data: unknown): void }
  readonly assets: Assets
  /** A model of the bundle (ONNX, TF.js LayersModel or GraphModel), loaded once. `mapping` as in componentInitData. */
  model(path: string, mapping?: Fields): Promise<Model>
  log(line: string): void
  readonly signal: AbortSignal
  readonly vdag: Json
  /** W3C trace context of this call, for whatever the block calls itself. Undefined where the caller sent none and nobody collects traces. */
  readonly traceparent: string | undefined
  /** Whether the caller takes each answer as it comes: AIOS's `is_ws`. */
  readonly streams: boolean
  /** Sends a result now, before `data` returns; resolves when the caller has taken it. */
  stream(output: unknown): Promise<void>
  /** AIOS's name for `stream`. */
  writeWs(output: unknown): Promise<void>
}

/** What the runner changes in a context over an instance's life. */
export type Shared<State> = { state: State; parameters: Fields }

/** Builds the instance's context. Calls get one that inherits from it, see `forCall`. */
export function createContext<State>(start: BlockStart, host: BlockHost, shared: Shared<State>): Context<State> {
  const models = new Map<string, Promise<Model>>()
  const sideCars = Object.keys(fieldsOf(start.blockInitData.side_cars))
  const outside = () => {
    throw new ComponentError('stream works inside a call only')
  }
  return {
    blockData: start.blockData,
    blockInitData: start.blockInitData,
    blockInitSettings: start.blockInitSettings,
    blockInitParameters: start.blockInitParameters,
    allocationInfo: start.allocationInfo,
    instancePath: start.folders?.instance ?? '',
    blockPath: start.folders?.block ?? '',
    commonPath: start.folders?.block ?? '',
    get parameters() { return shared.parameters },
    get state() { return shared.state },
    clock: host.clock,
    metrics: new Metrics(host.clock),
    sessions: new SessionsManager(host.clock),
    events: { push: (name, data) => host.event(name, toJson(data, `event ${name}`)) },
    sideCars: {
      push: (name, data) => host.sideCar(name, toJson(data, `data for ${name}`)),
      pushAll: data => { for (const name of sideCars) host.sideCar(name, toJson(data, `data for ${name}`)) },
    },
    assets: host.assets,
    model: (path, mapping) => {
      // The bundle is finite and so is this map, but an author's mapping may vary by call.
      const key = JSON.stringify([path, mapping ?? null])
      let model = models.get(key)
      if (model === undefined) {
        model = host.model(path, mapping ?? {})
        if (models.size < 64) models.set(key, model)
        model.catch(() => models.delete(key))
      }
      return model
    },
    log: line => host.log(line),
    signal: new AbortController().signal,
    vdag: null,
    traceparent: undefined,
    streams: false,
    stream: outside,
    writeWs: outside,
  }
}

/** The context of one call: everything shared, plus what is the call's own. */
export function forCall<State>(context: Context<State>, call: Call, stream: (output: unknown) => Promise<void>): Context<State> {
  const own = { signal: call.signal, vdag: call.vdag, traceparent: call.traceparent, streams: call.streams === true, stream, writeWs: stream }
  return Object.create(context, Object.getOwnPropertyDescriptors(own)) as Context<State>
}

export function fieldsOf(value: Json | undefined): Fields {
  return value !== null && typeof value === 'object' && !Array.isArray(value) ? (value as Fields) : {}
}
