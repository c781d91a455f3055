import { MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject } from '../../lib/json.ts'
import { AddedTokens } from './added-tokens.ts'
import { normalizer } from './normalizers.ts'
import { preTokenizer, type PreTokenizer } from './pre-tokenizers.ts'
import type { TokenizerFile } from './tokenizer-files.ts'

/** The library's model of a vocabulary, as far as it is used here. */
export type LibraryModel = { readonly tokens_to_ids: ReadonlyMap<string, number>; readonly unk_token_id?: number; fuse_unk: boolean; _call(pieces: string[]): string[] }
type Around = (ids: readonly number[], special: boolean) => readonly number[]

/** Text to token ids, step by step as Hugging Face's `tokenizers` takes them; the model itself is the library's here. */
export class TokenEncoder {
  readonly #model: LibraryModel
  readonly #added: AddedTokens
  readonly #pieces: PreTokenizer
  readonly #around: Around
  readonly #unknownInBytes: boolean
  readonly #unknownLeftOut: boolean

  /** `model` knows the vocabulary without added tokens. Throws SPEC_INVALID. */
  constructor(file: TokenizerFile, model: LibraryModel) {
    this.#model = model
    this.#added = new AddedTokens(file.added_tokens, normalizer(file.normalizer))
    this.#pieces = preTokenizer(file.pre_tokenizer)
    this.#around = postProcessor(file.post_processor)
    const { type, byte_fallback: inBytes, end_of_word_suffix: suffix } = file.model
    this.#unknownLeftOut = type === 'BPE' && model.unk_token_id === undefined && inBytes !== true && (suffix ?? '') === ''
    this.#unknownInBytes = type === 'Unigram' && inBytes === true
    // The library reads most of a run of unknown characters away, where each has to become its bytes.
    if (this.#unknownInBytes) model.fuse_unk = false
  }

  /** `special`: with what the tokenizer puts around a text of its own. */
  encode(text: string, special: boolean): readonly number[] {
    return this.#around(this.#added.split(text).flatMap(section => ('token' in section ? [section.token] : this.#pieces(section).flatMap(piece => this.#ids(piece.text)))), special)
  }

  /** Piece by piece: runs of what is unknown become one token within a piece, not over several. */
  #ids(piece: string): readonly number[] {
    const { tokens_to_ids: ids, unk_token_id: unknown } = this.#model
    const known = this.#unknownLeftOut && !ids.has(piece) ? this.#knownSigns(piece) : piece
    return this.#model._call([known]).flatMap(token => {
      const id = ids.get(token)
      if (id !== undefined) return [id]
      const bytes = this.#unknownInBytes ? this.#bytes(token) : undefined
      return bytes ?? (unknown === undefined ? [] : [unknown])
    })
  }

  /** Signs that have no token are left out before others are merged. */
  #knownSigns(piece: string): string {
    for (const sign of piece) if (!this.#model.tokens_to_ids.has(sign)) return Array.from(piece).filter(one => this.#model.tokens_to_ids.has(one)).join('')
    return piece
  }

  /** The tokens of a text's bytes, where there is one for each. */
  #bytes(text: string): readonly number[] | undefined {
    const ids = [...new TextEncoder().encode(text)].map(byte => this.#model.tokens_to_ids.get(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`))
    const known = ids.filter(id => id !== undefined)
    return known.length === ids.length ? known : undefined
  }
}

/** What a `post_processor` of tokenizer.json puts around one text. Throws SPEC_INVALID for a kind that nobody here knows. */
function postProcessor(given: Json | undefined): Around {
  if (given === undefined || !isJsonObject(given)) return ids => ids
  switch (given['type']) {
    case 'ByteLevel': return ids => ids
    case 'Sequence': {
      const all = Array.isArray(given['processors']) ? given['processors'].map(postProcessor) : []
      return (ids, special) => all.reduce((before, one) => one(before, special), ids)
    }
    case 'BertProcessing':
    case 'RobertaProcessing': {
      const [first, last] = [given['cls'], given['sep']].map(pair => (Array.isArray(pair) ? numbers([pair[1]]) : []))
      return (ids, special) => (special ? [...first ?? [], ...ids, ...last ?? []] : ids)
    }
    case 'TemplateProcessing': {
      const parts = template(given['single'], given['special_tokens'])
      return (ids, special) => parts.flatMap(part => (part === 'text' ? ids : special ? part : []))
    }
    default: throw new MeshError('SPEC_INVALID', `tokenizer.json has a post_processor ${JSON.stringify(given['type'] ?? null)}, which is not known here`)
  }
}

/** In order, where the text goes and which ids stand before and after it; a special token goes by its name in the list beside, which may stand for several. */
function template(single: Json | undefined, named: Json | undefined): readonly ('text' | readonly number[])[] {
  const tokens = isJsonObject(named) ? named : {}
  return (Array.isArray(single) ? single : []).flatMap((part): readonly ('text' | readonly number[])[] => {
    if (!isJsonObject(part)) return []
    if (isJsonObject(part['Sequence'])) return ['text']
    const name = isJsonObject(part['SpecialToken']) ? String(part['SpecialToken']['id']) : ''
    const token = tokens[name]
    const ids = isJsonObject(token) ? token['ids'] : undefined
    if (!Array.isArray(ids)) throw new MeshError('SPEC_INVALID', `tokenizer.json puts ${JSON.stringify(name)} around a text, and does not say which token that is`)
    return [numbers(ids)]
  })
}

function numbers(values: readonly (Json | undefined)[]): readonly number[] {
  return values.filter(value => typeof value === 'number')
}
