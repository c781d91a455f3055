/**
 * Everything a peer may touch outside its own memory. The daemon and the simulator differ only in what they plug in
 * here; `test/conformance` holds one suite a port and runs it on both.
 */
import type { Protocol, Schema, StreamProtocol, Topic } from '../protocols/codec.ts'
import type { BlockId, Cid, InstanceId, Json, Millis, PeerId } from '../protocols/ids.ts'
import type { Packet } from '../protocols/invoke.ts'
import type { RegistryName } from '../protocols/registry.ts'
import type { Resources, Runtime } from '../protocols/resources.ts'
import type { BlockRecord, ComponentManifest, RuntimeName } from '../protocols/specs.ts'
import type { StageSpec } from '../protocols/stage-file.ts'

export interface Clock {
  /** Milliseconds since an arbitrary origin; never goes backwards. The only time a decision may read. */
  monotonic(): Millis
  /** Wall-clock time; may jump. For records, TTLs between hosts and people; never for local ordering or timeouts. */
  unix(): Millis
  /** Rejects with the signal's reason when aborted. */
  sleep(duration: Millis, signal?: AbortSignal): Promise<void>
  /** Runs `run` once after `duration`; the returned function cancels it. Never keeps the process alive. */
  after(duration: Millis, run: () => void): () => void
  /** Stands in for `AbortSignal.timeout`: aborts with MeshError DEADLINE, or with the parent's reason. */
  deadline(duration: Millis, parent?: AbortSignal): AbortSignal
}

export interface Random {
  /** [0, 1) */
  float(): number
  /** Integer in [0, limit). */
  below(limit: number): number
  bytes(length: number): Uint8Array
  pick<T>(items: readonly T[]): T
  /** An independent stream: a new caller never shifts the draws of an old one. */
  fork(label: string): Random
}

/** Synchronous on purpose: WebCrypto settles on a thread pool, which no virtual clock can order. */
export interface Identity {
  readonly peer: PeerId
  sign(bytes: Uint8Array): Uint8Array
  verify(peer: PeerId, bytes: Uint8Array, signature: Uint8Array): boolean
  /** A fresh key of its own (invites): its peer id, and how to sign with the private bytes later. */
  mint(): { readonly peer: PeerId; readonly privateKey: Uint8Array }
  signWith(privateKey: Uint8Array, bytes: Uint8Array): Uint8Array
}

/** Delivery is at most once, unordered between calls, in order within a stream. `from` is authenticated. */
export interface Network {
  readonly self: PeerId
  /** Our own dialable addresses. */
  addresses(): readonly string[]
  /** Dials until one address answers; resolves to the peer reached. Throws PEER_UNREACHABLE or NETWORK_REFUSED. */
  dial(addresses: readonly string[], signal: AbortSignal): Promise<PeerId>
  /** `until`: when the asker no longer waits, or for how long it does, which is cheaper. Throws the remote handler's MeshError, DEADLINE, CANCELLED, PEER_UNREACHABLE, PROTOCOL_UNSUPPORTED. */
  request<Q, R>(to: PeerId, protocol: Protocol<Q, R>, request: Q, until?: AbortSignal | Millis): Promise<R>
  handle<Q, R>(protocol: Protocol<Q, R>, answer: (request: Q, from: PeerId, signal: AbortSignal) => Promise<R>): void
  open<F>(to: PeerId, protocol: StreamProtocol<F>, signal: AbortSignal): Promise<Stream<F>>
  accept<F>(protocol: StreamProtocol<F>, serve: (stream: Stream<F>, from: PeerId) => Promise<void>): void
  /** Best effort; resolves once handed over. Own messages are not delivered back. */
  publish<M>(topic: Topic<M>, message: M): Promise<void>
  subscribe<M>(topic: Topic<M>, hear: (message: M, from: PeerId) => void): () => void
  /** A connection came up; the peer is not admitted yet, and until `admit` only `hello` passes, either way. */
  onConnection(hear: (peer: PeerId, direction: 'inbound' | 'outbound') => void): () => void
  admit(peer: PeerId): void
  /** Admitted peers with a live connection right now, sorted by id. */
  peers(): readonly PeerId[]
  onPeer(hear: (peer: PeerId, state: 'joined' | 'gone') => void): () => void
  /** Closes every connection to a peer and refuses new ones until `allow`. */
  ban(peer: PeerId, because: string): void
  /** Smoothed round trip, where one was measured. */
  rtt(peer: PeerId): Millis | undefined
}

/** A duplex of frames with credit: `send` waits while the receiver has `queuedFrames` unread. */
export interface Stream<F> extends AsyncIterable<F>, AsyncDisposable {
  readonly peer: PeerId
  send(frame: F): Promise<void>
  /** The same without a turn of its own: undefined where the frame has left, a promise where it must wait. Throws what `send` rejects with. */
  offer(frame: F): Promise<void> | undefined
  /** Instead of iterating: `hear` is called in the very turn in which a frame arrives. Settles as an iteration ends; rejects with what `hear` throws. */
  each(hear: (frame: F) => void): Promise<void>
  /** Says we send no more; the reader's iteration ends after what was sent. */
  end(): Promise<void>
  /** Tears both directions down; the other side's iteration throws CANCELLED or this error's code. */
  abort(error: Error): void
  readonly signal: AbortSignal
}

export type Progress = { readonly doneBytes: number; readonly totalBytes: number; readonly holders: number }

/** Content-addressed bytes. Whatever comes out was verified against its CID. */
export interface ContentStore {
  /** UnixFS file, 1 MiB raw leaves. Throws STORAGE_FULL and leaves nothing pinned. */
  add(bytes: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<{ readonly cid: Cid; readonly size: number }>
  /** Streams a file; fetches missing blocks from every holder in parallel. Throws CONTENT_UNAVAILABLE or CONTENT_CORRUPT. */
  cat(cid: Cid, options?: { readonly offset?: number; readonly length?: number; readonly signal?: AbortSignal }): AsyncIterable<Uint8Array>
  /** Makes the whole DAG local, resumable after a crash. */
  fetch(cid: Cid, options?: { readonly signal?: AbortSignal; readonly from?: readonly PeerId[]; readonly progress?: (progress: Progress) => void }): Promise<void>
  /** One DAG-CBOR block. */
  putRecord(value: unknown): Promise<Cid>
  getRecord<T>(cid: Cid, schema: Schema<T>, signal?: AbortSignal): Promise<T>
  /** True when the whole DAG below `cid` is local. */
  has(cid: Cid): Promise<boolean>
  pin(cid: Cid): Promise<void>
  /** Lets it go: a copy of somebody else's file is removed from the disk after a while, where there is a collector. */
  unpin(cid: Cid): Promise<void>
  /** What the collector gave back since the process began, where there is one. */
  reclaimed?(): Reclaimed
}

/** `letGo`: roots that wait to be removed. */
export type Reclaimed = { readonly freedBytes: number; readonly freedBlocks: number; readonly letGo: number }

export type Entry<T> = { readonly key: string; readonly value: T; readonly writer: PeerId; readonly sequence: number; readonly issuedAt: Millis }

/** Replicated names. Reads come from a local materialised view; a put is durable locally when it resolves. */
export interface Registry<T> {
  get(key: string): Promise<Entry<T> | undefined>
  /** Throws IMMUTABLE (write-once key exists with another value), FORBIDDEN (not its owner), MESSAGE_TOO_LARGE. */
  put(key: string, value: T): Promise<Entry<T>>
  /** `owner` registries only. */
  withdraw(key: string): Promise<void>
  /** Sorted by key. */
  list(prefix?: string): Promise<readonly Entry<T>[]>
  onChange(hear: (key: string, entry: Entry<T> | undefined) => void): () => void
}

export interface RegistryStore {
  /** Values are inline DAG-CBOR, checked by `schema` on the way in and out. */
  open<T>(name: RegistryName, schema: Schema<T>): Registry<T>
}

/** Local and durable: what this peer still knows after kill -9. Keys and streams are short ASCII names. */
export interface Journal {
  /** Durable when it resolves. Entries of one call are atomic. Throws STORAGE_FULL / STORAGE_FAILED and changes nothing. */
  append(stream: string, entries: readonly Uint8Array[]): Promise<void>
  read(stream: string, from?: number): Promise<readonly Uint8Array[]>
  /** Streams that hold entries, sorted. */
  streams(prefix: string): Promise<readonly string[]>
  drop(stream: string): Promise<void>
  /** A durable cell. `undefined` clears it. */
  set(key: string, value: Uint8Array | undefined): Promise<void>
  get(key: string): Promise<Uint8Array | undefined>
  keys(prefix: string): Promise<readonly string[]>
}

export type InstanceStart = {
  readonly instance: InstanceId
  readonly block: BlockRecord
  readonly manifest: ComponentManifest
  readonly gpus: readonly string[]
  readonly peer: PeerId
  readonly clusterId: string
  /** Asks a block's own policy around its callbacks, where AIOS has it: after the muxer, and after the output. */
  readonly packetPolicy: (hook: 'pre_processing' | 'post_processing', packet: Packet) => Promise<Packet>
  /** Takes an event of the block, or a message to one of its side-cars. Never waits: what cannot be taken is counted and dropped. Absent where nobody listens. */
  readonly emit?: (sideCar: boolean, name: string, data: Json) => void
}

export type Health = { readonly healthy: boolean; readonly detail: Json }

/**
 * Positions [position, position + count) of a session go through the stage; what it held from `position` on is forgotten first.
 * To the last bit a position comes out the same in any company and in any step of several; a step of one position is computed
 * by other kernels. So what must be computed again exactly is asked for as it was: singles singly, several as several.
 */
export type StageStep = {
  readonly session: string
  readonly position: number
  readonly count: number
  /** Token ids for the first stage, the boundary activations (`count × inputBytes`) for the others. */
  readonly input: { readonly tokens: readonly number[] } | { readonly hidden: Uint8Array }
  /** `hidden`: for the next stage. `greedy`: the id of the greatest logit. `logits`: all of them. `none`: only the KV counts. */
  readonly want: 'hidden' | 'greedy' | 'logits' | 'none'
  /** For `greedy` and `logits`: of the last position only, or of each. */
  readonly rows: 'last' | 'all'
  /** Give out the new keys and values too, for a standby. */
  readonly kv: boolean
}

export type StageOutput = {
  readonly hidden?: Uint8Array
  readonly ids?: readonly number[]
  /** fp32, little-endian, `rows × vocab`. */
  readonly logits?: Float32Array
  /** Opaque, `count × kvBytes`: `writeKv` of another instance of the same stage takes it. */
  readonly kv?: Uint8Array
  /** Time spent computing the run that this step was part of, and how many sessions shared it. */
  readonly computeMs: number
  readonly batch: number
}

/** One stage at work. Steps of many sessions that wait at the same time are computed together. Sessions are those of this instance. */
export interface StageRunner {
  readonly spec: StageSpec
  /**
   * Reserves KV for `tokens` positions. `prefix`: one hash for each full block of 64 prompt tokens, each covering all before it;
   * `have` is how many positions are held already thanks to an earlier session. Throws NO_CAPACITY (retryable).
   */
  open(session: string, tokens: number, prefix: readonly string[]): Promise<{ readonly have: number }>
  /** Throws NOT_FOUND (no such session), BAD_INPUT (position beyond what is held), CANCELLED, INSTANCE_FAILED. */
  step(step: StageStep, signal: AbortSignal): Promise<StageOutput>
  /** Keys and values computed elsewhere, for positions [position, position + count); what it held from `position` on is forgotten first. */
  writeKv(session: string, position: number, count: number, rows: Uint8Array): Promise<void>
  /** The same rows, of positions that are held: how a standby is brought up, as it chooses and bit for bit. Throws NOT_FOUND, BAD_INPUT. */
  readKv(session: string, position: number, count: number): Promise<Uint8Array>
  /** Positions held. Throws NOT_FOUND. */
  position(session: string): number
  /** `keep`: its KV may serve as another session's prefix until the room is needed. */
  close(session: string, keep: boolean): void
  load(): { readonly sessions: number; readonly freeTokens: number; readonly waiting: number }
}

/** What an instance is told of whoever calls it: W3C's `traceparent`, and whether answers are given on as they come. */
export type CallerFacts = { readonly trace?: string; readonly streams?: boolean }

/** One running copy, outside the daemon's process. */
export interface RunningInstance extends AsyncDisposable {
  /** Yields one packet or more (streaming); throws MeshError COMPONENT_ERROR (terminal) or INSTANCE_FAILED (retryable). */
  infer(packet: Packet, signal: AbortSignal, vdag?: Json, caller?: CallerFacts): AsyncIterable<Packet>
  health(signal: AbortSignal): Promise<Health>
  management(action: string, data: Json, signal: AbortSignal): Promise<Json>
  update(parameters: Json, signal: AbortSignal): Promise<Json>
  /** Newest last. */
  logs(tail: number): readonly string[]
  /** Whole lines from number `from` on, as far as they are kept, and the number of the next one. A runtime without it cannot be followed. */
  logsFrom?(from: number): { readonly next: number; readonly lines: readonly string[] }
  usage(): { readonly memoryMb: number; readonly cpuMs: number }
  metrics(): Json
  /** Runtime `llm` only. */
  readonly stage?: StageRunner
  /** Resolves when it is gone, however it went. */
  readonly exited: Promise<{ readonly because: string; readonly crashed: boolean }>
}

/** Starts instances of the runtimes it knows. The bundle is already local. */
export interface Backend {
  runtimes(): readonly RuntimeName[]
  start(request: InstanceStart, signal: AbortSignal): Promise<RunningInstance>
}

export type SandboxResult =
  | { readonly ok: true; readonly value: Json; readonly fuel: number }
  | { readonly ok: false; readonly error: 'invalid' | 'threw' | 'fuel' | 'memory' | 'deadline'; readonly message: string }

/** One instantiated rule; keeps its state between calls. */
export interface SandboxedRule {
  /**
   * AIOS's `eval(parameters, input_data, context)`. JSON in, JSON out. `settings` replaces members of the settings it was
   * opened with, before the call: AIOS's live callables (`get_metrics`…) answer from the newest snapshot.
   */
  eval(parameters: Json, input: Json, context: Json, settings?: Json): Promise<SandboxResult>
  management(action: string, data: Json): Promise<SandboxResult>
  /**
   * All that the rule holds now, for `open` to go on from, elsewhere if need be; opaque, and of the same sandbox's version. A rule that
   * loses what it runs in goes on from what was saved last. `invalid` where it cannot be saved: it was not opened as a function, or says not how.
   */
  save(): Promise<SandboxSaved>
  /** Another number each time that the rule lost what it ran in: what was called before and not saved is gone. */
  life(): number
  close(): void
}

export type SandboxSaved = { readonly ok: true; readonly state: Uint8Array } | Extract<SandboxResult, { ok: false }>

/**
 * What a rule is opened for: to answer at a hook (the default; it may be put aside and started anew), to work once and long
 * (a job), or to keep its state until it is closed (a function).
 */
export type SandboxPurpose = 'hook' | 'job' | 'function'

/** No host, clock, network or randomness inside; bounded in fuel, memory and time. */
export interface Sandbox {
  /**
   * Compiles and constructs (`new AIOSv1PolicyRule(ruleId, settings, parameters)` or the module's default export). A source that
   * begins with `data:application/wasm;base64,` is a WebAssembly module. A `state` is what the same rule, opened in the same way, has saved;
   * `invalid` where it is not.
   */
  open(source: string, init: { readonly ruleId: string; readonly settings: Json; readonly parameters: Json; readonly purpose?: SandboxPurpose; readonly state?: Uint8Array | undefined }): Promise<
    | { readonly ok: true; readonly rule: SandboxedRule }
    | { readonly ok: false; readonly error: 'invalid' | 'threw' | 'fuel' | 'memory' | 'deadline'; readonly message: string }
  >
}

export type MachineReport = {
  readonly total: Resources
  readonly runtimes: readonly Runtime[]
  readonly memoryGBs: number
  readonly os: string
  readonly cpuModel: string
  /** Isolation levels instances can have here, strongest last: L0 bare, L1 fence, L2 bwrap, L3 container. */
  readonly isolation: readonly string[]
  /** Why something is not used: one line each, for `aios doctor`. */
  readonly notes: readonly string[]
}

/** Shares from 0 to 1, temperature in degrees Celsius; absent where the driver does not tell. */
export type GpuUsage = { readonly id: string; readonly freeMb: number; readonly utilisation?: number; readonly memoryUtilisation?: number; readonly powerUtilisation?: number; readonly temperature?: number }
export type MachineUsage = { readonly cpuLoad: number; readonly memoryFreeMb: number; readonly diskFreeMb: number; readonly gpus: readonly GpuUsage[] }

/** What the system counts of the whole host, in AIOS's names; what it does not tell is absent. */
export type HostCounters = {
  /** Run queue lengths over 1, 5 and 15 minutes. */
  readonly load: readonly [number, number, number]
  readonly processes?: { readonly runningThreads: number; readonly totalThreads: number; readonly runningProcesses: number; readonly totalProcesses: number }
  readonly memory?: { readonly totalMb: number; readonly freeMb: number; readonly swapUsedMb: number; readonly swapFreeMb: number; readonly pageFaultsPerSec: number }
  readonly disk?: { readonly totalMb: number; readonly freeMb: number }
  /** Of all disks together. `total`: operations a second; `response`: milliseconds an operation took of late; `active`: under way. */
  readonly iops?: { readonly blocksPerSec: number; readonly readBytes: number; readonly writeBytes: number; readonly total: number; readonly active: number; readonly response: number }
  readonly network?: { readonly txBytesTotal: number; readonly rxBytesTotal: number }
}

export interface Machine {
  /** Probes and measures once; later calls answer from a cache. */
  probe(): Promise<MachineReport>
  usage(): MachineUsage
  /** Not every machine counts. Rates are of the time since it was asked before, at least a second. */
  counters?(): HostCounters
}

/** One piece of work in a trace, under way. */
export type TraceSpan = {
  /** For whoever does a part of it: W3C's `traceparent` naming this span. Undefined where there is no trace. */
  readonly traceparent: string | undefined
  /** Counts once. `failure` says what went wrong. */
  end(failure?: string, attributes?: Readonly<Record<string, string | number | boolean>>): void
}

export interface Telemetry {
  count(metric: string, labels?: Readonly<Record<string, string>>, by?: number): void
  gauge(metric: string, value: number, labels?: Readonly<Record<string, string>>): void
  observe(metric: string, value: number, labels?: Readonly<Record<string, string>>): void
  /** Structured: a fixed name and fields, no message. */
  event(level: 'debug' | 'info' | 'warn' | 'error', name: string, fields: Readonly<Record<string, unknown>>): void
  /** Begins a span below `parent` (a W3C `traceparent`), or a trace of its own. Only where spans are collected: see `lib/trace-span.ts`. */
  span?(name: string, kind: 'server' | 'client' | 'internal', parent: string | undefined, attributes: Readonly<Record<string, string | number | boolean>>): TraceSpan
}

export interface Ports {
  readonly clock: Clock
  readonly random: Random
  readonly identity: Identity
  readonly network: Network
  readonly content: ContentStore
  readonly registries: RegistryStore
  readonly journal: Journal
  readonly backend: Backend
  readonly sandbox: Sandbox
  readonly machine: Machine
  readonly telemetry: Telemetry
}

export type { BlockId, StageSpec }
