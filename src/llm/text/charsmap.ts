import { base64, base64pad } from 'multiformats/bases/base64'
import { MeshError } from '../../../protocols/errors.ts'
import { utf8 } from '../../../protocols/codec.ts'

const LONGEST_CLUSTER = 6
const LEAF = 0x100

/**
 * The normalizer that SentencePiece compiled into a model: a trie (Darts's double array) of what is replaced, and by what. Signs that
 * belong together are looked up together, where they are short, then one by one; of a match only the first, shortest one counts, as in
 * Hugging Face's `spm_precompiled`. Throws SPEC_INVALID.
 */
export function charsmap(encoded: string): (text: string) => string {
  const bytes = decoded(encoded)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const size = bytes.byteLength < 4 ? 0 : view.getUint32(0, true)
  if (size % 4 !== 0 || 4 + size > bytes.byteLength) throw new MeshError('SPEC_INVALID', 'tokenizer.json has a precompiled_charsmap that is cut off')
  const units = Uint32Array.from({ length: size / 4 }, (_, at) => view.getUint32(4 + 4 * at, true))
  const texts = bytes.subarray(4 + size)
  const clusters = new Intl.Segmenter()
  const known = new Map<string, string | undefined>()
  const look = (chunk: string): string | undefined => {
    if (!known.has(chunk)) known.set(chunk, read(texts, find(units, utf8(chunk))))
    return known.get(chunk)
  }
  return text => {
    if (known.size > 65_536) known.clear()
    return Array.from(clusters.segment(text), ({ segment }) => (utf8(segment).byteLength < LONGEST_CLUSTER ? look(segment) : undefined) ?? Array.from(segment, sign => look(sign) ?? sign).join('')).join('')
  }
}

function decoded(encoded: string): Uint8Array {
  try {
    return (encoded.length % 4 === 0 ? base64pad : base64).baseDecode(encoded)
  } catch (cause) {
    throw new MeshError('SPEC_INVALID', 'tokenizer.json has a precompiled_charsmap that is not base64', { cause })
  }
}

/** Where the replacement of the shortest beginning of `key` lies, if there is one. */
function find(units: Uint32Array, key: Uint8Array): number | undefined {
  const offset = (unit: number): number => (unit >>> 10) << ((unit & 0x200) >>> 6)
  let at = offset(units[0] ?? 0)
  for (const byte of key) {
    if (byte === 0) return undefined
    at ^= byte
    const unit = units[at] ?? 0
    if (((unit & 0x800000ff) >>> 0) !== byte) return undefined
    at ^= offset(unit)
    if ((unit & LEAF) !== 0) return (units[at] ?? 0) & 0x7fffffff
  }
  return undefined
}

function read(texts: Uint8Array, from: number | undefined): string | undefined {
  if (from === undefined) return undefined
  const end = texts.indexOf(0, from)
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(texts.subarray(from, end < 0 ? texts.byteLength : end))
}
