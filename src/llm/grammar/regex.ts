import { ANY, except, normal, type CodeRange } from './characters.ts'
import { all, many, NOTHING, one, times, type Expression } from './expression.ts'

/**
 * Regular expressions as JSON Schema and people write them (ECMA-262's, `u` flag), read as languages: groups do not capture,
 * lazy and greedy are the same. No look-around, back-references or word boundaries: those are no context-free forms.
 */
export class PatternRefused extends Error {}

const PATTERN_CHARS = 4_096
const REPEATS = 10_000
const GROUPS_DEEP = 50

const LINE_ENDS: readonly CodeRange[] = [[0x0a, 0x0a], [0x0d, 0x0d], [0x2028, 0x2029]]
const DIGITS: readonly CodeRange[] = [[0x30, 0x39]]
const WORD: readonly CodeRange[] = [[0x30, 0x39], [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]]
const SPACES: readonly CodeRange[] = [[0x09, 0x0d], [0x20, 0x20], [0xa0, 0xa0], [0x1680, 0x1680], [0x2000, 0x200a], [0x2028, 0x2029], [0x202f, 0x202f], [0x205f, 0x205f], [0x3000, 0x3000], [0xfeff, 0xfeff]]
const CLASSES: Readonly<Record<string, readonly CodeRange[]>> = { d: DIGITS, D: except(ANY, DIGITS), w: WORD, W: except(ANY, WORD), s: SPACES, S: except(ANY, SPACES) }
const CONTROLS: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, f: 12, v: 11, 0: 0 }

/** How one character of the pattern is written in the text. */
export type WriteCharacter = (ranges: readonly CodeRange[]) => Expression

/**
 * The texts that match as a whole (`search` false; ^ and $ then say nothing new), or that have a part that matches (`search`
 * true, as JSON Schema's `pattern`). Throws PatternRefused saying where.
 */
export function pattern(source: string, write: WriteCharacter, search: boolean): Expression {
  if (source.length > PATTERN_CHARS) throw new PatternRefused(`is longer than ${PATTERN_CHARS} characters`)
  return new PatternReader(source, write, search).whole()
}

class PatternReader {
  readonly #signs: readonly string[]
  readonly #write: WriteCharacter
  readonly #search: boolean
  #at = 0
  #depth = 0

  constructor(source: string, write: WriteCharacter, search: boolean) {
    this.#signs = [...source]
    this.#write = write
    this.#search = search
  }

  whole(): Expression {
    const options = [this.#outer()]
    while (this.#take('|')) options.push(this.#outer())
    if (this.#at < this.#signs.length) throw new PatternRefused(`has an unmatched ) at ${this.#at}`)
    return one(...options)
  }

  /** One alternative of the outermost level: here, and only here, may anchors stand. */
  #outer(): Expression {
    const anything = many(this.#write(ANY))
    const anchored = this.#take('^')
    const middle = this.#sequence()
    const ended = this.#take('$')
    const more = this.#signs[this.#at]
    if (more !== undefined && more !== '|' && more !== ')') throw new PatternRefused(`has ${more} after $ at ${this.#at}`)
    if (!this.#search) return middle
    return all(...(anchored ? [] : [anything]), middle, ...(ended ? [] : [anything]))
  }

  #sequence(): Expression {
    const parts: Expression[] = []
    for (let next = this.#signs[this.#at]; next !== undefined && !'|)'.includes(next) && !(next === '$' && this.#depth === 0); next = this.#signs[this.#at]) parts.push(this.#quantified())
    return parts.length === 0 ? NOTHING : all(...parts)
  }

  #quantified(): Expression {
    const part = this.#atom()
    const bounds = this.#bounds()
    if (bounds === undefined) return part
    this.#take('?')
    if (this.#bounds() !== undefined) throw new PatternRefused(`repeats a repetition at ${this.#at}`)
    return times(part, ...bounds)
  }

  #bounds(): readonly [low: number, high: number] | undefined {
    if (this.#take('*')) return [0, Infinity]
    if (this.#take('+')) return [1, Infinity]
    if (this.#take('?')) return [0, 1]
    const braces = /^\{(\d{1,6})(,(\d{0,6}))?\}/.exec(this.#signs.slice(this.#at, this.#at + 16).join(''))
    if (braces === null) return undefined
    this.#at += braces[0].length
    const low = Number(braces[1])
    const high = braces[2] === undefined ? low : braces[3] === '' ? Infinity : Number(braces[3])
    if (high < low) throw new PatternRefused(`has ${braces[0]}, whose end is before its start`)
    if (low > REPEATS || (high !== Infinity && high > REPEATS)) throw new PatternRefused(`repeats more than ${REPEATS} times`)
    return [low, high]
  }

  #atom(): Expression {
    const at = this.#at
    const sign = this.#next('end of pattern')
    if (sign === '(') return this.#group(at)
    if (sign === '[') return this.#write(this.#set())
    if (sign === '.') return this.#write(except(ANY, LINE_ENDS))
    if (sign === '^' || sign === '$') throw new PatternRefused(`has ${sign} in the middle, at ${at}; anchors may only stand at its ends`)
    if (sign === '\\') return this.#write(this.#escape())
    if ('*+?'.includes(sign)) throw new PatternRefused(`has ${sign} at ${at} with nothing to repeat`)
    return this.#write(same(sign))
  }

  #group(at: number): Expression {
    if (this.#take('?')) {
      const named = /^<[A-Za-z]\w{0,60}>/.exec(this.#signs.slice(this.#at, this.#at + 64).join(''))
      if (named !== null) this.#at += named[0].length
      else if (!this.#take(':')) throw new PatternRefused(`has a look-around or flag group at ${at}; those are not supported`)
    }
    this.#depth += 1
    if (this.#depth > GROUPS_DEEP) throw new PatternRefused(`nests groups more than ${GROUPS_DEEP} deep`)
    const options = [this.#sequence()]
    while (this.#take('|')) options.push(this.#sequence())
    this.#depth -= 1
    if (!this.#take(')')) throw new PatternRefused(`has an unclosed ( at ${at}`)
    return one(...options)
  }

  #set(): readonly CodeRange[] {
    const at = this.#at
    const not = this.#take('^')
    const ranges: CodeRange[] = []
    while (!this.#take(']')) {
      const from = this.#member(at)
      const next = this.#signs[this.#at + 1]
      if (this.#signs[this.#at] !== '-' || next === undefined || next === ']') {
        ranges.push(...from)
        continue
      }
      this.#at += 1
      const to = this.#member(at)
      const low = from.length === 1 && from[0]![0] === from[0]![1] ? from[0]![0] : undefined
      const high = to.length === 1 && to[0]![0] === to[0]![1] ? to[0]![0] : undefined
      if (low === undefined || high === undefined || high < low) throw new PatternRefused(`has a range in the set at ${at} that runs from no character or to none, or backwards`)
      ranges.push([low, high])
    }
    return not ? except(ANY, ranges) : normal(ranges)
  }

  #member(set: number): readonly CodeRange[] {
    const sign = this.#next(`an unclosed [ at ${set - 1}`)
    return sign === '\\' ? (this.#signs[this.#at] === 'b' ? (this.#at += 1, [[8, 8]]) : this.#escape()) : same(sign)
  }

  #escape(): readonly CodeRange[] {
    const at = this.#at
    const sign = this.#next('a \\ with nothing after it')
    const known = CLASSES[sign]
    if (known !== undefined) return known
    const control = CONTROLS[sign]
    if (control !== undefined) return [[control, control]]
    if (sign === 'p' || sign === 'P') return property(this.#braced(at), sign === 'P')
    if (sign === 'x') return point(this.#hex(2, at))
    if (sign === 'u') return point(this.#signs[this.#at] === '{' ? Number.parseInt(this.#braced(at), 16) : this.#hex(4, at))
    if (/[A-Za-z0-9]/.test(sign)) throw new PatternRefused(`has \\${sign} at ${at}; back-references, boundaries and that escape are not supported`)
    return same(sign)
  }

  #hex(count: number, at: number): number {
    const digits = this.#signs.slice(this.#at, this.#at + count).join('')
    if (!/^[0-9A-Fa-f]+$/.test(digits) || digits.length !== count) throw new PatternRefused(`has an unfinished escape at ${at}`)
    this.#at += count
    return Number.parseInt(digits, 16)
  }

  #braced(at: number): string {
    const end = this.#signs.indexOf('}', this.#at)
    if (!this.#take('{') || end < 0) throw new PatternRefused(`has an escape at ${at} that wants {…}`)
    const inner = this.#signs.slice(this.#at, end).join('')
    this.#at = end + 1
    return inner
  }

  #next(what: string): string {
    const sign = this.#signs[this.#at]
    if (sign === undefined) throw new PatternRefused(`has ${what}`)
    this.#at += 1
    return sign
  }

  #take(sign: string): boolean {
    if (this.#signs[this.#at] !== sign) return false
    this.#at += 1
    return true
  }
}

function same(sign: string): readonly CodeRange[] {
  const code = sign.codePointAt(0)!
  return [[code, code]]
}

function point(code: number): readonly CodeRange[] {
  if (!(code <= 0x10ffff)) throw new PatternRefused('names a character that is none')
  return [[code, code]]
}

const properties = new Map<string, readonly CodeRange[]>()
const PROPERTIES = 32

/** The platform knows Unicode's properties; every code point is asked once. */
function property(name: string, not: boolean): readonly CodeRange[] {
  let ranges = properties.get(name)
  if (ranges === undefined) {
    let known: RegExp
    try {
      known = new RegExp(`\\p{${name}}`, 'u')
    } catch (cause) {
      throw new PatternRefused(`has \\p{${name}}, which is no property of Unicode`, { cause })
    }
    const found: CodeRange[] = []
    for (let code = 0; code <= 0x10ffff; code += 1) {
      if (!known.test(String.fromCodePoint(code))) continue
      const last = found.at(-1)
      if (last !== undefined && last[1] === code - 1) found[found.length - 1] = [last[0], code]
      else found.push([code, code])
    }
    ranges = normal(found)
    if (properties.size >= PROPERTIES) properties.clear()
    properties.set(name, ranges)
  }
  return not ? except(ANY, ranges) : ranges
}
