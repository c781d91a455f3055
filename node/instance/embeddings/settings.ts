import { z } from 'zod'
import { check } from '../../../protocols/codec.ts'
import type { Json } from '../../../protocols/ids.ts'

const pooling = z.enum(['mean', 'cls', 'last'])
export type Pooling = z.infer<typeof pooling>

/** `componentInitData.embeddings`: what makes a model a model of embeddings. `true` for what its files say of themselves. */
const declared = z.strictObject({
  pooling: pooling.optional(),
  /** Vectors of length 1. */
  normalise: z.boolean().optional(),
  maxTokens: z.int().min(1).max(1_048_576).optional(),
  /** Put before every text, as some models were taught (`query: `). */
  prefix: z.string().max(1_000).optional(),
  /** The model was trained so that the first numbers of a vector are a vector (Kusupati et al. 2022): clients may ask for fewer. */
  shortens: z.boolean().optional(),
})

export type EmbeddingSettings = { readonly pooling: Pooling | undefined; readonly normalise: boolean; readonly maxTokens: number; readonly prefix: string }

const poolingFile = z.looseObject({ pooling_mode_cls_token: z.boolean().default(false), pooling_mode_mean_tokens: z.boolean().default(false), pooling_mode_lasttoken: z.boolean().default(false) })
const sentenceFile = z.looseObject({ max_seq_length: z.number().optional() })
const tokenizerFile = z.looseObject({ model_max_length: z.number().optional() })
const configFile = z.looseObject({ max_position_embeddings: z.number().optional() })
const MAX_TOKENS = 512
/** Transformers writes 10^30 for "no limit". */
const NO_LIMIT = 1_000_000

/** What the author says, else what Sentence Transformers wrote beside the model. `file`: undefined where the bundle has none. */
export async function embeddingSettings(given: Json, file: (path: string) => Promise<unknown>): Promise<EmbeddingSettings> {
  const own = check(declared, given === true ? {} : given, 'componentInitData.embeddings', 'SPEC_INVALID')
  const pool = poolingFile.safeParse(await file('1_Pooling/config.json')).data
  const filed: Pooling | undefined = pool === undefined ? undefined : pool.pooling_mode_cls_token ? 'cls' : pool.pooling_mode_lasttoken ? 'last' : pool.pooling_mode_mean_tokens ? 'mean' : undefined
  const limits = [sentenceFile.safeParse(await file('sentence_bert_config.json')).data?.max_seq_length, tokenizerFile.safeParse(await file('tokenizer_config.json')).data?.model_max_length, configFile.safeParse(await file('config.json')).data?.max_position_embeddings]
  return { pooling: own.pooling ?? filed, normalise: own.normalise ?? true, maxTokens: own.maxTokens ?? limits.find(limit => limit !== undefined && limit > 0 && limit < NO_LIMIT) ?? MAX_TOKENS, prefix: own.prefix ?? '' }
}
