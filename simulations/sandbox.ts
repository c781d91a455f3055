import { json, type Json } from '../protocols/ids.ts'
import type { Sandbox, SandboxedRule, SandboxResult } from '../src/ports.ts'
import { decode, encode } from '../protocols/codec.ts'
import { z } from 'zod'

type Init = { readonly ruleId: string; readonly settings: Json; readonly parameters: Json }
/** What was asked of a rule, in order: rules are pure, so it is their state. */
const asked = z.array(z.union([z.tuple([z.literal('eval'), json, json, json, json]), z.tuple([z.literal('management'), z.string(), json])]))
const STATE_BYTES = 1_048_576
type Rule = { settings?: unknown; eval(parameters: Json, input: Json, context: Json): unknown; management?(action: string, data: Json): unknown }

/**
 * Runs rules in this very process: the sources of a simulation are its own. It has the shape of the real sandbox (JSON
 * in, JSON out, errors as results) and none of its walls; those are tested on the real one.
 */
export const trustingSandbox: Sandbox = {
  async open(source, init) {
    try {
      const rule = sandboxed(construct(source, init))
      if (init.state === undefined) return { ok: true, rule }
      for (const call of decode(asked, init.state, STATE_BYTES, 'state')) await (call[0] === 'eval' ? rule.eval(call[1], call[2], call[3], call[4] ?? undefined) : rule.management(call[1], call[2]))
      return { ok: true, rule }
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
  const calls: z.infer<typeof asked> = []
  return {
    eval: async (parameters, input, context, settings) => {
      calls.push(['eval', structuredClone(parameters), structuredClone(input), structuredClone(context), structuredClone(settings ?? null)])
      if (settings !== undefined) refresh(rule, settings)
      return attempt(() => rule.eval(structuredClone(parameters), structuredClone(input), structuredClone(context)))
    },
    management: async (action, data) => {
      calls.push(['management', action, structuredClone(data)])
      return attempt(() => rule.management?.(action, structuredClone(data)))
    },
    save: async () => ({ ok: true, state: encode(calls) }),
    life: () => 0,
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
