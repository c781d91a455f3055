import { Buffer } from 'node:buffer'
import type { SandboxResult } from '../../../src/ports.ts'
import type { GuestAnswer, GuestLimits, GuestSaved, GuestStart, RunningGuest } from './guest.ts'
import { bounded, WasmRefused } from './wasm-limits.ts'

type Failure = Extract<SandboxResult, { ok: false }>
type Step = (pointer: number, length: number) => unknown
type StepName = 'init' | 'eval' | 'management' | 'save' | 'restore'

export const WASM_SOURCE = 'data:application/wasm;base64,'
const PAGE = 65_536
const MESSAGE_CHARS = 500

/**
 * A rule as a WebAssembly module. It exports `memory`, `alloc(length) → pointer` and `eval(pointer, length) → i64`, the answer's
 * pointer in the upper half and its length in the lower; `init` and `management` of the same form where it wants them, and `save` and
 * `restore` where its state should outlive its host (its memory alone is not all of it: globals are out of reach). All that it is given
 * and gives is JSON text: `{ parameters, input, context, settings }`, `{ action, data }`, `{ rule_id, settings, parameters }`, its own.
 * It imports nothing (AssemblyScript's `env.abort` apart), so it has no clock, no randomness and no host; it is stopped by
 * the thread's deadline, not by fuel.
 */
export class WasmGuest implements RunningGuest {
  readonly #limits: GuestLimits
  readonly #memory: WebAssembly.Memory
  readonly #alloc: (length: number) => unknown
  readonly #steps: Readonly<Record<StepName, Step | undefined>>
  #settings: Record<string, unknown>
  #broken = false

  private constructor(instance: WebAssembly.Instance, settings: Record<string, unknown>, limits: GuestLimits) {
    const { memory, alloc } = instance.exports
    if (!(memory instanceof WebAssembly.Memory)) throw new WasmRefused('exports no memory')
    if (typeof alloc !== 'function') throw new WasmRefused('exports no alloc(length) → pointer')
    this.#limits = limits
    this.#memory = memory
    this.#alloc = length => alloc(length)
    this.#settings = settings
    this.#steps = { init: step(instance, 'init'), eval: step(instance, 'eval'), management: step(instance, 'management'), save: step(instance, 'save'), restore: step(instance, 'restore') }
    if (this.#steps.eval === undefined) throw new WasmRefused('exports no eval(pointer, length) → i64')
  }

  /** Compiles, instantiates and calls `init`. `source` begins with WASM_SOURCE. */
  static open(source: string, init: GuestStart, limits: GuestLimits): { readonly ok: true; readonly guest: WasmGuest } | Failure {
    try {
      const bytes = bounded(Buffer.from(source.slice(WASM_SOURCE.length), 'base64'), Math.floor(limits.memoryBytes / PAGE))
      const module = new WebAssembly.Module(bytes)
      const strange = WebAssembly.Module.imports(module).find(({ module, name, kind }) => kind !== 'function' || module !== 'env' || name !== 'abort')
      if (strange !== undefined) throw new WasmRefused(`imports ${strange.module}.${strange.name}: a rule has no host to import from`)
      const instance = new WebAssembly.Instance(module, { env: { abort: aborted } })
      const settings: Record<string, unknown> = JSON.parse(init.settings)
      const guest = new WasmGuest(instance, settings, limits)
      const started = guest.#steps.init === undefined ? undefined : guest.#say('init', `{"rule_id":${JSON.stringify(init.ruleId)},"settings":${init.settings},"parameters":${init.parameters}}`)
      if (started?.ok === false) return started
      const restored = init.state === undefined ? undefined : guest.#say('restore', new TextDecoder().decode(init.state))
      return restored?.ok === false ? restored : { ok: true, guest }
    } catch (error) {
      return failed(error instanceof WebAssembly.RuntimeError || error instanceof RangeError ? 'threw' : 'invalid', `the module ${error instanceof WasmRefused ? error.message : `does not load: ${messageOf(error)}`}`)
    }
  }

  get broken(): boolean {
    return this.#broken
  }

  get bytes(): number {
    return this.#memory.buffer.byteLength
  }

  call(method: 'eval' | 'management', [first, second, third]: readonly [string, string, string], fresh: string): GuestAnswer {
    if (fresh !== '') this.#settings = { ...this.#settings, ...JSON.parse(fresh) }
    const text = method === 'eval' ? `{"parameters":${first},"input":${second},"context":${third},"settings":${JSON.stringify(this.#settings)}}` : `{"action":${JSON.stringify(first)},"data":${second}}`
    return this.#say(method, text)
  }

  /** What its own `save` says; `invalid` where it has none, or could not take it up again. */
  save(): GuestSaved {
    if (this.#steps.restore === undefined) return failed('invalid', 'the rule has no save and restore')
    const said = this.#say('save', 'null')
    return said.ok ? { ok: true, state: new TextEncoder().encode(said.text) } : said
  }

  close(): void {
    this.#broken = true
  }

  #say(method: StepName, text: string): GuestAnswer {
    const run = this.#steps[method]
    if (run === undefined) return failed('invalid', `the rule has no ${method}`)
    try {
      const given = Buffer.from(text)
      const pointer = Number(this.#alloc(given.byteLength)) >>> 0
      this.#within(pointer, given.byteLength).set(given)
      const packed = run(pointer, given.byteLength)
      if (typeof packed !== 'bigint') return method === 'init' || method === 'restore' ? { ok: true, text: 'null', fuel: 0 } : failed('invalid', `${method} must return an i64`)
      const length = Number(packed & 0xffff_ffffn)
      if (length === 0) return { ok: true, text: 'null', fuel: 0 }
      if (length > this.#limits.outputChars) return failed('threw', `the answer has ${length} bytes; the limit is ${this.#limits.outputChars}`)
      const said = new TextDecoder('utf-8', { fatal: true }).decode(this.#within(Number((packed >> 32n) & 0xffff_ffffn), length))
      JSON.parse(said)
      return { ok: true, text: said, fuel: 0 }
    } catch (error) {
      if (error instanceof WasmRefused) return failed('invalid', `the module ${error.message}`)
      if (error instanceof WebAssembly.RuntimeError || error instanceof RangeError) {
        // It stopped in the middle: what it left behind cannot be trusted.
        this.#broken = true
        return failed('threw', `the module stopped: ${messageOf(error)}`)
      }
      return failed('threw', `the answer is not JSON: ${messageOf(error)}`)
    }
  }

  #within(pointer: number, length: number): Uint8Array {
    if (pointer + length > this.#memory.buffer.byteLength) throw new WasmRefused(`points at byte ${pointer + length}, outside its memory of ${this.#memory.buffer.byteLength}`)
    return new Uint8Array(this.#memory.buffer, pointer, length)
  }
}

function step(instance: WebAssembly.Instance, name: string): Step | undefined {
  const found = instance.exports[name]
  return typeof found === 'function' ? (pointer, length) => found(pointer, length) : undefined
}

function aborted(): never {
  throw new WebAssembly.RuntimeError('abort')
}

function failed(error: Failure['error'], message: string): Failure {
  return { ok: false, error, message: message.slice(0, MESSAGE_CHARS) }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : 'threw'
}
