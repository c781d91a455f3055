import { endingFrom } from '../../lib/ending.ts'
import { TemplateFault } from './values.ts'

export type Token = { readonly kind: 'data' | 'open-block' | 'close-block' | 'open-value' | 'close-value' | 'name' | 'string' | 'integer' | 'float' | 'sign' | 'end'; readonly text: string; readonly line: number }

/** What Python takes for white space. */
export const SPACE = String.raw`[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]`
const CLOSE_BLOCK = String.raw`(?:\+%\}|-%\}${SPACE}*|%\}\n?)`
const OPENING = new RegExp(String.raw`\{%[-+]?${SPACE}*raw${SPACE}*(?:-%\}${SPACE}*|%\})|\{[{%#][-+]?`, 'gu')
const END_RAW = new RegExp(String.raw`\{%([-+]?)${SPACE}*endraw${SPACE}*${CLOSE_BLOCK}`, 'gu')
const END_COMMENT = new RegExp(String.raw`(?:\+#\}|-#\}${SPACE}*|#\}\n?)`, 'gu')
const INSIDE = new RegExp([
  `(?<space>${SPACE}+)`, `(?<block>${CLOSE_BLOCK})`, String.raw`(?<value>-\}\}${SPACE}*|\}\})`,
  String.raw`(?<float>(?<!\.)\d+(?:_\d+)*(?:\.\d+(?:_\d+)*(?:e[+-]?\d+)?|e[+-]?\d+))`, String.raw`(?<integer>0[bB][01_]+|0[oO][0-7_]+|0[xX][\da-fA-F_]+|\d+(?:_\d+)*)`,
  String.raw`(?<name>[\p{L}\p{N}_]+)`, String.raw`(?<string>'[^'\\]*(?:\\[^][^'\\]*)*'|"[^"\\]*(?:\\[^][^"\\]*)*")`, String.raw`(?<sign>\/\/|\*\*|[=!<>]=|[-+*\/%~[\](){}<>=.:|,])`,
].join('|'), 'uy')
const ONE_SPACE = new RegExp(SPACE, 'u')
const ONLY_SPACE = new RegExp(`^${SPACE}+$`, 'u')
const PAIRS: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}' }

/** The tokens of a template, with `trim_blocks` and `lstrip_blocks` as chat templates are read. Throws TemplateFault naming the line. */
export function tokenize(source: string): readonly Token[] {
  const text = source.replaceAll(/\r\n?/g, '\n').replace(/\n$/, '')
  const tokens: Token[] = []
  let [at, line, lineStarts] = [0, 1, true]
  const fail = (what: string): never => {
    throw new TemplateFault(`line ${line}: ${what}`)
  }
  const pass = (read: string): void => {
    at += read.length
    line += read.split('\n').length - 1
    lineStarts = read.endsWith('\n')
  }
  const next = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at
    return pattern.exec(text)
  }
  const put = (kind: Token['kind'], text: string): void => {
    if (kind !== 'data' || text !== '') tokens.push({ kind, text, line })
  }
  while (at < text.length) {
    const opening = next(OPENING)
    if (opening === null) {
      put('data', text.slice(at))
      break
    }
    const open = opening[0]
    const data = text.slice(at, opening.index)
    put('data', before(data, open, lineStarts))
    pass(data + open)
    if (open.startsWith('{#')) {
      const end = next(END_COMMENT) ?? fail('a comment is not closed')
      pass(text.slice(at, end.index) + end[0])
    } else if (open.endsWith('}') || !/^\{[{%][-+]?$/.test(open)) {
      const end = next(END_RAW) ?? fail('{% raw %} is not closed')
      put('data', before(text.slice(at, end.index), `{%${end[1] ?? ''}`, lineStarts))
      pass(text.slice(at, end.index) + end[0])
    } else {
      const kind = open.startsWith('{%') ? 'block' : 'value'
      put(`open-${kind}`, open)
      const stack: string[] = []
      for (;;) {
        const found = inside(text, at, kind, stack) ?? fail(at >= text.length ? `the ${kind === 'block' ? 'tag' : 'expression'} is not closed` : `unexpected ${JSON.stringify(text[at])}`)
        if (found.kind === 'sign' && found.text in PAIRS) stack.push(PAIRS[found.text] ?? '')
        else if (found.kind === 'sign' && ')]}'.includes(found.text) && stack.pop() !== found.text) fail(`unexpected '${found.text}'`)
        if (found.kind === 'close') put(`close-${kind}`, found.text)
        else if (found.kind !== 'space') put(found.kind, found.text)
        pass(found.text)
        if (found.kind === 'close') break
      }
    }
  }
  put('end', '')
  return tokens
}

type Inside = { readonly kind: 'space' | 'close' | 'float' | 'integer' | 'name' | 'string' | 'sign'; readonly text: string }

function inside(text: string, at: number, kind: 'block' | 'value', open: readonly string[]): Inside | undefined {
  INSIDE.lastIndex = at
  const found = INSIDE.exec(text)
  const groups = found?.groups
  if (found === null || groups === undefined) return undefined
  const closes = kind === 'block' ? groups['block'] : groups['value']
  if (closes !== undefined && open.length === 0) return { kind: 'close', text: closes }
  if (groups['block'] !== undefined || groups['value'] !== undefined) return { kind: 'sign', text: text[at] ?? '' }
  const named = (['space', 'float', 'integer', 'name', 'string', 'sign'] as const).find(name => groups[name] !== undefined)
  return named === undefined ? undefined : { kind: named, text: found[0] }
}

/** The data before a tag, without the white space that the tag takes away. */
function before(data: string, open: string, lineStarts: boolean): string {
  if (open[2] === '-') return data.slice(0, endingFrom(data, ONE_SPACE))
  if (open[2] === '+' || open.startsWith('{{')) return data
  const line = data.lastIndexOf('\n') + 1
  return (line > 0 || lineStarts) && ONLY_SPACE.test(data.slice(line)) ? data.slice(0, line) : data
}

const ESCAPES: Readonly<Record<string, string>> = { '\n': '', '\\': '\\', "'": "'", '"': '"', a: '\u0007', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' }

/** What a string literal says: Python's escapes; those that it does not know stay as they are. */
export function stringValue(literal: string): string {
  return literal.slice(1, -1).replaceAll(/\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{1,3})|([^]))/g, (all, x?: string, u?: string, long?: string, octal?: string, sign?: string) => {
    const hex = x ?? u ?? long
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16))
    if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8))
    if (sign !== undefined && 'xuUN'.includes(sign)) throw new TemplateFault(`the escape ${all} in a text is not known`)
    return ESCAPES[sign ?? ''] ?? all
  })
}
