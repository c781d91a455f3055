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
  readonly #unknownInBytes: boolean
  #known: readonly (Uint8Array | undefined)[] | undefined
  #vocabulary: Vocabulary | undefined
  readonly #constraints = new Lru<string, Constraint>(FORMS)

  /** Throws SPEC_INVALID when the files are not those of a tokenizer that we know. */
  constructor(files: TextFiles) {
    const setup = readTextFiles(files)
    try {
      this.#tokenizer = new Tokenizer(setup.tokenizer, { ...setup.config, unk_token: setup.config.unk_token ?? setup.tokenizer.model.unk_token })
    } catch (cause) {
      throw new MeshError('SPEC_INVALID', `tokenizer.json cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    }
    this.#file = setup.tokenizer
    const { type, byte_fallback: inBytes } = setup.tokenizer.model
    this.#unknownInBytes = type === 'Unigram' && inBytes === true
    // The library reads most of a run of unknown characters away, where each has to become its bytes.
    if (this.#unknownInBytes && this.#tokenizer.model !== null) this.#tokenizer.model.fuse_unk = false
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
    if (text === '' && !special) return []
    const { ids, tokens }: { readonly ids: readonly number[]; readonly tokens: readonly string[] } = this.#tokenizer.encode(text, { add_special_tokens: special })
    return this.#unknownInBytes ? ids.flatMap((id, at) => this.#tokenizer.token_to_id(tokens[at] ?? '') === undefined ? this.#inBytes(tokens[at] ?? '', id) : [id]) : ids
  }

  /** The tokens of a text's bytes, where there is one for each; else the one for what is unknown. */
  #inBytes(text: string, unknown: number): readonly number[] {
    const ids = [...new TextEncoder().encode(text)].map(byte => this.#tokenizer.token_to_id(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`))
    const known = ids.filter(id => id !== undefined)
    return known.length === ids.length ? known : [unknown]
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
