import { refused, granted, type Verdict } from '../../protocols/errors.ts'

/**
 * Regular expressions that authors write into templates and strangers' data is matched against. The platform's own
 * engine backtracks (a 30-character pattern can take seconds), so these run as a set of NFA states instead: time is at
 * most states x characters, whatever the pattern (Thompson 1968). No back-references or look-around.
 */
export type Pattern = {
  /** True when some part of `text` matches (anchor with ^ and $). `undefined`: too much work, not decided. */
  test(text: string): boolean | undefined
}

const PATTERN_CHARS = 500
const STATES = 2_000
const STEPS = 4_000_000
const GROUPS_DEEP = 20

type Test = (code: number) => boolean
type State = { readonly kind: 'char'; readonly test: Test; next: number } | { readonly kind: 'split'; next: number; other: number } | { readonly kind: 'start' | 'end'; next: number } | { readonly kind: 'match' }
type Piece = { readonly kind: 'char'; readonly test: Test } | { readonly kind: 'start' | 'end' | 'empty' } | { readonly kind: 'all' | 'one'; readonly parts: readonly Piece[] } | { readonly kind: 'times'; readonly part: Piece; readonly low: number; readonly high: number }

class PatternRefused extends Error {}

/** Refuses what is too long, malformed or outside the language, saying where. */
export function compilePattern(source: string): Verdict<Pattern> {
  if (source.length > PATTERN_CHARS) return refused(`is ${source.length} characters; a pattern may have ${PATTERN_CHARS}`)
  try {
    const states = assemble(new Parser(source).whole())
    return granted({ test: text => run(states, text) })
  } catch (error) {
    if (error instanceof PatternRefused) return refused(error.message)
    throw error
  }
}

class Parser {
  readonly #codes: readonly string[]
  #at = 0
  #depth = 0

  constructor(source: string) {
    this.#codes = [...source]
  }

  whole(): Piece {
    const piece = this.#alternatives()
    if (this.#at < this.#codes.length) throw new PatternRefused(`has an unmatched ) at ${this.#at}`)
    return piece
  }

  #alternatives(): Piece {
    const parts = [this.#sequence()]
    while (this.#take('|')) parts.push(this.#sequence())
    return parts.length === 1 ? parts[0]! : { kind: 'one', parts }
  }

  #sequence(): Piece {
    const parts: Piece[] = []
    for (let next = this.#codes[this.#at]; next !== undefined && next !== '|' && next !== ')'; next = this.#codes[this.#at]) parts.push(this.#quantified())
    return { kind: 'all', parts }
  }

  #quantified(): Piece {
    let part = this.#atom()
    for (;;) {
      const bounds = this.#bounds()
      if (bounds === undefined) return part
      // Lazy matching accepts the same texts.
      this.#take('?')
      part = { kind: 'times', part, ...bounds }
    }
  }

  #bounds(): { readonly low: number; readonly high: number } | undefined {
    if (this.#take('*')) return { low: 0, high: Infinity }
    if (this.#take('+')) return { low: 1, high: Infinity }
    if (this.#take('?')) return { low: 0, high: 1 }
    const braces = /^\{(\d{1,4})(,(\d{0,4}))?\}/.exec(this.#codes.slice(this.#at, this.#at + 12).join(''))
    if (braces === null) return undefined
    this.#at += braces[0].length
    const low = Number(braces[1])
    const high = braces[2] === undefined ? low : braces[3] === '' ? Infinity : Number(braces[3])
    if (high < low) throw new PatternRefused(`has ${braces[0]}, whose end is before its start`)
    return { low, high }
  }

  #atom(): Piece {
    const at = this.#at
    const code = this.#next('end of pattern')
    if (code === '(') return this.#group(at)
    if (code === '[') return { kind: 'char', test: this.#set() }
    if (code === '.') return { kind: 'char', test: given => given !== 10 && given !== 13 }
    if (code === '^') return { kind: 'start' }
    if (code === '$') return { kind: 'end' }
    if (code === '\\') return { kind: 'char', test: this.#escape() }
    if ('*+?'.includes(code)) throw new PatternRefused(`has ${code} at ${at} with nothing to repeat`)
    return { kind: 'char', test: same(code) }
  }

  #group(at: number): Piece {
    if (this.#take('?')) {
      const named = /^P?<[A-Za-z]\w{0,30}>/.exec(this.#codes.slice(this.#at, this.#at + 40).join(''))
      if (named !== null) this.#at += named[0].length
      else if (!this.#take(':')) throw new PatternRefused(`has a look-around or flag group at ${at}; those are not supported`)
    }
    this.#depth += 1
    if (this.#depth > GROUPS_DEEP) throw new PatternRefused(`nests groups more than ${GROUPS_DEEP} deep`)
    const piece = this.#alternatives()
    this.#depth -= 1
    if (!this.#take(')')) throw new PatternRefused(`has an unclosed ( at ${at}`)
    return piece
  }

  #set(): Test {
    const at = this.#at
    const not = this.#take('^')
    const tests: Test[] = []
    for (let first = true; first || this.#codes[this.#at] !== ']'; first = false) {
      const code = this.#next(`an unclosed [ at ${at - 1}`)
      if (code === '\\') {
        tests.push(this.#escape())
        continue
      }
      const last = this.#codes[this.#at + 1]
      if (this.#codes[this.#at] === '-' && last !== undefined && last !== ']') {
        this.#at += 2
        const from = code.codePointAt(0)!
        const to = (last === '\\' ? this.#next('a range without an end') : last).codePointAt(0)!
        if (to < from) throw new PatternRefused(`has the range ${code}-${last}, whose end is before its start`)
        tests.push(given => given >= from && given <= to)
      } else tests.push(same(code))
    }
    this.#at += 1
    return given => tests.some(test => test(given)) !== not
  }

  #escape(): Test {
    const code = this.#next('a \\ with nothing after it')
    const known = CLASSES[code]
    if (known !== undefined) return known
    const control = { n: '\n', r: '\r', t: '\t', f: '\f', v: '\v' }[code]
    if (control !== undefined) return same(control)
    if (/[A-Za-z0-9]/.test(code)) throw new PatternRefused(`has \\${code}; back-references and that escape are not supported`)
    return same(code)
  }

  #next(what: string): string {
    const code = this.#codes[this.#at]
    if (code === undefined) throw new PatternRefused(`has ${what}`)
    this.#at += 1
    return code
  }

  #take(code: string): boolean {
    if (this.#codes[this.#at] !== code) return false
    this.#at += 1
    return true
  }
}

const digit: Test = code => code >= 48 && code <= 57
const word: Test = code => digit(code) || (code >= 65 && code <= 90) || (code >= 97 && code <= 122) || code === 95
const space: Test = code => code === 32 || (code >= 9 && code <= 13) || code === 160 || code === 0xfeff
const CLASSES: Readonly<Record<string, Test>> = { d: digit, w: word, s: space, D: code => !digit(code), W: code => !word(code), S: code => !space(code) }

function same(code: string): Test {
  const wanted = code.codePointAt(0)!
  return given => given === wanted
}

/** Lays pieces out as states, last first, so that each knows where it leads. State 0 is the match. */
function assemble(piece: Piece): { readonly states: readonly State[]; readonly first: number } {
  const states: State[] = [{ kind: 'match' }]
  const add = (state: State): number => {
    if (states.length >= STATES) throw new PatternRefused(`needs more than ${STATES} states; shorten its repetitions`)
    return states.push(state) - 1
  }
  const lay = (part: Piece, next: number): number => {
    switch (part.kind) {
      case 'char': return add({ kind: 'char', test: part.test, next })
      case 'start': case 'end': return add({ kind: part.kind, next })
      case 'empty': return next
      case 'all': return part.parts.reduceRight((after, inner) => lay(inner, after), next)
      case 'one': return part.parts.map(inner => lay(inner, next)).reduceRight((other, first) => add({ kind: 'split', next: first, other }))
      case 'times': {
        let after = next
        if (part.high === Infinity) {
          const loop = { kind: 'split' as const, next: 0, other: next }
          after = add(loop)
          loop.next = lay(part.part, after)
        } else for (let optional = part.low; optional < part.high; optional += 1) after = add({ kind: 'split', next: lay(part.part, after), other: next })
        for (let wanted = 0; wanted < part.low; wanted += 1) after = lay(part.part, after)
        return after
      }
    }
  }
  return { first: lay(piece, 0), states }
}

function run({ states, first }: { readonly states: readonly State[]; readonly first: number }, text: string): boolean | undefined {
  const seen = new Int32Array(states.length).fill(-1)
  let steps = 0
  let current: number[] = []
  for (let position = 0; position <= text.length; ) {
    // A match may begin anywhere.
    const open = [...current, first]
    const waiting: { readonly test: Test; readonly next: number }[] = []
    for (let at = open.pop(); at !== undefined; at = open.pop()) {
      if (seen[at] === position) continue
      seen[at] = position
      steps += 1
      const state = states[at]!
      if (state.kind === 'match') return true
      if (state.kind === 'char') waiting.push(state)
      else if (state.kind === 'split') open.push(state.next, state.other)
      else if (state.kind === 'start' ? position === 0 : position === text.length) open.push(state.next)
    }
    if (steps > STEPS) return undefined
    const code = text.codePointAt(position)
    if (code === undefined) return false
    current = waiting.filter(state => state.test(code)).map(state => state.next)
    position += code > 0xffff ? 2 : 1
  }
  return false
}
