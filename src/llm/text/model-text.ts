import { Tokenizer } from '@huggingface/tokenizers'
import { MeshError } from '../../../protocols/errors.ts'
import type { AnswerForm } from '../../../protocols/generation.ts'
import { Lru } from '../../lib/lru.ts'
import { Constraint } from '../grammar/constraint.ts'
import { formExpression } from '../grammar/form.ts'
import { Vocabulary } from '../grammar/vocabulary.ts'
import { ChatTemplate, type ChatPrompt } from './chat-template.ts'
import { tokenBytes } from './token-bytes.ts'
import { readTextFiles, type TextFiles, type TokenizerFile } from './tokenizer-files.ts'

const FORMS = 8

/** Text to tokens and back, for one model: its tokenizer, chat template, end tokens, and the forms that answers were asked in. */
export class ModelText {
  readonly chat: ChatTemplate
  /** Tokens by which the model says that it has finished. */
  readonly ends: readonly number[]
  readonly #tokenizer: Tokenizer
  readonly #file: TokenizerFile
  #known: readonly (Uint8Array | undefined)[] | undefined
  #vocabulary: Vocabulary | undefined
  readonly #constraints = new Lru<string, Constraint>(FORMS)

  /** Throws SPEC_INVALID when the files are not those of a tokenizer that we know. */
  constructor(files: TextFiles) {
    const setup = readTextFiles(files)
    try {
      this.#tokenizer = new Tokenizer(setup.tokenizer, setup.config)
    } catch (cause) {
      throw new MeshError('SPEC_INVALID', `tokenizer.json cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    }
    this.#file = setup.tokenizer
    this.chat = new ChatTemplate(setup)
    const eos = typeof setup.config.eos_token === 'string' ? this.#tokenizer.token_to_id(setup.config.eos_token) : undefined
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
    return text === '' && !special ? [] : this.#tokenizer.encode(text, { add_special_tokens: special }).ids
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
    return this.#tokenizer.id_to_token(id)
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
