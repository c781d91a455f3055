import { z } from 'zod'
import { granted, MeshError, refused } from '../../protocols/errors.ts'
import type { Json, Millis } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { Backoff, RetryBudget } from '../lib/backoff.ts'
import { isJsonObject } from '../lib/json.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import type { PolicyCalls } from '../roles.ts'
import { Breaker, type BreakerPolicy } from './breaker.ts'

/** What failed, in AIOS's words for who may name a failure policy. */
export type FailureKind = 'policy' | 'instance' | 'node' | 'run' | 'block'
export type Failure = { readonly kind: FailureKind; /** The instance, peer, run, block or rule. */ readonly subject: string; readonly because: string; readonly about: Json }
export type Handled = { readonly success: boolean; readonly data: Json; readonly attempts: number; readonly escalated: boolean; readonly because: string }
export type Escalation = { readonly subject: string; readonly failure: Json; readonly outcome: Json; readonly because: string }

const RETRY = { firstMs: 500, maxMs: 10_000, retries: 3 }
const BREAKER: BreakerPolicy = { failures: 5, restMs: 30_000, maxRestMs: 600_000 }
const RULES_BOUND = 256
/** The same failure of the same thing again within this long is one. */
const SAME_MS: Millis = 10_000
const SEEN_BOUND = 4_096
/** Failures handled at the same time; a flood of them is told and dropped. */
const AT_ONCE = 16
const answered = z.looseObject({ success: z.boolean(), data: z.json().optional() })

/**
 * Asks a failure policy what to do about a failure, explicitly or when something failed whose block, vDAG, cluster or network names one. A
 * rule that fails is tried again with backoff, within a budget that all share; one that fails again and again is left alone for a while; and
 * what no rule settles waits for a person. A failure policy that fails is no failure to ask a failure policy about.
 */
export class FailureExecutor {
  readonly #ports: Pick<Ports, 'clock' | 'telemetry'>
  readonly #random: Random
  readonly #policies: PolicyCalls
  readonly #escalate: (escalation: Escalation) => void
  readonly #budget = new RetryBudget()
  readonly #breakers = new Lru<string, Breaker>(RULES_BOUND)
  readonly #seen = new Lru<string, Millis>(SEEN_BOUND)
  #running = 0

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'telemetry'>, policies: PolicyCalls, escalate: (escalation: Escalation) => void) {
    this.#ports = ports
    this.#random = ports.random.fork('failures')
    this.#policies = policies
    this.#escalate = escalate
  }

  /** AIOS's `executeFailurePolicy`. Throws OVERLOADED where too many are under way. */
  async execute(rule: PolicyRef, inputs: Json, subject = rule.policyRuleURI): Promise<Handled> {
    if (this.#running >= AT_ONCE) throw new MeshError('OVERLOADED', `${AT_ONCE} failures are being handled: come back later`, { details: { retryAfterMs: 1_000 } })
    this.#running += 1
    try {
      const handled = await this.#attempts(rule, inputs)
      const escalated = !handled.success || (isJsonObject(handled.data) && handled.data['escalate'] === true)
      if (escalated) this.#escalate({ subject, failure: inputs, outcome: handled.data, because: handled.because })
      this.#ports.telemetry.count('failure_policies_total', { outcome: escalated ? 'escalated' : 'handled' })
      return { ...handled, escalated }
    } finally {
      this.#running -= 1
    }
  }

  /** Something failed by itself. Returns at once; the nearest rule that is named for it is asked, if any is. */
  report(failure: Failure, named: () => Promise<PolicyRef | undefined>): void {
    const { kind, subject } = failure
    const key = `${kind}\0${subject}`
    const now = this.#ports.clock.monotonic()
    const before = this.#seen.peek(key)
    if (before !== undefined && now - before < SAME_MS) return
    this.#seen.set(key, now)
    void this.#handle(failure, named)
  }

  async #handle({ kind, subject, because, about }: Failure, named: () => Promise<PolicyRef | undefined>): Promise<void> {
    const { telemetry } = this.#ports
    try {
      const rule = await named()
      if (rule === undefined) return
      await this.execute(rule, { kind, subject, failure_reason: because, ...(isJsonObject(about) ? about : { about }) }, `${kind} ${subject}`)
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      telemetry.event('warn', 'failure.not-handled', { kind, subject, because: error.message })
    }
  }

  async #attempts(rule: PolicyRef, inputs: Json): Promise<Omit<Handled, 'escalated'>> {
    const { clock } = this.#ports
    const breaker = this.#breaker(rule.policyRuleURI)
    const backoff = new Backoff(this.#random, RETRY)
    this.#budget.called()
    for (let attempts = 1; ; attempts += 1) {
      const restMs = breaker.enter(clock.monotonic())
      if (restMs > 0) return { success: false, data: null, attempts: attempts - 1, because: `${rule.policyRuleURI} failed ${BREAKER.failures} times in a row and rests for ${restMs} ms more` }
      const answer = await this.#ask(rule, inputs)
      if (answer.answered) {
        breaker.succeeded()
        return { success: answer.success, data: answer.data, attempts, because: answer.because }
      }
      breaker.failed(clock.monotonic())
      const waitMs = backoff.next()
      if (waitMs === undefined || !this.#budget.take()) return { success: false, data: null, attempts, because: answer.because }
      await clock.sleep(waitMs)
    }
  }

  async #ask(rule: PolicyRef, inputs: Json): Promise<{ readonly answered: boolean; readonly success: boolean; readonly data: Json; readonly because: string }> {
    const { value, by, because } = await this.#policies.decide<{ readonly success: boolean; readonly data: Json } | undefined>({
      hook: 'failure', rule, input: inputs,
      accept: answer => {
        const parsed = answered.safeParse(answer)
        return parsed.success ? granted({ success: parsed.data.success, data: parsed.data.data ?? null }) : refused('a failure policy must return { success, data }')
      },
      fallback: () => undefined,
    })
    if (value === undefined || by !== 'policy') return { answered: false, success: false, data: null, because }
    return { answered: true, ...value, because: value.success ? because : `${because}: it could not settle it` }
  }

  #breaker(uri: string): Breaker {
    const known = this.#breakers.get(uri)
    if (known !== undefined) return known
    const breaker = new Breaker(BREAKER)
    this.#breakers.set(uri, breaker)
    return breaker
  }
}
