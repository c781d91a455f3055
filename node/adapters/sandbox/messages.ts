import type { GuestAnswer, GuestLimits, GuestStart } from './guest.ts'

/** What the pool asks a thread. One request is under way at a time; values travel as JSON text. */
export type ThreadRequest =
  | (GuestStart & { readonly kind: 'open'; readonly rule: number; readonly source: string })
  | { readonly kind: 'call'; readonly rule: number; readonly method: 'eval' | 'management'; readonly args: readonly [string, string, string]; readonly fresh: string }
  | { readonly kind: 'save' | 'close'; readonly rule: number }

/**
 * `live` says whether the rule's VM is still there, `bytes` how much memory it holds; `missing` that there was none to
 * begin with; `state` is what was saved. `computedMs` is the CPU time this thread has used.
 */
export type ThreadReply = { readonly kind: 'answer'; readonly answer: GuestAnswer; readonly state?: Uint8Array | undefined; readonly live: boolean; readonly missing: boolean; readonly bytes: number; readonly computedMs: number }

/** `ready` is the first word of a thread. */
export type ThreadMessage = ThreadReply | { readonly kind: 'ready'; readonly computedMs: number }

export type ThreadData = { readonly engine: WebAssembly.Module; readonly limits: GuestLimits }
