import { Tokenizer } from '@huggingface/tokenizers'
import { MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject } from '../../lib/json.ts'

/** The pattern of a `Replace` or `Split` of tokenizer.json: a text, or an expression in Oniguruma's words, which the library here translates. Throws SPEC_INVALID. */
export function onigurumaPattern(pattern: Json | undefined): RegExp {
  if (!isJsonObject(pattern) || (typeof pattern['Regex'] !== 'string' && typeof pattern['String'] !== 'string')) throw new MeshError('SPEC_INVALID', `tokenizer.json has a pattern that is none: ${JSON.stringify(pattern ?? null)}`)
  try {
    const holder: { readonly normalizer: { readonly pattern: RegExp | null } | null } = new Tokenizer({ model: { type: 'WordPiece', vocab: {} }, normalizer: { type: 'Replace', pattern, content: '' }, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] }, {})
    if (holder.normalizer?.pattern) return holder.normalizer.pattern
  } catch (cause) {
    throw new MeshError('SPEC_INVALID', `tokenizer.json has the pattern ${JSON.stringify(pattern)}, which cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
  throw new MeshError('SPEC_INVALID', `tokenizer.json has the pattern ${JSON.stringify(pattern)}, which cannot be read`)
}
