import { readdir } from 'node:fs/promises'
import { dirname } from 'node:path'
import { MeshError } from '../../protocols/errors.ts'
import { ModelText } from '../../src/llm/text/model-text.ts'
import type { ModelLayout } from './model-layout.ts'

/** What tokenizers are kept in besides tokenizer.json, which is made of them. */
const SOURCES = /^(vocab\.(json|txt)|merges\.txt|tokenizer\.model|spiece\.model|sentencepiece\.bpe\.model|.*\.tiktoken)$/
const SAMPLE = 'Hello, world!\n  It is 2 °C, "naïve" – 日本 🙂'
/** What of it is kept: an open tokenizer of a large vocabulary takes some hundred megabytes. */
export type TextFacts = Pick<ModelText, 'ends' | 'size'>

const JSON_FILES = ['tokenizer_config.json', 'special_tokens_map.json', 'generation_config.json', 'config.json', 'genai_config.json'] as const

/**
 * Opens the texts of a model as whoever serves it will, so that a tokenizer or (`chats`) a chat template nobody can read is refused
 * now and not when the first prompt comes. Throws NOT_FOUND where there is none, SPEC_INVALID where it cannot be read, both saying what to do.
 */
export async function checkTexts(layout: ModelLayout, texts: ReadonlyMap<string, unknown>, { chats = true }: { readonly chats?: boolean } = {}): Promise<TextFacts> {
  if (!texts.has('tokenizer.json')) throw new MeshError('NOT_FOUND', `the model has no tokenizer.json: put it beside the graph${await beside(layout)}`)
  const template = texts.get('chat_template.jinja')
  try {
    const text = new ModelText({ 'tokenizer.json': texts.get('tokenizer.json'), ...Object.fromEntries(JSON_FILES.map(name => [name, texts.get(name)])), ...(typeof template === 'string' ? { 'chat_template.jinja': template } : {}) })
    text.decode(text.encode(SAMPLE, true))
    if (chats) text.chat.mustBeReadable()
    return { ends: text.ends, size: text.size }
  } catch (cause) {
    if (cause instanceof MeshError) throw cause
    throw new MeshError('SPEC_INVALID', `tokenizer.json cannot be used: ${cause instanceof Error ? cause.message : String(cause)}; save it anew with a recent release of Hugging Face's transformers`, { cause })
  }
}

/** What of the tokenizer is there in other shapes, and how to make the file of it. */
async function beside({ texts, graphFolder }: ModelLayout): Promise<string> {
  const folders = new Set([graphFolder, ...[...texts.values()].map(path => dirname(path))])
  const found = (await Promise.all([...folders].map(folder => readdir(folder).catch(() => [])))).flat().filter(name => SOURCES.test(name))
  const how = 'AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of Hugging Face\'s transformers writes it'
  return found.length === 0 ? ` (${how})` : ` (${found.sort().join(', ')} ${found.length === 1 ? 'is' : 'are'} there: ${how})`
}

/** What an importer should hear of a tokenizer that is usable all the same. */
export function textNotes(text: TextFacts, vocab: number): readonly string[] {
  return [
    ...text.size > vocab ? [`the tokenizer knows ${text.size} tokens and the model ${vocab}: a prompt with one of the others is refused`] : [],
    ...text.ends.length === 0 ? ['nothing says by which token an answer ends (eos_token_id in generation_config.json or config.json): every answer runs to its limit'] : [],
  ]
}
