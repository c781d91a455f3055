import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import type { Json } from '../../protocols/ids.ts'
import type { Sandbox, SandboxedRule, SandboxPurpose, SandboxResult, Telemetry } from '../../src/ports.ts'
import type { GuestLimits } from './sandbox/guest.ts'
import { Lane } from './sandbox/lane.ts'
import type { ThreadData } from './sandbox/messages.ts'
import { Rule } from './sandbox/rule.ts'

export type QuickjsOptions = GuestLimits & {
  /** Threads that rules share; a rule that had its thread killed moves to one more, apart from the others. */
  readonly threads: number
  /** The supervisor's kill, in milliseconds: for loops inside native code that fuel does not reach. */
  readonly deadlineMs: number
  /** VMs kept at once, and the memory they may hold together. The least recently used makes room and is opened again when called. */
  readonly liveRules: number
  readonly liveBytes: number
  readonly sourceChars: number
  readonly inputChars: number
  /** What a job may take instead: it works once, in a thread where it holds nobody up. */
  readonly job: Pick<GuestLimits, 'memoryBytes' | 'fuel'> & { readonly deadlineMs: number }
}

export const QUICKJS_DEFAULTS: QuickjsOptions = {
  memoryBytes: 8_388_608,
  stackBytes: 262_144,
  // About 0.1 s of plain loops.
  fuel: 150,
  outputChars: 1_048_576,
  threads: 2,
  deadlineMs: 1_000,
  liveRules: 96,
  liveBytes: 268_435_456,
  // A WebAssembly module of 1 MiB, as text.
  sourceChars: 1_500_000,
  inputChars: 2_097_152,
  // About ten seconds of plain loops.
  job: { memoryBytes: 67_108_864, fuel: 15_000, deadlineMs: 60_000 },
}

export type SandboxStats = { readonly live: number; readonly bytes: number; readonly kills: number; readonly lost: number; readonly evicted: number }

/**
 * Policy rules in QuickJS compiled to WebAssembly, and rules that are WebAssembly themselves, in threads that can be killed. A rule sees the JSON it is given and
 * nothing else: no host functions, one fixed time, the same random draws everywhere.
 */
export class QuickjsSandbox implements Sandbox, AsyncDisposable {
  readonly #options: QuickjsOptions
  readonly #telemetry: Pick<Telemetry, 'count' | 'gauge'> | undefined
  readonly #lanes: Lane[] = []
  readonly #apart: Lane
  /** Jobs, and functions: neither holds up a hook, nor does a hook's rule that must be killed take them along. */
  readonly #jobs: Lane
  readonly #functions: Lane
  /** Least recently used first. */
  readonly #live = new Set<Rule>()
  #data: Promise<ThreadData> | undefined
  #jobData: Promise<ThreadData> | undefined
  #serial = 0
  #kills = 0
  #lost = 0
  #evicted = 0

  constructor(options: Partial<QuickjsOptions> = {}, telemetry?: Pick<Telemetry, 'count' | 'gauge'>) {
    this.#options = { ...QUICKJS_DEFAULTS, ...options }
    this.#telemetry = telemetry
    for (let i = 0; i < this.#options.threads; i += 1) this.#lanes.push(this.#lane())
    this.#apart = this.#lane()
    const { job } = this.#options
    this.#jobs = new Lane(() => (this.#jobData ??= engineOf({ ...this.#options, ...job })), job.deadlineMs, () => this.#threadLost(this.#jobs))
    this.#functions = this.#lane()
  }

  async open(source: string, init: { readonly ruleId: string; readonly settings: Json; readonly parameters: Json; readonly purpose?: SandboxPurpose; readonly state?: Uint8Array | undefined }): ReturnType<Sandbox['open']> {
    const { sourceChars, inputChars } = this.#options
    if (source.length > sourceChars) return { ok: false, error: 'invalid', message: `the source has ${source.length} characters; the limit is ${sourceChars}` }
    const settings = JSON.stringify(init.settings)
    const parameters = JSON.stringify(init.parameters)
    if (settings.length + parameters.length > inputChars) return { ok: false, error: 'invalid', message: `settings and parameters have ${settings.length + parameters.length} characters; the limit is ${inputChars}` }
    this.#serial += 1
    const rule = new Rule({ kind: 'open', rule: this.#serial, source, ruleId: init.ruleId, settings, parameters, saves: init.purpose === 'function', state: init.state }, {
      inputChars,
      lasting: init.purpose === 'function',
      lane: suspect => this.#choose(suspect, init.purpose ?? 'hook'),
      used: used => this.#used(used),
      gone: (gone, why) => this.#gone(gone, why),
    })
    const failure = await rule.ensure()
    if (failure !== undefined) {
      rule.close()
      return failure
    }
    return { ok: true, rule: exposed(rule) }
  }

  stats(): SandboxStats {
    let bytes = 0
    for (const rule of this.#live) bytes += rule.bytes
    return { live: this.#live.size, bytes, kills: this.#kills, lost: this.#lost, evicted: this.#evicted }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#lanes, this.#apart, this.#jobs, this.#functions].map(lane => lane.close()))
    this.#live.clear()
  }

  #lane(): Lane {
    const lane: Lane = new Lane(() => (this.#data ??= engineOf(this.#options)), this.#options.deadlineMs, () => this.#threadLost(lane))
    return lane
  }

  /** The idlest thread that runs already; another one is started only when all are busy. */
  #choose(suspect: boolean, purpose: SandboxPurpose): Lane {
    if (purpose === 'job') return this.#jobs
    if (suspect) return this.#apart
    if (purpose === 'function') return this.#functions
    const running = this.#lanes.filter(lane => lane.running)
    const idle = running.find(lane => lane.load === 0)
    if (idle !== undefined) return idle
    return this.#lanes.find(lane => !lane.running) ?? running.reduce((best, lane) => (lane.load < best.load ? lane : best))
  }

  #used(rule: Rule): void {
    this.#live.delete(rule)
    this.#live.add(rule)
    let { live, bytes } = this.stats()
    for (const oldest of this.#live) {
      if (live <= this.#options.liveRules && bytes <= this.#options.liveBytes) break
      if (oldest === rule || oldest.busy || oldest.lasting) continue
      live -= 1
      bytes -= oldest.bytes
      this.#live.delete(oldest)
      oldest.evict()
      this.#evicted += 1
      this.#telemetry?.count('sandbox_evictions_total')
    }
    this.#telemetry?.gauge('sandbox_rules_live', this.#live.size)
  }

  #gone(rule: Rule, why: 'closed' | 'broken'): void {
    if (!this.#live.delete(rule)) return
    if (why === 'closed') return
    this.#lost += 1
    this.#telemetry?.count('sandbox_rules_lost_total')
  }

  #threadLost(lane: Lane): void {
    this.#kills += 1
    this.#telemetry?.count('sandbox_kills_total')
    for (const rule of this.#live) {
      if (rule.lane !== lane) continue
      this.#live.delete(rule)
      this.#lost += 1
      this.#telemetry?.count('sandbox_rules_lost_total')
    }
  }
}

function exposed(rule: Rule): SandboxedRule {
  return {
    eval: (parameters, input, context, settings): Promise<SandboxResult> =>
      rule.call('eval', [JSON.stringify(parameters), JSON.stringify(input), JSON.stringify(context)], settings === undefined ? '' : JSON.stringify(settings)),
    management: (action, data) => rule.call('management', [action, JSON.stringify(data), ''], ''),
    save: () => rule.save(),
    life: () => rule.life,
    close: () => rule.close(),
  }
}

async function engineOf(limits: GuestLimits): Promise<ThreadData> {
  const path = fileURLToPath(import.meta.resolve('quickjs-wasi/quickjs.wasm'))
  const { memoryBytes, stackBytes, fuel, outputChars } = limits
  return { engine: await WebAssembly.compile(await readFile(path)), limits: { memoryBytes, stackBytes, fuel, outputChars } }
}
