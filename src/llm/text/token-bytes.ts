import type { Tokenizer } from '@huggingface/tokenizers'
import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject } from '../../lib/json.ts'
import type { TokenizerFile } from './tokenizer-files.ts'

const encoder = new TextEncoder()

/**
 * The bytes that each token adds to a text that others come before, by id; undefined for those that give none (special tokens,
 * ids without a token). Bytes and not characters: in vocabularies of bytes a character may take several tokens.
 */
export function tokenBytes(tokenizer: Tokenizer, { added_tokens: added, decoder = null }: TokenizerFile): readonly (Uint8Array | undefined)[] {
  const ids = [...tokenizer.get_vocab(true).values()]
  const size = ids.reduce((most, id) => Math.max(most, id), -1) + 1
  const extra = new Map(added.map(({ id, content, special }) => [id, special ? undefined : encoder.encode(content)]))
  const read = reader(tokenizer, flat(decoder))
  return Array.from({ length: size }, (_, id) => {
    if (extra.has(id)) return extra.get(id)
    const token = tokenizer.id_to_token(id)
    return token === undefined ? undefined : read(token, id)
  })
}

type Step = { readonly type: string; readonly from: string; readonly to: string }

/** The decoders in order, those within `Sequence` in its place. */
function flat(decoder: Json): readonly Step[] {
  if (!isJsonObject(decoder)) return []
  const inner = decoder['decoders']
  if (decoder['type'] === 'Sequence' && Array.isArray(inner)) return inner.flatMap(flat)
  const { pattern, content, replacement } = decoder
  const from = isJsonObject(pattern) ? pattern['String'] : replacement
  return [{ type: String(decoder['type']), from: typeof from === 'string' ? from : '▁', to: typeof content === 'string' ? content : ' ' }]
}

function reader(tokenizer: Tokenizer, steps: readonly Step[]): (token: string, id: number) => Uint8Array {
  const has = (type: string): boolean => steps.some(step => step.type === type)
  if (has('ByteLevel')) return token => byteLevel(token) ?? encoder.encode(token)
  const known = ['Replace', 'Metaspace', 'ByteFallback', 'Fuse', 'Strip']
  if (steps.length > 0 && steps.every(({ type }) => known.includes(type)) && (has('Replace') || has('Metaspace'))) {
    return token => {
      const byte = has('ByteFallback') ? /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1] : undefined
      if (byte !== undefined) return Uint8Array.of(Number.parseInt(byte, 16))
      return encoder.encode(steps.reduce((text, { type, from, to }) => (type === 'Replace' || type === 'Metaspace' ? text.replaceAll(from, to) : text), token))
    }
  }
  return between(tokenizer)
}

/** Any other decoder is asked what a token adds between two others. */
function between(tokenizer: Tokenizer): (token: string, id: number) => Uint8Array {
  const anchor = [...tokenizer.get_vocab(false)].find(([token]) => /^[a-z]+$/.test(token))?.[1] ?? 0
  const decode = (ids: number[]): string => tokenizer.decode(ids, { clean_up_tokenization_spaces: false })
  const alone = decode([anchor, anchor])
  const tail = alone.slice(decode([anchor]).length)
  return (_, id) => {
    const text = decode([anchor, id, anchor])
    const head = decode([anchor])
    return encoder.encode(text.startsWith(head) && text.endsWith(tail) ? text.slice(head.length, text.length - tail.length) : decode([id]))
  }
}

/** GPT-2's stand-ins for bytes: those that print are themselves, the others follow from U+0100 on. */
const BYTE_OF: ReadonlyMap<number, number> = new Map(Array.from({ length: 256 }, (_, byte) => byte).reduce<(readonly [number, number])[]>((all, byte) => {
  const prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  return [...all, [prints ? byte : 0x100 + all.filter(([code]) => code >= 0x100).length, byte]]
}, []))

function byteLevel(token: string): Uint8Array | undefined {
  const bytes = new Uint8Array(token.length)
  for (let at = 0; at < token.length; at += 1) {
    const byte = BYTE_OF.get(token.charCodeAt(at))
    if (byte === undefined) return undefined
    bytes[at] = byte
  }
  return bytes
}
