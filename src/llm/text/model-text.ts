import { Tokenizer } from '@huggingface/tokenizers'
import { MeshError } from '../../../protocols/errors.ts'
import type { AnswerForm } from '../../../protocols/generation.ts'
import { Lru } from '../../lib/lru.ts'
import { Constraint } from '../grammar/constraint.ts'
import { formExpression } from '../grammar/form.ts'
import { Vocabulary } from '../grammar/vocabulary.ts'
import { ChatTemplate, type ChatPrompt } from './chat-template.ts'
import { tokenBytes } from './token-bytes.ts'
import { TokenEncoder } from './token-encoder.ts'
import { readTextFiles, type TextFiles, type TokenizerConfig, type TokenizerFile } from './tokenizer-files.ts'

const FORMS = 8

/** Text to tokens and back, for one model: its tokenizer, chat template, end tokens, and the forms that answers were asked in. */
export class ModelText {
  readonly chat: ChatTemplate
  /** Tokens by which the model says that it has finished. */
  readonly ends: readonly number[]
  readonly #tokenizer: Tokenizer
  readonly #file: TokenizerFile
  readonly #encoder: TokenEncoder
  readonly #added: ReadonlyMap<number, string>
  #known: readonly (Uint8Array | undefined)[] | undefined
  #vocabulary: Vocabulary | undefined
  readonly #constraints = new Lru<string, Constraint>(FORMS)

  /** `now`: for chat templates that write the date. Throws SPEC_INVALID when the files are not those of a tokenizer that we know. */
  constructor(files: TextFiles, now?: () => number) {
    const setup = readTextFiles(files)
    const { tokenizer: file, config } = setup
    this.#file = file
    this.#tokenizer = libraryTokenizer(file, config)
    if (this.#tokenizer.model === null) throw new MeshError('SPEC_INVALID', 'tokenizer.json has no model')
    this.#encoder = new TokenEncoder(file, this.#tokenizer.model)
    this.#added = new Map(file.added_tokens.map(({ id, content }) => [id, content]))
    this.chat = new ChatTemplate(setup, now)
    const eos = typeof config.eos_token === 'string' ? this.#tokenizer.token_to_id(config.eos_token) : undefined
    this.ends = [...new Set([...setup.ends, ...(eos === undefined ? [] : [eos])])]
  }

  /** Worked out when tokens are first read back: encoders never do. */
  get #bytes(): readonly (Uint8Array | undefined)[] {
    return (this.#known ??= tokenBytes(this.#tokenizer, this.#file))
  }

  /** Ids that the tokenizer knows; the model's own vocabulary may be padded beyond. */
  get size(): number {
    return this.#bytes.length
  }

  /** `special`: with what the tokenizer puts around a text of its own (a first token, say). Markers in the text become special tokens either way. */
  encode(text: string, special: boolean): readonly number[] {
    return this.#encoder.encode(text, special)
  }

  /** The text of tokens that others come before; special tokens give none. */
  decode(tokens: readonly number[]): string {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
    return tokens.map(token => decoder.decode(this.#bytes[token] ?? new Uint8Array(0), { stream: true })).join('') + decoder.decode()
  }

  /** The prompt of a conversation, ready for the model's answer. */
  prompt(conversation: ChatPrompt): readonly number[] {
    return this.encode(this.chat.render(conversation), false)
  }

  bytes(token: number): Uint8Array | undefined {
    return this.#bytes[token]
  }

  /** As it stands in the vocabulary. */
  token(id: number): string | undefined {
    return this.#added.get(id) ?? this.#tokenizer.id_to_token(id)
  }

  /** Shared by all sessions that ask for the same form. Throws SPEC_INVALID. */
  constraint(form: AnswerForm): Constraint {
    const key = JSON.stringify(form)
    const known = this.#constraints.get(key)
    if (known !== undefined) return known
    const made = new Constraint(formExpression(form), (this.#vocabulary ??= new Vocabulary(this.#bytes)))
    this.#constraints.set(key, made)
    return made
  }
}

/** The library's model of the vocabulary and its way back to text; what comes before the model is ours, and so are tokens added to the vocabulary. */
function libraryTokenizer(file: TokenizerFile, config: TokenizerConfig): Tokenizer {
  try {
    return new Tokenizer({ ...file, decoder: file.decoder ?? null, added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null }, { ...config, unk_token: config.unk_token ?? file.model.unk_token })
  } catch (cause) {
    throw new MeshError('SPEC_INVALID', `tokenizer.json cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
}
