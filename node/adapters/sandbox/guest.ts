import { EvalFlags, Intrinsics, QuickJS, type JSValueHandle, type QuickJSOptions } from 'quickjs-wasi'
import type { SandboxResult } from '../../../src/ports.ts'
import { packed, unpacked } from './memory-image.ts'
import { LOCATE, PRELUDE } from './prelude.ts'

export type GuestLimits = {
  /** Bytes the rule may allocate. */
  readonly memoryBytes: number
  readonly stackBytes: number
  /** Interrupt polls (about 10,000 loop turns or calls each) before a call is stopped: the same on every machine. */
  readonly fuel: number
  readonly outputChars: number
}

type Failure = Extract<SandboxResult, { ok: false }>
export type GuestAnswer = Failure | { readonly ok: true; readonly text: string; readonly fuel: number }
export type GuestSaved = Failure | { readonly ok: true; readonly state: Uint8Array }
export type GuestStart = { readonly ruleId: string; readonly settings: string; readonly parameters: string; /** It will be saved. */ readonly saves: boolean; /** What was saved of it. */ readonly state: Uint8Array | undefined }

/** A rule at work in a thread, whatever it was written in. */
export interface RunningGuest {
  /** What it left behind cannot be trusted to be consistent. */
  readonly broken: boolean
  /** Bytes of linear memory, which only ever grows. */
  readonly bytes: number
  call(method: 'eval' | 'management', args: readonly [string, string, string], fresh: string): GuestAnswer
  save(): GuestSaved
  close(): void
}

const MESSAGE_CHARS = 500
/** What the engine takes besides what the rule allocates: its own data, its stack, what its allocator holds in reserve. */
const ENGINE_BYTES = 4_194_304
/** The only time a rule can read: 2025-01-01. It also seeds Math.random, so that every peer sees the same draws. */
const FIXED_NANOSECONDS = 1_735_689_600_000_000_000n

/** One VM with one rule in it. Everything it says is text; nothing of the host is reachable from it. */
export class Guest implements RunningGuest {
  readonly #vm: QuickJS
  readonly #limits: GuestLimits
  readonly #meter: Meter
  #host: JSValueHandle | undefined
  /** Its memory when it was built: a state is what differs from it. */
  #image: Uint8Array | undefined
  #broken = false

  private constructor(vm: QuickJS, meter: Meter, limits: GuestLimits) {
    this.#vm = vm
    this.#meter = meter
    this.#limits = limits
  }

  /** Compiles and constructs a rule, and goes on from its state where it has one. The settings and parameters are JSON text. */
  static async open(engine: WebAssembly.Module, source: string, init: GuestStart, limits: GuestLimits): Promise<{ readonly ok: true; readonly guest: Guest } | Failure> {
    const meter = new Meter(limits.fuel)
    const guest = new Guest(await QuickJS.create(optionsOf(engine, limits, meter)), meter, limits)
    const failure = guest.#build(source, init)
    if (failure === undefined && init.saves) guest.#image = guest.#memory().slice()
    if (failure === undefined && init.state === undefined) return { ok: true, guest }
    const image = guest.#image
    guest.close()
    if (failure !== undefined) return failure
    if (image === undefined || init.state === undefined) return failed('invalid', 'a rule that is not saved has no state')
    return Guest.#restore(engine, image, init.state, limits)
  }

  /** Lays a saved state over the image of a rule that was just built. */
  static async #restore(engine: WebAssembly.Module, image: Uint8Array, state: Uint8Array, limits: GuestLimits): Promise<{ readonly ok: true; readonly guest: Guest } | Failure> {
    const meter = new Meter(limits.fuel)
    try {
      const { memory, registers } = unpacked(image, state, limits.memoryBytes + ENGINE_BYTES)
      const vm = await QuickJS.restore({ memory, stackPointer: registers.stackPointer, runtimePtr: registers.runtime, contextPtr: registers.context, extensions: [] }, optionsOf(engine, limits, meter))
      const guest = new Guest(vm, meter, limits)
      guest.#image = image
      guest.#host = vm.importHandle(registers.host)
      return { ok: true, guest }
    } catch (error) {
      return failed('invalid', `its state cannot be taken up: ${messageOf(error)}`)
    }
  }

  /** True after it ran out of fuel or memory or trapped: what it left behind cannot be trusted to be consistent. */
  get broken(): boolean {
    return this.#broken
  }

  /** Bytes of linear memory, which only ever grows. */
  get bytes(): number {
    return this.#vm._getMemory().buffer.byteLength
  }

  /** What it holds between calls: `invalid` where it was not opened to be saved. */
  save(): GuestSaved {
    if (this.#image === undefined || this.#host === undefined || this.#broken) return failed('invalid', 'the rule was not opened to be saved')
    const { stackPointer, runtimePtr, contextPtr, memory } = this.#vm.snapshot()
    return { ok: true, state: packed(this.#image, memory, { stackPointer, runtime: runtimePtr, context: contextPtr, host: this.#vm.exportHandle(this.#host) }) }
  }

  /** Calls `eval(parameters, input, context)` or `management(action, data)`; `fresh` replaces injected settings, "" keeps them. */
  call(method: 'eval' | 'management', args: readonly [string, string, string], fresh: string): GuestAnswer {
    return this.#bounded(() => {
      const host = this.#host
      if (host === undefined) return failed('invalid', 'the rule was not built')
      let state = this.#ask(host, 'call', [method, ...args, fresh], this.#limits.outputChars)
      this.#vm.executePendingJobs()
      if (state === 'waiting') state = this.#ask(host, 'state', [])
      switch (state) {
        case 'done': return { ok: true, text: this.#ask(host, 'text', []), fuel: this.#meter.spent }
        case 'waiting': return failed('threw', `its promise never settles: nothing is left that could settle it`)
        case 'invalid': return failed('invalid', this.#ask(host, 'text', []))
        default: return this.#thrown(this.#ask(host, 'text', []))
      }
    })
  }

  close(): void {
    this.#broken = true
    this.#image = undefined
    try {
      this.#vm.dispose()
    } catch {
      // A VM that trapped cannot be taken apart; without references to it its memory is collected all the same.
    }
  }

  #memory(): Uint8Array {
    return new Uint8Array(this.#vm._getMemory().buffer)
  }

  #build(source: string, init: { readonly ruleId: string; readonly settings: string; readonly parameters: string }): Failure | undefined {
    const vm = this.#vm
    const answer = this.#bounded(() => {
      const host = vm.evalCode(PRELUDE, 'prelude.js')
      this.#host = host
      vm.evalCode('globalThis.module = { exports: {} }; globalThis.exports = module.exports', 'prelude.js').dispose()
      const found = this.#load(host, source)
      const state = vm.withScope(() => {
        const built = vm.callFunction(host.getProp('build'), vm.undefined, found, ...[init.ruleId, init.settings, init.parameters].map(text => vm.newString(text)))
        return built.isString ? built.toString() : 'threw'
      })
      found.dispose()
      vm.executePendingJobs()
      if (state === 'done') return { ok: true, text: '', fuel: this.#meter.spent }
      const said = this.#ask(host, 'text', [])
      return state === 'invalid' ? failed('invalid', said) : this.#thrown(said)
    }, 'invalid')
    return answer.ok ? undefined : answer
  }

  /** Scripts first; what only parses as a module is one. Nothing runs when parsing fails, so nothing runs twice. */
  #load(host: JSValueHandle, source: string): JSValueHandle {
    const vm = this.#vm
    try {
      vm.evalCode(source, 'rule.js').dispose()
    } catch (error) {
      if (!(error instanceof Error) || error.name !== 'SyntaxError' || !/\b(?:export|import)\b/.test(source)) throw error
      vm.withScope(() => vm.callFunction(host.getProp('load'), vm.undefined, vm.evalCode(source, 'rule.mjs', EvalFlags.TYPE_MODULE)))
      vm.executePendingJobs()
      const state = this.#ask(host, 'state', [])
      if (state === 'done') return vm.undefined
      throw new LoadFailure(state === 'waiting' ? 'the module waits for something that never comes' : this.#ask(host, 'text', []))
    }
    return vm.evalCode(LOCATE, 'locate.js')
  }

  #ask(host: JSValueHandle, name: string, texts: readonly string[], number?: number): string {
    return this.#vm.withScope(() => {
      const args = texts.map(text => this.#vm.newString(text))
      if (number !== undefined) args.push(this.#vm.newNumber(number))
      const answer = this.#vm.callFunction(host.getProp(name), this.#vm.undefined, ...args)
      return answer.isString ? answer.toString() : ''
    })
  }

  /** Runs one step on a full tank and turns whatever leaves it into an answer. */
  #bounded(step: () => GuestAnswer, syntax: 'invalid' | 'threw' = 'threw'): GuestAnswer {
    this.#meter.fill()
    let answer: GuestAnswer
    try {
      answer = step()
    } catch (error) {
      answer = error instanceof WebAssembly.RuntimeError || error instanceof RangeError
        ? this.#trapped()
        : this.#thrown(messageOf(error), syntax)
    }
    if (this.#meter.empty) answer = failed('fuel', `ran out of fuel: stopped after ${this.#limits.fuel} polls`)
    if (!answer.ok && (answer.error === 'fuel' || answer.error === 'memory')) this.#broken = true
    return answer
  }

  #thrown(message: string, syntax: 'invalid' | 'threw' = 'threw'): Failure {
    if (message.includes('out of memory')) return failed('memory', `ran out of memory: the limit is ${this.#limits.memoryBytes} bytes`)
    return failed(message.startsWith('SyntaxError') ? syntax : 'threw', message)
  }

  #trapped(): Failure {
    this.#broken = true
    return failed('threw', 'the engine stopped: the rule drove it into a trap')
  }
}

function optionsOf(wasm: WebAssembly.Module, { memoryBytes, stackBytes }: GuestLimits, meter: Meter): QuickJSOptions {
  return {
    wasm,
    memoryLimit: memoryBytes,
    maxStackSize: stackBytes,
    timezoneOffset: 0,
    intrinsics: Intrinsics.ALL & ~Intrinsics.PERFORMANCE & ~Intrinsics.WEAK_REF,
    interruptHandler: () => meter.poll(),
    wasi: deterministicWasi,
  }
}

/** What the guest itself said of a module that did not load. */
class LoadFailure extends Error {}

/** Counts interrupt polls instead of reading a clock, so that every peer stops the same program at the same place. */
class Meter {
  readonly #limit: number
  #spent = 0

  constructor(limit: number) {
    this.#limit = limit
  }

  get spent(): number {
    return this.#spent
  }

  get empty(): boolean {
    return this.#spent > this.#limit
  }

  fill(): void {
    this.#spent = 0
  }

  poll(): boolean {
    this.#spent += 1
    return this.#spent > this.#limit
  }
}

function failed(error: Failure['error'], message: string): Failure {
  return { ok: false, error, message: message.slice(0, MESSAGE_CHARS) }
}

/** Reading an exception runs the guest's getters, so it may itself throw. */
function messageOf(error: unknown): string {
  try {
    if (!(error instanceof Error)) return 'threw'
    if (error instanceof LoadFailure) return error.message
    return `${String(error.name)}: ${String(error.message)}`.slice(0, MESSAGE_CHARS)
  } catch {
    return 'threw something that cannot be described'
  }
}

function deterministicWasi(memory: WebAssembly.Memory): Record<string, (...args: number[]) => number> {
  return {
    clock_time_get(_clock: number, _precision: number, at: number) {
      new DataView(memory.buffer).setBigUint64(at, FIXED_NANOSECONDS, true)
      return 0
    },
    random_get(at: number, length: number) {
      new Uint8Array(memory.buffer, at, length).fill(0x5a)
      return 0
    },
    // Accepts and drops what the engine prints.
    fd_write(_fd: number, vectors: number, count: number, writtenAt: number) {
      const view = new DataView(memory.buffer)
      let written = 0
      for (let i = 0; i < count; i += 1) written += view.getUint32(vectors + i * 8 + 4, true)
      view.setUint32(writtenAt, written, true)
      return 0
    },
  }
}
