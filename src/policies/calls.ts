import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyRef, PolicyRule, Template } from '../../protocols/specs.ts'
import { Lru } from '../lib/lru.ts'
import { isJsonObject } from '../lib/json.ts'
import type { Clock, Sandbox, SandboxedRule, SandboxPurpose, SandboxResult, Telemetry } from '../ports.ts'
import type { Catalogue, Decision, HookName, PolicyCall, PolicyCalls } from '../roles.ts'
import { DEFAULT_RULE } from '../specs/policy-refs.ts'
import { validate } from '../specs/template.ts'
import { Breaker, type BreakerPolicy } from './breaker.ts'
import { checkCommand } from './commands.ts'
import { answerOnFailure, HOOKS } from './hooks.ts'
import { calledWith } from './precedence.ts'
import { Rules, type OpenRule, type RuleLimits } from './rules.ts'

export type PolicyLimits = RuleLimits & BreakerPolicy & { readonly becauseChars: number }

export const POLICY_LIMITS: PolicyLimits = {
  openRules: 512,
  knownRules: 512,
  /** A hook is in somebody's path: a rule that is not here yet and does not come in time falls back, and is here the next time. */
  fetchMs: 3_000,
  latestMs: 30_000,
  failures: 5,
  restMs: 10_000,
  maxRestMs: 300_000,
  becauseChars: 400,
}

export type PolicyPorts = { readonly clock: Pick<Clock, 'monotonic' | 'deadline'>; readonly sandbox: Sandbox; readonly telemetry: Telemetry }

/** Why a rule gave no opinion. The first group counts against the rule and, often enough in a row, rests it. */
type Reason = 'parameters' | 'unavailable' | 'invalid' | 'threw' | 'fuel' | 'memory' | 'deadline' | 'output' | 'input' | 'refused' | 'resting'
const BLAMELESS: ReadonlySet<Reason> = new Set(['input', 'parameters', 'refused', 'resting'])

/** Answers for members of a rule's settings, of what is asked about and what the asker filled in. */
type Lender = (wanted: readonly string[], input: Json, given: Readonly<Record<string, Json>>) => Promise<Readonly<Record<string, Json>>>

type RuleAnswer = SandboxResult | { readonly ok: false; readonly error: Reason; readonly message: string }

type Opinion<T> = { readonly ok: true; readonly value: T; readonly because: string } | { readonly ok: false; readonly reason: Reason; readonly because: string; /** Nobody has published it, yet. */ readonly unpublished?: boolean }

/** Asks policy rules at their hooks. Whatever a rule does, the caller gets a decision, and why. */
export class Policies implements PolicyCalls {
  readonly #rules: Rules
  readonly #clock: Pick<Clock, 'monotonic' | 'deadline'>
  readonly #telemetry: Telemetry
  readonly #limits: PolicyLimits
  readonly #breakers: Lru<string, Breaker>
  #onFailure: (hook: HookName, rule: PolicyRef, scope: string | undefined, because: string) => void = () => undefined
  readonly #validate: Validate
  #lender: Lender | undefined

  /** `validate` answers what is wrong with a value under a template; the mesh's own by default. */
  constructor(ports: PolicyPorts, catalogue: Pick<Catalogue, 'policy'>, options: { readonly limits?: Partial<PolicyLimits>; readonly validate?: Validate } = {}) {
    this.#limits = { ...POLICY_LIMITS, ...options.limits }
    this.#rules = new Rules(catalogue, ports.sandbox, ports.clock, this.#limits)
    this.#clock = ports.clock
    this.#telemetry = ports.telemetry
    this.#breakers = new Lru(this.#limits.knownRules)
    this.#validate = options.validate ?? validate
  }

  /** Whoever is to hear of rules that fail. One at most. */
  reportTo(onFailure: (hook: HookName, rule: PolicyRef, scope: string | undefined, because: string) => void): void {
    this.#onFailure = onFailure
  }

  /** Whoever answers for the live callables that hooks lend and askers leave out. One at most. */
  lendFrom(lender: Lender): void {
    this.#lender = lender
  }

  async #lent<T>(call: PolicyCall<T>): Promise<PolicyCall<T>> {
    const wanted = HOOKS[call.hook].settings.filter(name => call.settings?.[name] === undefined)
    if (wanted.length === 0 || this.#lender === undefined) return call
    return { ...call, settings: { ...await this.#lender(wanted, call.input, call.settings ?? {}), ...call.settings } }
  }

  /** Throws only what the caller's own `accept` or `fallback` throws. */
  async decide<T>(asked: PolicyCall<T>): Promise<Decision<T>> {
    const { hook, rule: ref } = asked
    if (ref === undefined || ref.policyRuleURI === DEFAULT_RULE) return { value: asked.fallback(), by: 'default', because: `no ${hook} policy is set` }
    // Made here and once, where the asker makes its input only for a rule.
    const call = await this.#lent({ ...asked })
    const opinion = await this.#ask(call, ref)
    this.#telemetry.count('policy_calls_total', { hook })
    if (opinion.ok) return { value: opinion.value, by: 'policy', because: opinion.because }
    this.#telemetry.count('policy_failures_total', { hook, reason: opinion.reason })
    this.#telemetry.event('warn', 'policy_failed', { hook, rule: ref.policyRuleURI, reason: opinion.reason, because: opinion.because })
    // What a rule says of one input, and that it rests, is told with the failure that led there.
    if (!BLAMELESS.has(opinion.reason)) this.#onFailure(hook, ref, call.scope, opinion.because)
    const documented = answerOnFailure(hook, call.input, opinion.because)
    const accepted = documented === undefined ? undefined : call.accept(documented)
    return { value: accepted?.ok === true ? accepted.value : call.fallback(opinion.because), by: 'fallback', because: opinion.because }
  }

  /**
   * Evaluates a rule once, at no hook, on a copy of its own: AIOS's second and third kinds of execution. `settings` are what the
   * asker injects. Throws BAD_INPUT naming the field that breaks a schema, POLICY_FAILED, and what resolving the rule throws.
   */
  async execute(ref: PolicyRef, call: Pick<PolicyCall<Json>, 'input' | 'settings' | 'parameters'>, purpose: SandboxPurpose = 'hook'): Promise<{ readonly value: Json; readonly fuel: number }> {
    return this.#rules.once(ref, purpose, async open => taken(open.published, await evaluate(open, call, this.#validate)))
  }

  /** As `execute`, on the copy of a scope that somebody made up: its state stays until the rules here are too many, or the peer ends. */
  async evaluate(ref: PolicyRef, call: Pick<PolicyCall<Json>, 'input' | 'settings' | 'parameters'>, scope: string): Promise<Json> {
    return this.#rules.use(ref, scope, async open => taken(open.published, await evaluate(open, call, this.#validate)).value)
  }

  /**
   * AIOS's `management(action, data)` on the rule that serves `scope`. Throws BAD_INPUT for a command the rule does not
   * declare or data that does not fit its schema, POLICY_FAILED when it fails, and what resolving it throws.
   */
  async management(ref: PolicyRef, action: string, data: Json, hook: HookName, scope?: string): Promise<Json> {
    return this.#rules.use(ref, scopeOf(hook, scope), async ({ published, rule }) => {
      return command(published, rule, action, data)
    })
  }

  /** Ends the state of a scope's rules: its block or vDAG is gone. */
  release(scope: string): void {
    this.#rules.close(scope)
  }

  close(): void {
    this.#rules.closeAll()
  }

  async #ask<T>(call: PolicyCall<T>, ref: PolicyRef): Promise<Opinion<T>> {
    const scope = scopeOf(call.hook, call.scope)
    const uri = ref.policyRuleURI
    const breaker = this.#breaker(`${scope}\0${uri}`)
    const restMs = breaker.enter(this.#clock.monotonic())
    if (restMs > 0) return this.#none(uri, 'resting', `rests for ${restMs} ms more after failing ${this.#limits.failures} times in a row`)
    let opinion: Opinion<T>
    try {
      opinion = await this.#evaluate(call, ref, scope)
    } catch (error) {
      // Whatever `accept` throws is the caller's, but the breaker must not wait for this call for ever.
      breaker.failed(this.#clock.monotonic())
      throw error
    }
    if (opinion.ok || BLAMELESS.has(opinion.reason)) breaker.succeeded()
    // To look for one that is not there costs little, and it is to be asked soon after it is.
    else breaker.failed(this.#clock.monotonic(), opinion.unpublished !== true)
    return opinion
  }

  async #evaluate<T>(call: PolicyCall<T>, ref: PolicyRef, scope: string): Promise<Opinion<T>> {
    const uri = ref.policyRuleURI
    let result: RuleAnswer
    try {
      result = await this.#rules.use(ref, scope, open => evaluate(open, call, this.#validate))
    } catch (error) {
      const failure = asMeshError(error)
      return { ...this.#none(uri, failure.code === 'POLICY_FAILED' ? 'invalid' : failure.code === 'BAD_INPUT' ? 'parameters' : 'unavailable', failure.message), unpublished: failure.code === 'NOT_FOUND' }
    }
    if (!result.ok) return this.#none(uri, result.error, result.message)
    const verdict = call.accept(result.value)
    if (!verdict.ok) return this.#none(uri, 'refused', `its answer was not taken: ${verdict.because}`)
    return { ok: true, value: verdict.value, because: this.#short(`${uri}${ownWords(result.value)}`) }
  }

  #none(uri: string, reason: Reason, because: string): Extract<Opinion<never>, { ok: false }> {
    return { ok: false, reason, because: this.#short(`${uri}: ${because}`) }
  }

  #short(text: string): string {
    return text.slice(0, this.#limits.becauseChars)
  }

  #breaker(key: string): Breaker {
    const known = this.#breakers.get(key)
    if (known !== undefined) return known
    const breaker = new Breaker(this.#limits)
    this.#breakers.set(key, breaker)
    return breaker
  }
}

type Validate = (template: Template, value: Json) => readonly string[]

/** One call of an open rule, held against the schemas that the rule declares. Throws BAD_INPUT where the call's parameters break theirs. */
export async function evaluate({ published, parameters, rule }: OpenRule, call: Pick<PolicyCall<Json>, 'input' | 'settings' | 'parameters'>, check: Validate = validate): Promise<RuleAnswer> {
  const wrongInput = check(published.inputSchema, call.input)
  if (wrongInput.length > 0) return { ok: false, error: 'input', message: `its input does not fit: ${wrongInput.slice(0, 3).join('; ')}` }
  const answer = await rule.eval(calledWith(published, parameters, call.parameters), call.input, null, call.settings)
  const wrong = answer.ok ? check(published.outputSchema, answer.value) : []
  return wrong.length === 0 ? answer : { ok: false, error: 'output', message: `its answer does not fit: ${wrong.slice(0, 3).join('; ')}` }
}

/** An answer where there is nothing to fall back to. Throws BAD_INPUT or POLICY_FAILED. */
export function taken({ policyRuleURI }: PolicyRule, answer: RuleAnswer): { readonly value: Json; readonly fuel: number } {
  if (answer.ok) return answer
  throw new MeshError(answer.error === 'input' ? 'BAD_INPUT' : 'POLICY_FAILED', `${policyRuleURI}: ${answer.message}`, { details: { reason: answer.error } })
}

/** A management command on a running rule. Throws BAD_INPUT and POLICY_FAILED. */
export async function command(published: PolicyRule, rule: SandboxedRule, action: string, data: Json): Promise<Json> {
  checkCommand(published, action, data)
  const result = await rule.management(action, data)
  if (!result.ok) throw new MeshError('POLICY_FAILED', `${published.policyRuleURI}: ${action}: ${result.message}`, { details: { reason: result.error } })
  return result.value
}

/** Calls that name no scope share one for their hook. */
function scopeOf(hook: HookName, scope: string | undefined): string {
  return scope ?? `hook:${hook}`
}

/** What the rule itself said about its answer. */
function ownWords(answer: Json): string {
  const said = isJsonObject(answer) ? answer['because'] ?? answer['reason'] : undefined
  return typeof said === 'string' && said !== '' ? `: ${said}` : ''
}
