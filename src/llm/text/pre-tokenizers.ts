import { MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject, type JsonObject } from '../../lib/json.ts'
import { inSigns } from './byte-signs.ts'
import { onigurumaPattern } from './oniguruma.ts'

/** A piece of a text that becomes tokens by itself. `first`: begins where the whole text does. */
export type Piece = { readonly text: string; readonly first: boolean }
export type PreTokenizer = (piece: Piece) => readonly Piece[]

const PUNCTUATION = /[\p{P}\u0021-\u002F\u003A-\u0040\u005B-\u0060\u007B-\u007E]/gu
const SPACES = /\p{White_Space}/gu
const WORDS = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu
const GPT2 = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu
const BEHAVIOURS = ['removed', 'isolated', 'contiguous', 'mergedwithprevious', 'mergedwithnext'] as const
type Behaviour = (typeof BEHAVIOURS)[number]

/** What a `pre_tokenizer` of tokenizer.json makes of a text, as Hugging Face's `tokenizers` makes it. Throws SPEC_INVALID for a kind that nobody here knows. */
export function preTokenizer(given: Json | undefined): PreTokenizer {
  if (given === undefined || !isJsonObject(given)) return piece => [piece]
  switch (given['type']) {
    case 'Sequence': return inTurn(Array.isArray(given['pretokenizers']) ? given['pretokenizers'].map(preTokenizer) : [])
    case 'ByteLevel': return byteLevel(given)
    case 'Metaspace': return metaspace(given)
    case 'Split': return cutting(onigurumaPattern(given['pattern']), behaviour(given), given['invert'] === true)
    case 'Digits': return cutting(/\p{N}/gu, given['individual_digits'] === true ? 'isolated' : 'contiguous')
    case 'Punctuation': return cutting(PUNCTUATION, behaviour(given))
    case 'Whitespace': return cutting(WORDS, 'removed', true)
    case 'WhitespaceSplit': return cutting(SPACES, 'removed')
    case 'BertPreTokenizer': return inTurn([cutting(SPACES, 'removed'), cutting(PUNCTUATION, 'isolated')])
    case 'CharDelimiterSplit': return cutting(onigurumaPattern({ String: given['delimiter'] ?? '' }), 'removed')
    case 'FixedLength': return cutting(new RegExp(`[\\s\\S]{1,${Math.max(1, Number(given['length']) || 1)}}`, 'gu'), 'isolated')
    default: throw new MeshError('SPEC_INVALID', `tokenizer.json has a pre_tokenizer ${JSON.stringify(given['type'] ?? null)}, which is not known here`)
  }
}

function inTurn(all: readonly PreTokenizer[]): PreTokenizer {
  return piece => all.reduce<readonly Piece[]>((pieces, one) => pieces.flatMap(one), [piece])
}

function behaviour(given: JsonObject): Behaviour {
  const said = typeof given['behavior'] === 'string' ? given['behavior'].toLowerCase().replaceAll('_', '') : 'isolated'
  const known = BEHAVIOURS.find(one => one === said)
  if (known === undefined) throw new MeshError('SPEC_INVALID', `tokenizer.json cuts with the behavior ${JSON.stringify(said)}, which is not known here`)
  return known
}

function byteLevel(given: JsonObject): PreTokenizer {
  const words = given['use_regex'] === false ? (piece: Piece) => [piece] : cutting(GPT2, 'isolated')
  return ({ text, first }) => words({ text: given['add_prefix_space'] === true && !text.startsWith(' ') ? ` ${text}` : text, first }).map(piece => ({ ...piece, text: inSigns(piece.text) }))
}

function metaspace(given: JsonObject): PreTokenizer {
  const mark = typeof given['replacement'] === 'string' ? given['replacement'] : '▁'
  // Before there was a scheme, this said whether a text begins with a space.
  const scheme = given['prepend_scheme'] ?? (given['add_prefix_space'] === false ? 'never' : 'always')
  const cut = given['split'] === false ? (piece: Piece) => [piece] : cutting(onigurumaPattern({ String: mark }), 'mergedwithnext')
  return ({ text, first }) => {
    const marked = text.replaceAll(' ', () => mark)
    return cut({ text: !marked.startsWith(mark) && (scheme === 'always' || (scheme === 'first' && first)) ? mark + marked : marked, first })
  }
}

/** Cuts at what matches (`inverted`: at what does not): it is removed, a piece of its own, or goes with what is before it, after it, or matches beside it. */
function cutting(pattern: RegExp, how: Behaviour, inverted = false): PreTokenizer {
  return ({ text, first }) => {
    const parts: { from: number; to: number; match: boolean }[] = []
    let end = 0
    for (const { 0: found, index } of text.matchAll(pattern)) {
      if (index > end) parts.push({ from: end, to: index, match: inverted })
      parts.push({ from: index, to: index + found.length, match: !inverted })
      end = index + found.length
    }
    if (end < text.length) parts.push({ from: end, to: text.length, match: inverted })
    return joined(parts, how).filter(({ from, to }) => to > from).map(({ from, to }) => ({ text: text.slice(from, to), first: first && from === 0 }))
  }
}

type Part = { readonly from: number; readonly to: number; readonly match: boolean }

function joined(parts: readonly Part[], how: Behaviour): readonly Part[] {
  if (how === 'isolated') return parts
  if (how === 'removed') return parts.filter(({ match }) => !match)
  if (how === 'mergedwithnext') {
    // What matches goes with what follows it, of several only the last.
    return parts.flatMap((part, at) => {
      const next = parts[at + 1]
      if (part.match && next !== undefined && !next.match) return []
      const before = parts[at - 1]
      return [!part.match && before?.match === true ? { ...part, from: before.from } : part]
    })
  }
  const grown: Part[] = []
  for (const [at, part] of parts.entries()) {
    const last = grown.at(-1)
    const before = parts[at - 1]
    const joins = how === 'contiguous' ? before?.match === part.match : part.match && before?.match === false
    if (last !== undefined && joins) grown[grown.length - 1] = { ...last, to: part.to }
    else grown.push(part)
  }
  return grown
}
