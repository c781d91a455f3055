import { z } from 'zod'

const count = z.int().nonnegative().max(Number.MAX_SAFE_INTEGER)
const name = z.string().min(1).max(500)
const cacheType = z.enum(['float32', 'float16'])
const activation = z.enum(['float32', 'float16', 'int32', 'int64', 'bool', 'uint8', 'int8'])

/** What an instance of runtime `llm` computes: consecutive decoder layers of one model. */
export const stageSpec = z.object({
  /** Half-open range of decoder layers, of `layers` in all. */
  first: count,
  end: z.int().positive().max(1_024),
  layers: z.int().positive().max(1_024),
  vocab: z.int().positive().max(0x7fff_ffff),
  /** Bytes of the boundary activation of one token, in and out; 0 where tokens go in or logits come out. */
  inputBytes: count,
  outputBytes: count,
  /** Bytes of keys and values that one position takes in this stage. */
  kvBytes: count,
  /** Longest context that the model knows, in tokens. */
  contextTokens: z.int().positive().max(0x7fff_ffff),
  /** Positions that all sessions together may hold. */
  kvTokens: z.int().positive().max(0x7fff_ffff),
})
export type StageSpec = z.infer<typeof stageSpec>

/** Numbers that say where tokens are. */
const named = z.object({ name, dtype: z.enum(['int64', 'int32']) })
/** One value that crosses a boundary, `[B, S, width]`. Of a token, what travels is these one after another, in this order. */
const boundaryTensor = z.object({ name, dtype: activation, width: z.int().positive() })

/** `stage.json`, beside `stage.onnx` in the bundle of a stage: what it is, and what goes in and out of its graph (B rows of S new tokens). */
export const stageFile = z.object({
  /** URI of the model. */
  model: z.string().min(1).max(300),
  /** `kvTokens` may be overruled by a block's `initData.kvTokens`: how much room there is depends on the host's contract. */
  spec: stageSpec,
  io: z.object({
    /** Token ids [B, S]; only in the first stage. */
    ids: named.optional(),
    /** [B, T]. */
    mask: named.optional(),
    /** [B, S]. */
    positions: named.optional(),
    /** From the stage before; those not `used` are only passed on. */
    receives: z.array(boundaryTensor.extend({ used: z.boolean() })).max(16).default([]),
    /** To the stage after; `received`: a copy of what came in by that name. */
    sends: z.array(boundaryTensor.extend({ from: z.enum(['graph', 'received']) })).max(16).default([]),
    /**
     * `lengths`: rows of different length may be computed together, to the same bits. `mask`: they may, to other last bits.
     * `none`: they may not.
     */
    ragged: z.enum(['lengths', 'mask', 'none']),
    /** S is always 1: the graph was made for one new token. */
    oneByOne: z.boolean().default(false),
    /**
     * `heads`: past [B, heads, C, headDim] with any C not below the longest row; rows [B, heads, S, headDim].
     * `tokens`: past [P, B, heads, headDim], P = what is held; rows [S, B, heads, headDim]. Rank 3: heads and headDim in one.
     */
    caches: z.array(z.object({ past: name, rows: name, layout: z.enum(['heads', 'tokens']), dtype: cacheType, heads: z.int().positive(), headDim: z.int().positive(), rank: z.int().min(3).max(4).default(4) })).min(1).max(4_096),
    /** Only in the last stage. [B, N, vocab]; N = S, or as many as `select` int64 [B, N] asks for by place. `greedy` int64 [B, N]: lowest id of the greatest logit. */
    logits: z.object({ name, dtype: cacheType, select: name.optional(), greedy: name.optional() }).optional(),
  }),
})
export type StageFile = z.infer<typeof stageFile>
