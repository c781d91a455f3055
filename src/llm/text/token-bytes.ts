import type { Tokenizer } from '@huggingface/tokenizers'
import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject } from '../../lib/json.ts'
import { bytesOfSigns } from './byte-signs.ts'
import { onigurumaPattern } from './oniguruma.ts'
import type { TokenizerFile } from './tokenizer-files.ts'

const encoder = new TextEncoder()

/**
 * The bytes that each token adds to a text that others come before, by id; undefined for those that give none (special tokens,
 * ids without a token). Bytes and not characters: in vocabularies of bytes a character may take several tokens.
 */
export function tokenBytes(tokenizer: Tokenizer, { added_tokens: added, decoder = null }: TokenizerFile): readonly (Uint8Array | undefined)[] {
  const ids = [...tokenizer.get_vocab(true).values(), ...added.map(({ id }) => id)]
  const size = ids.reduce((most, id) => Math.max(most, id), -1) + 1
  const extra = new Map(added.map(({ id, content, special }) => [id, special ? undefined : encoder.encode(content)]))
  const read = reader(tokenizer, flat(decoder))
  return Array.from({ length: size }, (_, id) => {
    if (extra.has(id)) return extra.get(id)
    const token = tokenizer.id_to_token(id)
    return token === undefined ? undefined : read(token, id)
  })
}

type Step = { readonly type: string; readonly change: (text: string) => string }

/** The decoders in order, those within `Sequence` in its place. */
function flat(decoder: Json): readonly Step[] {
  if (!isJsonObject(decoder)) return []
  const { type, decoders, pattern, content, replacement } = decoder
  if (type === 'Sequence' && Array.isArray(decoders)) return decoders.flatMap(flat)
  if (type === 'Replace') {
    const [from, to] = [onigurumaPattern(pattern), typeof content === 'string' ? content : '']
    return [{ type, change: text => text.replace(from, () => to) }]
  }
  if (type !== 'Metaspace') return [{ type: String(type), change: text => text }]
  const mark = typeof replacement === 'string' ? replacement : '▁'
  return [{ type, change: text => text.replaceAll(mark, ' ') }]
}

/** What takes off something at the beginning or the end of a text has nothing to do in its middle. */
const SIGN_BY_SIGN: ReadonlySet<string> = new Set(['Replace', 'Metaspace', 'ByteFallback', 'Fuse', 'Strip'])

function reader(tokenizer: Tokenizer, steps: readonly Step[]): (token: string, id: number) => Uint8Array {
  const has = (type: string): boolean => steps.some(step => step.type === type)
  if (has('ByteLevel')) return token => bytesOfSigns(token) ?? encoder.encode(token)
  if (steps.length === 0 || steps.some(({ type }) => !SIGN_BY_SIGN.has(type))) return between(tokenizer)
  return token => {
    const byte = has('ByteFallback') ? /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1] : undefined
    return byte === undefined ? encoder.encode(steps.reduce((text, { change }) => change(text), token)) : Uint8Array.of(Number.parseInt(byte, 16))
  }
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
