import type { BoundaryTensor } from './analyse.ts'
import type { ElementName } from './element.ts'
import type { PieceName } from './pieces.ts'

/**
 * What goes in and out of a stage's graph. B rows run together, each brings S new tokens; S > 1 with a filled cache needs
 * B = 1 where `ragged` is 'lengths' (ONNX Runtime's GroupQueryAttention demands it).
 *
 * How long each row's past is, and what the mask must say (len = tokens in a row's cache, before this run):
 * - `ragged: 'lengths'`: rows of different length may run together. mask[b] has ones for the first len + S places and
 *   zeros after; T = the longest len + S. Equal or shorter prompts run as one prefill with the short ones padded on the right.
 * - `ragged: 'mask'`: rows of different length may run together. Caches are fed up to P = the longest len; mask[b] has ones for
 *   the first len places, zeros up to P, ones for the S new ones; T = P + S. positions[b] = len, len + 1 … Padding must be
 *   finite (zeros). The last bits of a row may depend on the lengths of its neighbours.
 * - `ragged: 'none'`: rows should not run together at all. All would need the same length P; mask is all ones, T = P + S.
 *
 * On the CPU a row's bits do not depend on its company, nor on the chunks that its tokens came in, with one exception: a run of
 * S = 1 takes other kernels for attention than one of S > 1, and its last bits differ from theirs. So a prompt is cut into chunks
 * of at least two, and what was decoded token by token is computed again token by token, or its cache is copied. Weights of 4 bits
 * with activations in full precision (MatMulNBits of accuracy level 0) have such kernels, too: a lone row of S = 1 has other last bits
 * than one in company, and so has a lone selected place, so that the last of several is selected twice. Where `ragged` is 'none', bits
 * depend on every token of the run.
 */
export type StageIo = {
  readonly first: number
  readonly end: number
  /** Token ids [B, S]; only in the first stage. */
  readonly ids: NamedType | undefined
  /** [B, T]. */
  readonly mask: NamedType | undefined
  /** [B, S]. */
  readonly positions: NamedType | undefined
  /** From the stage before, in this order; those not `used` are only passed on. */
  readonly receives: readonly (BoundaryTensor & { readonly used: boolean })[]
  /** To the stage after, in this order; `from: 'received'` is a copy of what came in by that name. */
  readonly sends: readonly (BoundaryTensor & { readonly from: 'graph' | 'received' })[]
  readonly ragged: 'lengths' | 'mask' | 'none'
  /** S must be 1. */
  readonly oneByOne: boolean
  readonly caches: readonly StageCache[]
  readonly logits: StageLogits | undefined
}

export type NamedType = { readonly name: string; readonly dtype: ElementName }

/**
 * One cache tensor of one layer. `past` is an input, `rows` the output that has only this run's new rows.
 * - `layout: 'heads'`: past [B, heads, C, headDim] with any C >= len; each row's tokens are its first len, what follows is
 *   ignored. rows [B, heads, S, headDim]; the host writes them at len. (Padded tokens of a short row in a common prefill give
 *   rows too: drop them.)
 * - `layout: 'tokens'`: past [P, B, heads, headDim], so that the first P tokens of a buffer with room for more are one
 *   contiguous view; rows [S, B, heads, headDim], to be written at len. A rank-3 cache is [P, B, heads * headDim].
 */
export type StageCache = {
  readonly layer: number
  readonly past: string
  readonly rows: string
  readonly layout: 'heads' | 'tokens'
  readonly dtype: ElementName
  readonly heads: number
  readonly headDim: number
  readonly rank: number
}

/** Logits [B, N, vocab]: N = S, or as many as `select` [B, N] int64 asks for, by place among the S. `greedy` [B, N] int64 is the lowest id of the greatest logit; fetch it instead of the logits. */
export type StageLogits = NamedType & { readonly vocab: number; readonly select: string | undefined; readonly greedy: string | undefined }

/** A stage's graph as an ONNX file of a few hundred KB; its weights lie in the pieces, as files `<piece>.bin` beside it. */
export type StageGraph = { readonly onnx: Uint8Array; readonly pieces: readonly PieceName[]; readonly io: StageIo }
