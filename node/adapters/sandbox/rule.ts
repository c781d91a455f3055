import { MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import type { SandboxResult, SandboxSaved } from '../../../src/ports.ts'
import type { Lane, LaneAnswer } from './lane.ts'
import type { ThreadRequest } from './messages.ts'

type Failure = Extract<SandboxResult, { ok: false }>

/** What a rule asks of the pool that holds it. */
export type RuleHome = {
  readonly inputChars: number
  /** It keeps its VM, and so its state, until it is closed. */
  readonly lasting: boolean
  /** A thread to live in; `suspect` is true for a rule that had its thread killed. */
  lane(suspect: boolean): Lane
  /** It has a VM and was just called. */
  used(rule: Rule): void
  /** Its VM is gone: closed by its owner, or spoiled by what it did. */
  gone(rule: Rule, why: 'closed' | 'broken'): void
}

/** One opened rule and where its VM is, if it has one now. A VM that was lost is built again by the next call: from what was saved last, else from nothing. */
export class Rule {
  readonly #source: Extract<ThreadRequest, { kind: 'open' }>
  readonly #home: RuleHome
  #lane: Lane | undefined
  #generation = -1
  #opening: Promise<Failure | undefined> | undefined
  #bytes = 0
  #inFlight = 0
  #suspect = false
  #saved: Uint8Array | undefined
  #opens = 0
  #closed = false

  constructor(source: Extract<ThreadRequest, { kind: 'open' }>, home: RuleHome) {
    this.#source = source
    this.#home = home
    this.#saved = source.state
  }

  get lane(): Lane | undefined {
    return this.#lane
  }

  get lasting(): boolean {
    return this.#home.lasting
  }

  get bytes(): number {
    return this.#bytes
  }

  /** -1 while it has no VM. */
  get life(): number {
    return this.#lane !== undefined && this.#lane.generation === this.#generation ? this.#opens : -1
  }

  get busy(): boolean {
    return this.#inFlight > 0 || this.#opening !== undefined
  }

  /** Builds the VM where there is none. Answers what went wrong, if anything did. */
  ensure(): Promise<Failure | undefined> {
    if (this.#lane !== undefined && this.#lane.generation === this.#generation) return Promise.resolve(undefined)
    this.#opening ??= this.#open().finally(() => (this.#opening = undefined))
    return this.#opening
  }

  async call(method: 'eval' | 'management', args: readonly [string, string, string], fresh: string): Promise<SandboxResult> {
    if (this.#closed) return { ok: false, error: 'invalid', message: 'the rule was closed' }
    const chars = args[0].length + args[1].length + args[2].length + fresh.length
    if (chars > this.#home.inputChars) return { ok: false, error: 'invalid', message: `the input has ${chars} characters; the limit is ${this.#home.inputChars}` }
    this.#inFlight += 1
    try {
      let answer = await this.#ask(method, args, fresh)
      // Its thread was killed, by a neighbour, while this call waited: nothing of it has run yet.
      if ('missing' in answer && answer.missing) answer = await this.#ask(method, args, fresh)
      return answer.answer.ok ? { ok: true, value: parsed(answer.answer.text), fuel: answer.answer.fuel } : answer.answer
    } finally {
      this.#inFlight -= 1
    }
  }

  async save(): Promise<SandboxSaved> {
    if (this.#closed) return { ok: false, error: 'invalid', message: 'the rule was closed' }
    this.#inFlight += 1
    try {
      const lane = this.#lane
      if (lane === undefined || this.life < 0) return { ok: false, error: 'deadline', message: 'the rule lost what it ran in before it was saved' }
      const answer = await lane.ask({ kind: 'save', rule: this.#source.rule })
      if (!answer.answer.ok) return answer.answer
      const state = 'state' in answer ? answer.state : undefined
      if (state === undefined) return { ok: false, error: 'invalid', message: 'nothing was saved' }
      this.#saved = state
      return { ok: true, state }
    } finally {
      this.#inFlight -= 1
    }
  }

  /** Gives the VM up; the next call builds another. */
  evict(): void {
    const lane = this.#lane
    this.#lane = undefined
    this.#bytes = 0
    if (lane !== undefined && lane.generation === this.#generation) void lane.ask({ kind: 'close', rule: this.#source.rule })
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.evict()
    this.#home.gone(this, 'closed')
  }

  async #ask(method: 'eval' | 'management', args: readonly [string, string, string], fresh: string): Promise<Pick<LaneAnswer, 'answer'>> {
    const failure = await this.ensure()
    if (failure !== undefined) return { answer: failure }
    const lane = this.#lane
    if (lane === undefined) return { answer: { ok: false, error: 'invalid', message: 'the rule was closed' } }
    this.#home.used(this)
    const generation = this.#generation
    const answer = await lane.ask({ kind: 'call', rule: this.#source.rule, method, args, fresh })
    if ('killed' in answer && answer.killed) this.#suspect = true
    if (this.#lane === lane && this.#generation === generation) this.#note(answer)
    return answer
  }

  async #open(): Promise<Failure | undefined> {
    const lane = this.#home.lane(this.#suspect)
    const answer = await lane.ask({ ...this.#source, state: this.#saved })
    if (!answer.answer.ok) {
      if ('killed' in answer && answer.killed) this.#suspect = true
      return answer.answer
    }
    this.#lane = lane
    this.#generation = lane.generation
    this.#opens += 1
    this.#bytes = answer.bytes
    if (this.#closed) this.evict()
    else this.#home.used(this)
    return undefined
  }

  /** What an answer says of the VM that gave it. */
  #note(answer: LaneAnswer): void {
    this.#bytes = answer.bytes
    if (answer.live) return
    this.#lane = undefined
    if (!('killed' in answer)) this.#home.gone(this, 'broken')
  }
}

function parsed(text: string): Json {
  try {
    const value: Json = JSON.parse(text)
    return value
  } catch (cause) {
    // The guest's own JSON.stringify wrote it.
    throw new MeshError('POLICY_FAILED', 'the rule answered with something that is not JSON', { cause })
  }
}
