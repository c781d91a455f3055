import { z } from 'zod'
import { check } from '../../../protocols/codec.ts'
import { json } from '../../../protocols/ids.ts'
import { genaiDocuments } from './genai-config.ts'

/** Those that Hugging Face's library has; files from before these were named go by their parts. */
const MODELS = ['BPE', 'Unigram', 'WordPiece', 'WordLevel'] as const

const addedToken = z.looseObject({
  id: z.int().nonnegative(), content: z.string(), special: z.boolean().default(false),
  single_word: z.boolean().optional(), lstrip: z.boolean().optional(), rstrip: z.boolean().optional(), normalized: z.boolean().optional(),
})
export type AddedToken = z.infer<typeof addedToken>

/** The part of Hugging Face's `tokenizer.json` that we read ourselves; the library reads the rest. */
export const tokenizerFile = z.looseObject({
  model: z.looseObject({ type: z.enum(MODELS).optional(), unk_token: z.string().nullish(), byte_fallback: z.boolean().nullish(), end_of_word_suffix: z.string().nullish() }),
  added_tokens: z.array(addedToken).default([]),
  decoder: json.optional(),
  normalizer: json.optional(),
  pre_tokenizer: json.optional(),
  post_processor: json.optional(),
})
export type TokenizerFile = z.infer<typeof tokenizerFile>

const specialToken = z.union([z.string(), z.looseObject({ content: z.string() }).transform(({ content }) => content)]).nullish()
const template = z.union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))]).nullish()

/** `tokenizer_config.json`; `special_tokens_map.json` says some of the same. */
export const tokenizerConfig = z.looseObject({ chat_template: template, bos_token: specialToken, eos_token: specialToken, unk_token: specialToken, pad_token: specialToken })
export type TokenizerConfig = z.infer<typeof tokenizerConfig>

const ids = z.union([z.int(), z.array(z.int())]).nullish()
const ending = z.looseObject({ eos_token_id: ids })

/** The text files of a model, as parsed JSON; `template` is the text of `chat_template.jinja`. */
export type TextFiles = {
  readonly 'tokenizer.json': unknown
  readonly 'tokenizer_config.json'?: unknown
  readonly 'special_tokens_map.json'?: unknown
  readonly 'generation_config.json'?: unknown
  readonly 'config.json'?: unknown
  readonly 'genai_config.json'?: unknown
  readonly 'chat_template.jinja'?: string
}

export type TextSetup = { readonly tokenizer: TokenizerFile; readonly config: TokenizerConfig; readonly template: string | readonly { readonly name: string; readonly template: string }[] | undefined; readonly ends: readonly number[] }

/** Throws SPEC_INVALID naming the file and the field. */
export function readTextFiles(files: TextFiles): TextSetup {
  const tokenizer = check(tokenizerFile, files['tokenizer.json'], 'tokenizer.json', 'SPEC_INVALID')
  const map = check(tokenizerConfig, files['special_tokens_map.json'] ?? {}, 'special_tokens_map.json', 'SPEC_INVALID')
  const own = check(tokenizerConfig, files['tokenizer_config.json'] ?? {}, 'tokenizer_config.json', 'SPEC_INVALID')
  const config = { ...map, ...own }
  const instead = files['genai_config.json'] === undefined ? undefined : genaiDocuments(files['genai_config.json'])
  const said = [files['generation_config.json'] ?? instead?.generation, files['config.json'] ?? instead?.config].flatMap((file, at) => {
    const given = check(ending, file ?? {}, ['generation_config.json', 'config.json'][at] ?? '', 'SPEC_INVALID').eos_token_id
    return given === undefined || given === null ? [] : given
  })
  const named = tokenizer.added_tokens.filter(({ content }) => content === config.eos_token).map(({ id }) => id)
  return { tokenizer, config, template: files['chat_template.jinja'] ?? config.chat_template ?? undefined, ends: [...new Set([...said, ...named])] }
}
