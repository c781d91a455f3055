import { encode, hex, digest } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyRef, PolicyRule } from '../../protocols/specs.ts'
import { Lru } from '../lib/lru.ts'
import type { Clock, Sandbox, SandboxedRule, SandboxPurpose } from '../ports.ts'
import type { Catalogue } from '../roles.ts'
import { startsWith } from './precedence.ts'

export type RuleLimits = { readonly openRules: number; readonly knownRules: number; readonly fetchMs: number; readonly latestMs: number }

type Known = { readonly rule: PolicyRule; readonly source: string; readonly until: number }
/** `users` calls are in it; one that was dropped is closed when the last of them leaves. */
type Opened = { readonly init: string; readonly rule: Promise<SandboxedRule>; users: number; dropped: boolean }

/** A published rule with the call's parameters and settings laid over its defaults, and its running copy. */
export type OpenRule = {
  readonly published: PolicyRule
  readonly parameters: Readonly<Record<string, Json>>
  readonly rule: SandboxedRule
}

/** Fetches rules by URI and keeps their running copies, one for each scope, so that a rule's state lives as long as its scope does. */
export class Rules {
  readonly #catalogue: Pick<Catalogue, 'policy'>
  readonly #sandbox: Sandbox
  readonly #clock: Pick<Clock, 'monotonic' | 'deadline'>
  readonly #limits: RuleLimits
  readonly #known: Lru<string, Known>
  readonly #open: Lru<string, Opened>
  /** Each ends by `fetchMs`. */
  readonly #fetching = new Map<string, Promise<Known>>()

  constructor(catalogue: Pick<Catalogue, 'policy'>, sandbox: Sandbox, clock: Pick<Clock, 'monotonic' | 'deadline'>, limits: RuleLimits) {
    this.#catalogue = catalogue
    this.#sandbox = sandbox
    this.#clock = clock
    this.#limits = limits
    this.#known = new Lru(limits.knownRules)
    this.#open = new Lru(limits.openRules, (_, opened) => drop(opened))
  }

  /**
   * Lends the running rule to `run`. Throws NOT_FOUND, CONTENT_UNAVAILABLE, DEADLINE, BAD_INPUT when parameters or settings
   * do not fit the rule's schemas, or POLICY_FAILED when the rule does not open.
   */
  async use<T>(ref: PolicyRef, scope: string, run: (open: OpenRule) => Promise<T>): Promise<T> {
    const { rule: published, source } = await this.#fetch(ref.policyRuleURI)
    const { parameters, settings } = startsWith(published, ref)
    const key = `${scope}\0${published.policyRuleURI}\0${published.code}`
    const opened = this.#enter(key, hex(digest(encode({ parameters, settings }))), () => this.#construct(source, published.policyRuleURI, settings, parameters))
    opened.users += 1
    try {
      return await run({ published, parameters, rule: await opened.rule })
    } catch (error) {
      if (this.#open.peek(key) === opened && (await failed(opened.rule))) this.#open.delete(key)
      throw error
    } finally {
      opened.users -= 1
      if (opened.dropped && opened.users === 0) release(opened)
    }
  }

  /** As `use`, on a copy of its own that ends with the call: nothing of one caller stays for the next. */
  async once<T>(ref: PolicyRef, purpose: SandboxPurpose, run: (open: OpenRule) => Promise<T>): Promise<T> {
    const { rule: published, source } = await this.#fetch(ref.policyRuleURI)
    const { parameters, settings } = startsWith(published, ref)
    const rule = await this.#construct(source, published.policyRuleURI, settings, parameters, purpose)
    try {
      return await run({ published, parameters, rule })
    } finally {
      rule.close()
    }
  }

  /** Ends the state of every rule of a scope. */
  close(scope: string): void {
    const ours = [...this.#open].filter(([key]) => key.startsWith(`${scope}\0`))
    for (const [key, opened] of ours) {
      this.#open.delete(key)
      drop(opened)
    }
  }

  closeAll(): void {
    for (const [, opened] of this.#open) drop(opened)
    this.#open.clear()
  }

  /** Other parameters are another rule: it starts anew. */
  #enter(key: string, init: string, construct: () => Promise<SandboxedRule>): Opened {
    const before = this.#open.get(key)
    if (before?.init === init) return before
    if (before !== undefined) drop(before)
    const opened: Opened = { init, rule: construct(), users: 0, dropped: false }
    this.#open.set(key, opened)
    return opened
  }

  async #fetch(uri: string): Promise<Known> {
    const known = this.#known.get(uri)
    if (known !== undefined && this.#clock.monotonic() < known.until) return known
    const underWay = this.#fetching.get(uri)
    if (underWay !== undefined) return underWay
    const fetching = this.#resolve(uri).finally(() => this.#fetching.delete(uri))
    this.#fetching.set(uri, fetching)
    return fetching
  }

  async #resolve(uri: string): Promise<Known> {
    const { rule, source } = await this.#catalogue.policy(uri, this.#clock.deadline(this.#limits.fetchMs))
    // A version never changes; a URI without one may mean another rule tomorrow.
    const known = { rule, source, until: rule.policyRuleURI === uri ? Infinity : this.#clock.monotonic() + this.#limits.latestMs }
    this.#known.set(uri, known)
    return known
  }

  async #construct(source: string, ruleId: string, settings: Json, parameters: Json, purpose: SandboxPurpose = 'hook'): Promise<SandboxedRule> {
    const opened = await this.#sandbox.open(source, { ruleId, settings, parameters, purpose })
    if (!opened.ok) throw new MeshError('POLICY_FAILED', `does not open: ${opened.message}`, { details: { reason: opened.error } })
    return opened.rule
  }
}

function drop(opened: Opened): void {
  opened.dropped = true
  if (opened.users === 0) release(opened)
}

function release(opened: Opened): void {
  opened.rule.then(rule => rule.close(), () => undefined)
}

function failed(rule: Promise<SandboxedRule>): Promise<boolean> {
  return rule.then(() => false, () => true)
}
