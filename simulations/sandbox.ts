import type { Json } from '../protocols/ids.ts'
import type { Sandbox, SandboxedRule, SandboxResult } from '../src/ports.ts'

type Init = { readonly ruleId: string; readonly settings: Json; readonly parameters: Json }
type Rule = { settings?: unknown; eval(parameters: Json, input: Json, context: Json): unknown; management?(action: string, data: Json): unknown }

/**
 * Runs rules in this very process: the sources of a simulation are its own. It has the shape of the real sandbox (JSON
 * in, JSON out, errors as results) and none of its walls; those are tested on the real one.
 */
export const trustingSandbox: Sandbox = {
  async open(source, init) {
    try {
      return { ok: true, rule: sandboxed(construct(source, init)) }
    } catch (error) {
      return { ok: false, error: error instanceof SyntaxError ? 'invalid' : 'threw', message: message(error) }
    }
  },
}

/** A module's default export (class, object or function) or AIOS's `class AIOSv1PolicyRule`. */
function construct(source: string, init: Init): Rule {
  const body = source.replace(/^\s*export\s+default\s+/m, 'const __default = ').replace(/^\s*export\s+(?=class|function|const)/gm, '')
  const evaluate: unknown = new Function(`"use strict";${body}\n;return typeof __default !== 'undefined' ? __default : AIOSv1PolicyRule`)
  if (typeof evaluate !== 'function') throw new SyntaxError('the source is no program')
  const found: unknown = evaluate()
  const made: unknown = isClass(found) ? new found(init.ruleId, structuredClone(init.settings), structuredClone(init.parameters)) : found
  if (typeof made === 'function') return { eval: (parameters, input, context) => made(parameters, input, context) }
  if (isRule(made)) return made
  throw new SyntaxError('the rule has no eval(parameters, input, context)')
}

function sandboxed(rule: Rule): SandboxedRule {
  return {
    eval: async (parameters, input, context, settings) => {
      if (settings !== undefined) refresh(rule, settings)
      return attempt(() => rule.eval(structuredClone(parameters), structuredClone(input), structuredClone(context)))
    },
    management: async (action, data) => attempt(() => rule.management?.(action, structuredClone(data))),
    close: () => {},
  }
}

/** New values for members of the settings the rule was opened with. */
function refresh(rule: Rule, settings: Json): void {
  if (rule.settings !== null && typeof rule.settings === 'object') Object.assign(rule.settings, structuredClone(settings))
}

async function attempt(run: () => unknown): Promise<SandboxResult> {
  try {
    const value: Json = JSON.parse(JSON.stringify((await run()) ?? null))
    return { ok: true, value, fuel: 1 }
  } catch (error) {
    return { ok: false, error: 'threw', message: message(error) }
  }
}

function isClass(value: unknown): value is new (ruleId: string, settings: Json, parameters: Json) => unknown {
  return typeof value === 'function' && /^class\b/.test(Function.prototype.toString.call(value))
}

function isRule(value: unknown): value is Rule {
  return value !== null && typeof value === 'object' && 'eval' in value && typeof value.eval === 'function'
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
