import { MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import { endingFrom } from '../../lib/ending.ts'
import { isJsonObject, type JsonObject } from '../../lib/json.ts'
import { charsmap } from './charsmap.ts'
import { onigurumaPattern } from './oniguruma.ts'

export type Normalizer = (text: string) => string

const FORMS = ['NFC', 'NFD', 'NFKC', 'NFKD'] as const
const SPACE = /\p{White_Space}/u
const STARTING_SPACE = /^\p{White_Space}+/u
const IDEOGRAPHS = /[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]/gu
const NMT_REMOVED = new RegExp(String.raw`[\u0001-\u0008\u000B\u000E-\u001F\u007F\u008F\u009F]`, 'gu')
const NMT_SPACES = new RegExp(String.raw`[\u0009\u000A\u000C\u000D\u1680\u200B-\u200F\u2028\u2029\u2581\uFEFF\uFFFD]`, 'gu')

/** What a `normalizer` of tokenizer.json does to a text, as Hugging Face's `tokenizers` does it. Throws SPEC_INVALID for a kind that nobody here knows. */
export function normalizer(given: Json | undefined): Normalizer {
  if (given === undefined || !isJsonObject(given)) return text => text
  const { type } = given
  const form = FORMS.find(one => one === type)
  if (form !== undefined) return text => text.normalize(form)
  switch (type) {
    case 'Sequence': return inTurn(Array.isArray(given['normalizers']) ? given['normalizers'].map(normalizer) : [])
    case 'Lowercase': return lower
    case 'StripAccents': return text => text.replace(/\p{M}/gu, '')
    case 'Strip': return stripped(given)
    case 'Prepend': return text => (text === '' ? '' : textOf(given['prepend']) + text)
    case 'Replace': return replaced(given)
    case 'Nmt': return text => text.replace(NMT_REMOVED, '').replace(NMT_SPACES, ' ')
    case 'Precompiled': return charsmap(textOf(given['precompiled_charsmap']))
    case 'BertNormalizer': return bert(given)
    default: throw new MeshError('SPEC_INVALID', `tokenizer.json has a normalizer ${JSON.stringify(type ?? null)}, which is not known here`)
  }
}

function inTurn(normalizers: readonly Normalizer[]): Normalizer {
  return text => normalizers.reduce((before, one) => one(before), text)
}

/** Letter by letter: at the end of a word a sigma would become another. */
function lower(text: string): string {
  return text.includes('Σ') ? Array.from(text, sign => sign.toLowerCase()).join('') : text.toLowerCase()
}

function stripped({ strip_left: left, strip_right: right }: JsonObject): Normalizer {
  return text => {
    const ended = right === true ? text.slice(0, endingFrom(text, SPACE)) : text
    return left === true ? ended.replace(STARTING_SPACE, '') : ended
  }
}

function replaced(given: JsonObject): Normalizer {
  const content = textOf(given['content'])
  const pattern = onigurumaPattern(given['pattern'])
  return text => text.replace(pattern, () => content)
}

function bert({ clean_text: clean, handle_chinese_chars: apart, strip_accents: strip, lowercase }: JsonObject): Normalizer {
  const accents = typeof strip === 'boolean' ? strip : lowercase === true
  return inTurn([
    ...clean === false ? [] : [(text: string) => text.replace(/\uFFFD|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/gu, '').replace(/\p{White_Space}/gu, ' ')],
    ...apart === false ? [] : [(text: string) => text.replace(IDEOGRAPHS, ' $& ')],
    ...accents ? [(text: string) => text.normalize('NFD').replace(/\p{Mn}/gu, '')] : [],
    ...lowercase === false ? [] : [lower],
  ])
}

function textOf(given: Json | undefined): string {
  return typeof given === 'string' ? given : ''
}
