import type { GuestAnswer, GuestLimits } from './guest.ts'

/** What the pool asks a thread. One request is under way at a time; values travel as JSON text. */
export type ThreadRequest =
  | { readonly kind: 'open'; readonly rule: number; readonly source: string; readonly ruleId: string; readonly settings: string; readonly parameters: string }
  | { readonly kind: 'call'; readonly rule: number; readonly method: 'eval' | 'management'; readonly args: readonly [string, string, string]; readonly fresh: string }
  | { readonly kind: 'close'; readonly rule: number }

/**
 * `live` says whether the rule's VM is still there, `bytes` how much memory it holds; `missing` that there was none to
 * begin with. `computedMs` is the CPU time this thread has used.
 */
export type ThreadReply = { readonly kind: 'answer'; readonly answer: GuestAnswer; readonly live: boolean; readonly missing: boolean; readonly bytes: number; readonly computedMs: number }

/** `ready` is the first word of a thread. */
export type ThreadMessage = ThreadReply | { readonly kind: 'ready'; readonly computedMs: number }

export type ThreadData = { readonly engine: WebAssembly.Module; readonly limits: GuestLimits }
