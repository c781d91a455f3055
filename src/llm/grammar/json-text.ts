import type { Json } from '../../../protocols/ids.ts'
import { ANY, character, common, except, type CodeRange } from './characters.ts'
import { all, bytes, literal, many, one, optional, rule, times, type Expression } from './expression.ts'

/** White space between JSON's signs: at most a line break and an indent, so that a model cannot go on with it for ever. */
const INDENT = 40
export const SPACE: Expression = optional(one(literal(' '), all(literal('\n'), times(bytes([0x20, 0x20], [0x09, 0x09]), 0, INDENT))))

const QUOTE = 0x22
const BACKSLASH = 0x5c
const CONTROLS: CodeRange = [0, 0x1f]
const MUST_ESCAPE: readonly CodeRange[] = [[QUOTE, QUOTE], [BACKSLASH, BACKSLASH], CONTROLS]
const HEX = bytes([0x30, 0x39], [0x41, 0x46], [0x61, 0x66])
const HEX_D = bytes([0x44, 0x44], [0x64, 0x64])

/** Any character of a string, as JSON may write it; `\uD8xx` only with its other half. */
const CHARACTER: Expression = one(
  character(except(ANY, MUST_ESCAPE)),
  all(bytes([BACKSLASH, BACKSLASH]), one(
    bytes(...[...'"\\/bfnrt'].map(sign => [sign.charCodeAt(0), sign.charCodeAt(0)] as const)),
    all(literal('u'), one(
      all(bytes([0x30, 0x39], [0x41, 0x43], [0x45, 0x46], [0x61, 0x63], [0x65, 0x66]), HEX, HEX, HEX),
      all(HEX_D, bytes([0x30, 0x37]), HEX, HEX),
      all(HEX_D, bytes([0x38, 0x39], [0x41, 0x42], [0x61, 0x62]), HEX, HEX, literal('\\u'), HEX_D, bytes([0x43, 0x46], [0x63, 0x66]), HEX, HEX),
    )),
  )),
)

/** A string of `low` to `high` characters. */
export function stringOf(low: number, high: number): Expression {
  return rule(() => all(literal('"'), times(CHARACTER, low, high), literal('"')))
}

export const STRING = stringOf(0, Infinity)

/** One character out of `ranges` inside a JSON string, written in the one way that JSON.stringify would. */
export function stringCharacter(ranges: readonly CodeRange[]): Expression {
  const escaped = MUST_ESCAPE.flatMap(range => common(ranges, [range])).flatMap(([low, high]) => Array.from({ length: high - low + 1 }, (_, at) => low + at))
  return one(character(except(ranges, MUST_ESCAPE)), ...escaped.map(code => literal(JSON.stringify(String.fromCodePoint(code)).slice(1, -1))))
}

/** A value as JSON.stringify writes it. */
export function value(json: Json): Expression {
  return literal(JSON.stringify(json))
}

/** Any string but `names`, for the keys of an object that has those already. Written in one way only, so that none slips in escaped. */
export function otherKey(names: readonly string[]): Expression {
  const rest = many(stringCharacter(ANY))
  const branch = (endings: readonly (readonly string[])[]): Expression => {
    const heads = [...new Set(endings.flatMap(([head]) => head ?? []))]
    const ended = endings.some(ending => ending.length === 0)
    const other = all(stringCharacter(except(ANY, heads.map(head => [head.codePointAt(0)!, head.codePointAt(0)!] as const))), rest, literal('"'))
    const deeper = heads.map(head => all(stringCharacter([[head.codePointAt(0)!, head.codePointAt(0)!]]), branch(endings.filter(ending => ending[0] === head).map(ending => ending.slice(1)))))
    return one(...(ended ? [] : [literal('"')]), other, ...deeper)
  }
  return rule(() => all(literal('"'), branch(names.map(name => [...name]))))
}

const DIGIT = bytes([0x30, 0x39])
export const INTEGER: Expression = rule(() => all(optional(literal('-')), one(literal('0'), all(bytes([0x31, 0x39]), times(DIGIT, 0, 20)))))
/** All that JSON.stringify writes, but for exponents of three digits: digits without end would be one more way never to finish. */
export const NUMBER: Expression = rule(() => all(
  optional(literal('-')), one(literal('0'), all(bytes([0x31, 0x39]), times(DIGIT, 0, 20))),
  optional(all(literal('.'), times(DIGIT, 1, 24))), optional(all(bytes([0x65, 0x65], [0x45, 0x45]), optional(bytes([0x2b, 0x2b], [0x2d, 0x2d])), times(DIGIT, 1, 2))),
))
export const BOOLEAN: Expression = one(literal('true'), literal('false'))
export const NULL: Expression = literal('null')

/** `first`, then `more` any number of times, between brackets; and the brackets alone. */
export function listed(open: string, item: Expression, close: string): Expression {
  return all(literal(open), SPACE, one(literal(close), all(item, many(all(SPACE, literal(','), SPACE, item)), SPACE, literal(close))))
}

export const COLON: Expression = all(SPACE, literal(':'), SPACE)
export const COMMA: Expression = all(SPACE, literal(','), SPACE)

export const OBJECT: Expression = rule(() => listed('{', all(STRING, COLON, VALUE), '}'))
export const ARRAY: Expression = rule(() => listed('[', VALUE, ']'))
/** Any JSON value. */
export const VALUE: Expression = rule(() => one(OBJECT, ARRAY, STRING, NUMBER, BOOLEAN, NULL))
