import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { StageOutput, StageRunner, StageSpec, StageStep } from '../../src/ports.ts'
import { decodeReport, encodeOrder, type OutputReport, type StageOrder, type StageReport } from '../instance/llm/stage-frames.ts'
import { abortError } from './supervisor-call.ts'

const WAITING = 8_192
/** Bytes of orders that are not answered yet: the instance holds them. */
const WAITING_BYTES = 67_108_864
const SESSIONS = 4_096
const IDS = 0xffff_ffff

/** What is asked of the instance, and what its answer must fit. */
type Asked = {
  readonly session: Session
  /** `step` and `read` answer by `output`, the others by `done`. */
  readonly step: StageStep | undefined
  readonly kvRows: number
  /** Length of what was asked. */
  bytes: number
  readonly resolve: (report: StageReport) => void
  readonly reject: (error: Error) => void
}
type Session = { readonly id: number; tokens: number; held: number }

/**
 * The stage in a supervised instance, spoken to by frames over its pipe. What comes back is checked against what was asked:
 * lengths, ids, positions; an instance that lies about them is ended by its supervisor.
 */
export class InstanceStage implements StageRunner {
  readonly spec: StageSpec
  readonly #write: (frame: Uint8Array) => void
  readonly #sessions = new Map<string, Session>()
  readonly #asked = new Map<number, Asked>()
  readonly #heeded = new WeakMap<AbortSignal, Set<number>>()
  #reserved = 0
  #bytes = 0
  #ids = 0
  #gone: Error | undefined

  /** `write` throws OVERLOADED while the instance does not read, INSTANCE_FAILED when it is gone. */
  constructor(spec: StageSpec, write: (frame: Uint8Array) => void) {
    this.spec = spec
    this.#write = write
  }

  async open(name: string, tokens: number, prefix: readonly string[]): Promise<{ readonly have: number }> {
    if (!Number.isInteger(tokens) || tokens < 1 || tokens > this.spec.contextTokens) throw new MeshError('BAD_INPUT', `a session of ${tokens} positions cannot be: the model knows contexts of 1 to ${this.spec.contextTokens} tokens`)
    if (prefix.some(hash => hash === '' || hash.length > 200 || hash.includes('\n'))) throw new MeshError('BAD_INPUT', 'a prefix hash is a short text without line feeds')
    const before = this.#sessions.get(name)
    if (before !== undefined && before.tokens >= tokens) return { have: before.held }
    const more = tokens - (before?.tokens ?? 0)
    if ((before === undefined && this.#sessions.size >= SESSIONS) || this.#reserved + more > this.spec.kvTokens) throw new MeshError('NO_CAPACITY', `${tokens} positions were asked for; ${this.spec.kvTokens - this.#reserved} of ${this.spec.kvTokens} are free in this instance`)
    const session: Session = before ?? { id: this.#nextId(), tokens: 0, held: 0 }
    this.#sessions.set(name, session)
    session.tokens = tokens
    this.#reserved += more
    try {
      const useful = prefix.slice(0, Math.floor(tokens / 64))
      const { held } = await this.#ask(session, id => ({ kind: 'open', id, session: session.id, tokens, prefix: useful }))
      return { have: held }
    } catch (error) {
      if (before === undefined && this.#sessions.get(name) === session) this.#forget(name, session)
      throw error
    }
  }

  step(step: StageStep, signal: AbortSignal): Promise<StageOutput> {
    if (this.#gone !== undefined) return Promise.reject(this.#gone)
    const session = this.#sessions.get(step.session)
    if (session === undefined) return Promise.reject(notOpen())
    const { position, count, input } = step
    const hidden = 'hidden' in input ? input.hidden : undefined
    const tokens = 'tokens' in input ? Uint32Array.from(input.tokens) : undefined
    const wrong = this.#wrongStep(step, session)
    if (wrong !== undefined) return Promise.reject(new MeshError('BAD_INPUT', wrong))
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(abortError(signal))
      const id = this.#nextId()
      const under = this.#heed(signal)
      this.#asked.set(id, {
        session, step, kvRows: step.kv ? count : 0, bytes: 0,
        resolve(report) {
          under.delete(id)
          if (report.kind === 'output') resolve(outputOf(report))
        },
        reject(error) {
          under.delete(id)
          reject(error)
        },
      })
      try {
        this.#send({ kind: 'step', id, session: session.id, position, count, want: step.want, all: step.rows === 'all', kv: step.kv, tokens, hidden: hidden ?? new Uint8Array(0) })
        under.add(id)
      } catch (error) {
        this.#asked.delete(id)
        reject(asMeshError(error))
      }
    })
  }

  async writeKv(name: string, position: number, count: number, rows: Uint8Array): Promise<void> {
    const session = this.#known(name)
    if (!inside(position, count, session) || rows.byteLength !== count * this.spec.kvBytes) throw new MeshError('BAD_INPUT', `${rows.byteLength} bytes are not the keys and values of positions ${position} to ${position + count}`)
    await this.#ask(session, id => ({ kind: 'write', id, session: session.id, position, count, rows }))
  }

  async readKv(name: string, position: number, count: number): Promise<Uint8Array> {
    const session = this.#known(name)
    if (!inside(position, count, session)) throw new MeshError('BAD_INPUT', `positions ${position} to ${position + count} are not in the session's ${session.tokens}`)
    const report = await this.#ask(session, id => ({ kind: 'read', id, session: session.id, position, count }), count)
    return report.kind === 'output' && report.kv !== undefined ? report.kv : new Uint8Array(0)
  }

  position(name: string): number {
    return this.#known(name).held
  }

  close(name: string, keep: boolean): void {
    const session = this.#sessions.get(name)
    if (session === undefined) return
    this.#forget(name, session)
    this.#tell({ kind: 'close', session: session.id, keep })
  }

  load(): { readonly sessions: number; readonly freeTokens: number; readonly waiting: number } {
    return { sessions: this.#sessions.size, freeTokens: this.spec.kvTokens - this.#reserved, waiting: this.#asked.size }
  }

  /** Takes what the instance said. Throws MESSAGE_INVALID when it is nonsense. */
  hear(body: Uint8Array): void {
    const report = decodeReport(body)
    const asked = this.#asked.get(report.id)
    if (asked === undefined) throw new MeshError('MESSAGE_INVALID', 'an answer to nothing that was asked')
    if (report.held > asked.session.tokens) throw new MeshError('MESSAGE_INVALID', `it claims ${report.held} positions of a session of ${asked.session.tokens}`)
    if (report.kind === 'output') this.#checkOutput(report, asked)
    if (report.kind === 'done' && asked.step !== undefined) throw new MeshError('MESSAGE_INVALID', 'a step without an outcome')
    this.#asked.delete(report.id)
    this.#bytes -= asked.bytes
    asked.session.held = report.held
    if (report.kind === 'failed') asked.reject(new MeshError(report.code, report.message))
    else asked.resolve(report)
  }

  /** The instance is gone: whatever waits fails, and so does what comes. */
  fail(error: Error): void {
    this.#gone = error
    for (const asked of this.#asked.values()) asked.reject(error)
    this.#asked.clear()
    this.#bytes = 0
    this.#sessions.clear()
    this.#reserved = 0
  }

  /** The steps that end with `signal`: one ear for all of them, since to come and go costs as much as the rest of a step. */
  #heed(signal: AbortSignal): Set<number> {
    const known = this.#heeded.get(signal)
    if (known !== undefined) return known
    const under = new Set<number>()
    this.#heeded.set(signal, under)
    signal.addEventListener('abort', () => {
      for (const id of under) {
        this.#tell({ kind: 'cancel', id })
        this.#asked.get(id)?.reject(abortError(signal))
      }
    }, { once: true })
    return under
  }

  #wrongStep({ position, count, input, want }: StageStep, session: Session): string | undefined {
    const { spec } = this
    if (!inside(position, count, session)) return `positions ${position} to ${position + count} are not in the session's ${session.tokens}`
    if ('tokens' in input) {
      if (spec.inputBytes > 0) return 'this stage takes activations, not tokens'
      if (input.tokens.length !== count) return `${input.tokens.length} tokens came for ${count} positions`
      if (input.tokens.some(token => !Number.isInteger(token) || token < 0 || token >= spec.vocab)) return `a token is not one of the model's ${spec.vocab}`
    } else if (spec.inputBytes === 0 || input.hidden.byteLength !== count * spec.inputBytes) return spec.inputBytes === 0 ? 'this stage takes tokens, not activations' : `${input.hidden.byteLength} bytes came for ${count} positions of ${spec.inputBytes}`
    const last = spec.end === spec.layers
    if (want === 'hidden' && last) return 'the last stage gives logits, no activations'
    if ((want === 'greedy' || want === 'logits') && !last) return 'only the last stage gives logits'
    return undefined
  }

  #checkOutput(report: OutputReport, { step, kvRows }: Asked): void {
    const { outputBytes, vocab, kvBytes } = this.spec
    const answers = step?.rows === 'all' ? step.count : 1
    const fits =
      (report.hidden?.byteLength ?? 0) === (step?.want === 'hidden' ? step.count * outputBytes : 0) &&
      (report.ids?.length ?? 0) === (step?.want === 'greedy' ? answers : 0) &&
      (report.logits?.length ?? 0) === (step?.want === 'logits' ? answers * vocab : 0) &&
      (report.kv?.byteLength ?? 0) === kvRows * kvBytes &&
      (report.ids?.every(id => id < vocab) ?? true) &&
      report.batch >= 1 && report.computeMs >= 0 && Number.isFinite(report.computeMs)
    if (!fits) throw new MeshError('MESSAGE_INVALID', 'an outcome that does not fit its step')
  }

  #ask(session: Session, order: (id: number) => StageOrder, kvRows = 0): Promise<StageReport> {
    return new Promise((resolve, reject) => {
      const id = this.#nextId()
      this.#asked.set(id, { session, step: undefined, kvRows, bytes: 0, resolve, reject })
      try {
        this.#send(order(id))
      } catch (error) {
        this.#asked.delete(id)
        reject(asMeshError(error))
      }
    })
  }

  #send(order: StageOrder): void {
    if (this.#gone !== undefined) throw this.#gone
    const frame = encodeOrder(order)
    if (this.#asked.size > WAITING || (this.#bytes > 0 && this.#bytes + frame.byteLength > WAITING_BYTES)) throw new MeshError('OVERLOADED', `${this.#asked.size} steps of ${this.#bytes} bytes wait for this instance already`)
    this.#write(frame)
    const asked = 'id' in order ? this.#asked.get(order.id) : undefined
    if (asked === undefined) return
    asked.bytes = frame.byteLength
    this.#bytes += frame.byteLength
  }

  /** For orders nobody waits on. An instance that does not read them is gone or will be. */
  #tell(order: StageOrder): void {
    try {
      if (this.#gone === undefined) this.#write(encodeOrder(order))
    } catch {
      // Its supervisor knows.
    }
  }

  #known(name: string): Session {
    const session = this.#sessions.get(name)
    if (this.#gone !== undefined) throw this.#gone
    if (session === undefined) throw notOpen()
    return session
  }

  #forget(name: string, session: Session): void {
    this.#sessions.delete(name)
    this.#reserved -= session.tokens
  }

  #nextId(): number {
    this.#ids = (this.#ids % IDS) + 1
    return this.#ids
  }
}

function notOpen(): MeshError {
  return new MeshError('NOT_FOUND', 'no such session is open in this instance')
}

function inside(position: number, count: number, { tokens }: Session): boolean {
  return Number.isInteger(position) && Number.isInteger(count) && position >= 0 && count >= 1 && position + count <= tokens
}

function outputOf({ hidden, ids, logits, kv, computeMs, batch }: OutputReport): StageOutput {
  return {
    computeMs, batch,
    ...(hidden === undefined ? {} : { hidden }),
    ...(ids === undefined ? {} : { ids: [...ids] }),
    ...(logits === undefined ? {} : { logits }),
    ...(kv === undefined ? {} : { kv }),
  }
}
