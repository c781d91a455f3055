import { endingFrom } from '../../lib/ending.ts'
import { braces } from './text-format.ts'
import { SPACE } from './tokens.ts'
import { asNumber, bind, itemsOf, lengthOf, TemplateFault, Tuple, typeName, type Arguments, type Value } from './values.ts'
import { repeated } from './work.ts'

type Method = (text: string, given: Arguments) => Value

const STARTING_SPACE = new RegExp(`^${SPACE}+`, 'u')
const ONE_SPACE = new RegExp(SPACE, 'u')
const WORD = new RegExp(`(?:(?!${SPACE})[^])+`, 'gu')
const LINE = /\r\n|[\n\r\v\f\u001c-\u001e\u0085\u2028\u2029]/u // oxlint-disable-line no-control-regex

function asText(value: Value | undefined, what: string): string {
  if (typeof value === 'string') return value
  throw new TemplateFault(`${what} must be str, not ${value === undefined ? 'missing' : typeName(value)}`)
}

function count(value: Value | undefined, otherwise: number): number {
  const number = value === undefined || value === null ? otherwise : asNumber(value)
  return number ?? otherwise
}

/** Without white space, or without any of `signs`, at the start, the end or both. */
export function strip(text: string, signs: Value | undefined, sides: 'both' | 'start' | 'end' = 'both'): string {
  if (signs === undefined || signs === null) {
    const started = sides === 'end' ? text : text.replace(STARTING_SPACE, '')
    return sides === 'start' ? started : started.slice(0, endingFrom(started, ONE_SPACE))
  }
  const away = new Set(asText(signs, 'strip arg'))
  const letters = [...text]
  let [from, to] = [0, letters.length]
  while (sides !== 'end' && from < to && away.has(letters[from] ?? '')) from++
  while (sides !== 'start' && to > from && away.has(letters[to - 1] ?? '')) to--
  return letters.slice(from, to).join('')
}

/** `split()`: at white space, leaving out what is empty, or at a separator. */
function split(text: string, separator: Value | undefined, most: number, fromEnd: boolean): readonly string[] {
  if (separator === undefined || separator === null) return words(text, most, fromEnd)
  const sign = asText(separator, 'separator')
  if (sign === '') throw new TemplateFault('empty separator')
  const parts = text.split(sign)
  if (most < 0 || parts.length <= most + 1) return parts
  return fromEnd ? [parts.slice(0, parts.length - most).join(sign), ...parts.slice(parts.length - most)] : [...parts.slice(0, most), parts.slice(most).join(sign)]
}

function words(text: string, most: number, fromEnd: boolean): readonly string[] {
  const found = [...text.matchAll(WORD)]
  if (most < 0 || found.length <= most) return found.map(([word]) => word)
  // What is left keeps the white space inside it, and at its far end.
  if (!fromEnd) return [...found.slice(0, most).map(([word]) => word), text.slice(found[most]?.index)]
  const kept = found.slice(found.length - most).map(([word]) => word)
  const last = found[found.length - most - 1]
  return [text.slice(0, (last?.index ?? 0) + (last?.[0].length ?? 0)), ...kept]
}

/** Lines without their ends; an end at the very end begins no further line. */
export function lines(text: string, keep = false): readonly string[] {
  const found: string[] = []
  let rest = text
  while (rest !== '') {
    const end = LINE.exec(rest)
    if (end === null) return [...found, rest]
    found.push(rest.slice(0, end.index) + (keep ? end[0] : ''))
    rest = rest.slice(end.index + end[0].length)
  }
  return found
}

export function capitalize(text: string): string {
  const [first = '', ...rest] = text
  return first.toUpperCase() + rest.join('').toLowerCase()
}

function title(text: string): string {
  return text.replaceAll(/\p{L}+/gu, capitalize)
}

export function replaceText(text: string, old: string, by: string, most: number): string {
  if (most < 0) return old === '' ? by + [...text].map(sign => sign + by).join('') : text.split(old).join(by)
  if (old === '') return [...text].map((sign, at) => (at < most ? by : '') + sign).join('') + (most > lengthOf(text) ? by : '')
  const parts = text.split(old)
  return parts.slice(0, most + 1).join(by) + (parts.length > most + 1 ? old + parts.slice(most + 1).join(old) : '')
}

function find(given: Arguments, text: string, last: boolean, strict: boolean): number {
  const [part, from, to] = bind(given, 'find', 'sub', 'start', 'end')
  const letters = [...text]
  const start = bound(from, 0, letters.length)
  const inner = letters.slice(start, bound(to, letters.length, letters.length)).join('')
  const at = start > letters.length ? -1 : last ? inner.lastIndexOf(asText(part, 'sub')) : inner.indexOf(asText(part, 'sub'))
  if (at < 0 && strict) throw new TemplateFault('substring not found')
  return at < 0 ? -1 : start + lengthOf(inner.slice(0, at))
}

function bound(given: Value | undefined, otherwise: number, length: number): number {
  const at = count(given, otherwise)
  return at < 0 ? Math.max(0, at + length) : at
}

function begins(text: string, given: Arguments, end: boolean): boolean {
  const [parts, from, to] = bind(given, end ? 'endswith' : 'startswith', 'prefix', 'start', 'end')
  const letters = [...text]
  const start = bound(from, 0, letters.length)
  if (start > letters.length) return false
  const inner = letters.slice(start, bound(to, letters.length, letters.length)).join('')
  return (parts instanceof Tuple ? parts.items : [parts]).some(part => (end ? inner.endsWith(asText(part, 'endswith arg')) : inner.startsWith(asText(part, 'startswith arg'))))
}

function partition(text: string, given: Arguments, last: boolean): Value {
  const sign = asText(bind(given, 'partition', 'sep')[0], 'separator')
  if (sign === '') throw new TemplateFault('empty separator')
  const at = last ? text.lastIndexOf(sign) : text.indexOf(sign)
  if (at < 0) return new Tuple(last ? ['', '', text] : [text, '', ''])
  return new Tuple([text.slice(0, at), sign, text.slice(at + sign.length)])
}

function justify(text: string, given: Arguments, side: 'left' | 'right' | 'center'): string {
  const [width, fill = ' '] = bind(given, 'ljust', 'width', 'fillchar')
  const missing = Math.max(0, count(width, 0) - lengthOf(text))
  const left = side === 'left' ? 0 : side === 'right' ? missing : Math.floor(missing / 2) + (missing & count(width, 0) & 1)
  return repeated(asText(fill, 'fill'), left) + text + repeated(asText(fill, 'fill'), missing - left)
}

const all = (pattern: RegExp): Method => (text, given) => {
  bind(given, 'the method')
  return pattern.test(text)
}
const changed = (change: (text: string) => string): Method => (text, given) => {
  bind(given, 'the method')
  return change(text)
}

/** The methods of Python's `str` that prompts may need. */
export const TEXT_METHODS: ReadonlyMap<string, Method> = new Map<string, Method>([
  ['strip', (text, given) => strip(text, bind(given, 'strip', 'chars')[0])],
  ['lstrip', (text, given) => strip(text, bind(given, 'lstrip', 'chars')[0], 'start')],
  ['rstrip', (text, given) => strip(text, bind(given, 'rstrip', 'chars')[0], 'end')],
  ['split', (text, given) => splitBy(text, given, false)],
  ['rsplit', (text, given) => splitBy(text, given, true)],
  ['splitlines', (text, given) => lines(text, bind(given, 'splitlines', 'keepends')[0] === true)],
  ['startswith', (text, given) => begins(text, given, false)],
  ['endswith', (text, given) => begins(text, given, true)],
  ['removeprefix', (text, given) => cut(text, asText(bind(given, 'removeprefix', 'prefix')[0], 'prefix'), false)],
  ['removesuffix', (text, given) => cut(text, asText(bind(given, 'removesuffix', 'suffix')[0], 'suffix'), true)],
  ['replace', (text, given) => {
    const [old, by, most] = bind(given, 'replace', 'old', 'new', 'count')
    return replaceText(text, asText(old, 'replace() argument 1'), asText(by, 'replace() argument 2'), count(most, -1))
  }],
  ['upper', changed(text => text.toUpperCase())],
  ['lower', changed(text => text.toLowerCase())],
  ['casefold', changed(text => text.toLowerCase().replaceAll('ß', 'ss'))],
  ['title', changed(title)],
  ['capitalize', changed(capitalize)],
  ['swapcase', changed(text => [...text].map(sign => (sign === sign.toUpperCase() ? sign.toLowerCase() : sign.toUpperCase())).join(''))],
  ['find', (text, given) => find(given, text, false, false)],
  ['rfind', (text, given) => find(given, text, true, false)],
  ['index', (text, given) => find(given, text, false, true)],
  ['rindex', (text, given) => find(given, text, true, true)],
  ['count', (text, given) => {
    const part = asText(bind(given, 'count', 'sub')[0], 'sub')
    return part === '' ? lengthOf(text) + 1 : text.split(part).length - 1
  }],
  ['join', (text, given) => itemsOf(bind(given, 'join', 'iterable')[0] ?? null).map(item => asText(item, 'sequence item')).join(text)],
  ['format', braces],
  ['partition', (text, given) => partition(text, given, false)],
  ['rpartition', (text, given) => partition(text, given, true)],
  ['zfill', (text, given) => {
    const sign = /^[-+]?/.exec(text)?.[0] ?? ''
    return sign + repeated('0', count(bind(given, 'zfill', 'width')[0], 0) - text.length) + text.slice(sign.length)
  }],
  ['ljust', (text, given) => justify(text, given, 'left')],
  ['rjust', (text, given) => justify(text, given, 'right')],
  ['center', (text, given) => justify(text, given, 'center')],
  ['isdigit', all(/^[\p{Nd}²³¹⁰-⁹₀-₉]+$/u)],
  ['isdecimal', all(/^\p{Nd}+$/u)],
  ['isnumeric', all(/^\p{N}+$/u)],
  ['isalpha', all(/^\p{L}+$/u)],
  ['isalnum', all(/^[\p{L}\p{N}]+$/u)],
  ['isspace', all(new RegExp(`^${SPACE}+$`, 'u'))],
  ['isupper', asked(isUpper)],
  ['islower', asked(isLower)],
])

function asked(ask: (text: string) => boolean): Method {
  return (text, given) => {
    bind(given, 'the method')
    return ask(text)
  }
}

export function isUpper(text: string): boolean {
  return /\p{Lu}/u.test(text) && !/[\p{Ll}\p{Lt}]/u.test(text)
}

export function isLower(text: string): boolean {
  return /\p{Ll}/u.test(text) && !/[\p{Lu}\p{Lt}]/u.test(text)
}

function splitBy(text: string, given: Arguments, fromEnd: boolean): Value {
  const [separator, most] = bind(given, 'split', 'sep', 'maxsplit')
  return split(text, separator, count(most, -1), fromEnd)
}

function cut(text: string, part: string, end: boolean): string {
  if (part === '' || !(end ? text.endsWith(part) : text.startsWith(part))) return text
  return end ? text.slice(0, -part.length) : text.slice(part.length)
}
