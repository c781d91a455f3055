import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject, type JsonObject } from '../../lib/json.ts'

const REMOVED = String.raw`[\u0001-\u0008\u000B\u000E-\u001F\u007F\u008F\u009F]`
const SPACES = String.raw`[\u0009\u000A\u000C\u000D\u1680\u200B-\u200F\u2028\u2029\u2581\uFEFF\uFFFD]`
const PUNCTUATION = String.raw`[\p{P}\u0021-\u002F\u003A-\u0040\u005B-\u0060\u007B-\u007E]`
const LETTERS = String.raw`\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}`

/** `Nmt`, which tokenizers trained by Hugging Face's library on SentencePiece's pattern name, in words that the library here knows (as their code has it). */
export function spelledNormalizer(normalizer: Json | undefined): Json | undefined {
  if (normalizer === undefined || !isJsonObject(normalizer)) return normalizer
  const inner = normalizer['normalizers']
  if (Array.isArray(inner)) return { ...normalizer, normalizers: inner.map(one => spelledNormalizer(one) ?? null) }
  if (normalizer['type'] !== 'Nmt') return normalizer
  return { type: 'Sequence', normalizers: [{ type: 'Replace', pattern: { Regex: REMOVED }, content: '' }, { type: 'Replace', pattern: { Regex: SPACES }, content: ' ' }] }
}

/**
 * A pre-tokenizer as patterns. The library here takes `Split` by what matches, or by what lies between; of the others it knows
 * some for ASCII only, some in one of their behaviours: Hugging Face's own (the `tokenizers` crate) says what each means.
 */
export function spelledPreTokenizer(given: Json | undefined): Json | undefined {
  if (given === undefined || !isJsonObject(given)) return given
  const inner = given['pretokenizers']
  if (Array.isArray(inner)) return { ...given, pretokenizers: inner.map(one => spelledPreTokenizer(one) ?? null) }
  switch (given['type']) {
    case 'Digits': return pieces(given['individual_digits'] === true ? `\\p{N}` : `\\p{N}+`, 'isolated')
    case 'Punctuation': return pieces(PUNCTUATION, behaviour(given))
    case 'Whitespace': return { type: 'Split', pattern: { Regex: `[${LETTERS}]+|[^${LETTERS}\\s]+` }, behavior: 'Removed', invert: true }
    case 'CharDelimiterSplit': return pieces(escaped(String(given['delimiter'] ?? '')), 'removed')
    case 'Metaspace': return metaspace(given)
    case 'Split': {
      const { pattern } = given
      const source = isJsonObject(pattern) ? pattern['Regex'] ?? (typeof pattern['String'] === 'string' ? escaped(pattern['String']) : undefined) : undefined
      const how = behaviour(given)
      // What is between matches is kept or removed as matches are, where the sense is turned round.
      if (typeof source !== 'string' || (given['invert'] === true && how !== 'isolated') || how === 'removed') return given
      return pieces(source, how)
    }
    default: return given
  }
}

function metaspace(given: JsonObject): Json {
  const mark = typeof given['replacement'] === 'string' ? given['replacement'] : '▁'
  // Before there was a scheme, this said whether a text begins with a space.
  const prepended = given['prepend_scheme'] === undefined && given['add_prefix_space'] === false ? { ...given, prepend_scheme: 'never' } : given
  return given['split'] === false ? prepended : { type: 'Sequence', pretokenizers: [prepended, pieces(escaped(mark), 'mergedwithnext')] }
}

function behaviour(given: JsonObject): string {
  return typeof given['behavior'] === 'string' ? given['behavior'].toLowerCase().replaceAll('_', '') : 'isolated'
}

/** Cuts at what matches: it is removed, a piece of its own, or goes with what is before it, after it, or matches beside it. */
function pieces(source: string, how: string): Json {
  const other = `(?:(?!${source})[\\s\\S])`
  const whole = (regex: string): Json => ({ type: 'Split', pattern: { Regex: regex }, behavior: 'Removed', invert: true })
  switch (how) {
    case 'removed': return { type: 'Split', pattern: { Regex: source }, behavior: 'Removed', invert: false }
    case 'contiguous': return whole(`(?:${source})+|${other}+`)
    case 'mergedwithprevious': return whole(`${other}*(?:${source})|${other}+`)
    case 'mergedwithnext': return whole(`(?:${source})${other}*|${other}+`)
    default: return { type: 'Split', pattern: { Regex: source }, behavior: 'Isolated', invert: false }
  }
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\/]/g, String.raw`\$&`)
}
