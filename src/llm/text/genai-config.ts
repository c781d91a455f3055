import { z } from 'zod'
import { check } from '../../../protocols/codec.ts'
import { json, type Json } from '../../../protocols/ids.ts'

const ids = z.union([z.int(), z.array(z.int())]).nullish()
const genai = z.looseObject({
  model: z.looseObject({
    type: z.string().nullish(), context_length: z.int().nullish(), vocab_size: z.int().nullish(), bos_token_id: ids, eos_token_id: ids,
    decoder: z.looseObject({ num_attention_heads: z.int().nullish() }).nullish(),
  }),
  search: z.record(z.string(), json).nullish(),
})

/**
 * `genai_config.json`, which ONNX Runtime GenAI's model builder writes in place of `config.json` and `generation_config.json`, in the
 * words of those two. Throws SPEC_INVALID.
 */
export function genaiDocuments(file: unknown): { readonly config: Readonly<Record<string, Json>>; readonly generation: Readonly<Record<string, Json>> } {
  const { model, search } = check(genai, file, 'genai_config.json', 'SPEC_INVALID')
  const said = (values: Readonly<Record<string, Json | undefined>>): Readonly<Record<string, Json>> => Object.fromEntries(Object.entries(values).flatMap(([name, value]) => value === undefined || value === null ? [] : [[name, value]]))
  const tokens = { bos_token_id: model.bos_token_id, eos_token_id: model.eos_token_id }
  return {
    config: said({ model_type: model.type, max_position_embeddings: model.context_length, num_attention_heads: model.decoder?.num_attention_heads, ...tokens }),
    // `max_length` counts the prompt too and is that of the model.
    generation: said({ ...search, ...tokens }),
  }
}
