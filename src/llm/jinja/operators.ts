import { printf } from './text-format.ts'
import { asNumber, contains, equal, Float, isDict, isList, less, Markup, Missing, Range, TemplateFault, Tuple, typeName, type Value } from './values.ts'
import { repeated, several } from './work.ts'

/** `+`, `-`, `*`, `/`, `//`, `%`, `**` as Python has them. Throws where the types do not go together. */
export function math(sign: string, left: Value, right: Value): Value {
  if (left instanceof Missing) return left.fail()
  if (sign === '%' && typeof left === 'string') return printf(left, right)
  if (right instanceof Missing) return right.fail()
  const [a, b] = [asNumber(left), asNumber(right)]
  if (a !== undefined && b !== undefined) return arithmetic(sign, a, b, left instanceof Float || right instanceof Float)
  if (sign === '+') {
    if (left instanceof Markup || right instanceof Markup) return joined([left, right], sign)
    if (typeof left === 'string' && typeof right === 'string') return left + right
    if (isList(left) && isList(right)) return [...left, ...right]
    if (left instanceof Tuple && right instanceof Tuple) return new Tuple([...left.items, ...right.items])
    if (typeof left === 'string') throw new TemplateFault(`can only concatenate str (not "${typeName(right)}") to str`)
  }
  if (sign === '*') {
    if (b !== undefined && !(right instanceof Float)) return severalOf(left, b)
    if (a !== undefined && !(left instanceof Float)) return severalOf(right, a)
  }
  throw new TemplateFault(`unsupported operand types for ${sign}: '${typeName(left)}' and '${typeName(right)}'`)
}

function joined(parts: readonly Value[], sign: string): Value {
  return new Markup(parts.map(part => {
    if (part instanceof Markup) return part.text
    if (typeof part === 'string') return escapeMarkup(part)
    throw new TemplateFault(`unsupported operand types for ${sign}: 'Markup' and '${typeName(part)}'`)
  }).join(''))
}

export function escapeMarkup(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('>', '&gt;').replaceAll('<', '&lt;').replaceAll("'", '&#39;').replaceAll('"', '&#34;')
}

function severalOf(value: Value, times: number): Value {
  if (typeof value === 'string') return repeated(value, times)
  const items = isList(value) ? value : value instanceof Tuple ? value.items : undefined
  if (items !== undefined) return value instanceof Tuple ? new Tuple(several(items, times)) : several(items, times)
  throw new TemplateFault(`unsupported operand types for *: '${typeName(value)}' and 'int'`)
}

function arithmetic(sign: string, a: number, b: number, float: boolean): Value {
  const made = (value: number): Value => {
    if (float) return new Float(value)
    if (!Number.isSafeInteger(value)) throw new TemplateFault(`the result of ${a} ${sign} ${b} is too large a number`)
    return value + 0
  }
  if (b === 0 && ['/', '//', '%'].includes(sign)) throw new TemplateFault('division by zero')
  switch (sign) {
    case '+': return made(a + b)
    case '-': return made(a - b)
    case '*': return made(a * b)
    case '/': return new Float(a / b)
    case '//': return made(Math.floor(a / b))
    case '%': return made(a - b * Math.floor(a / b))
    case '**': return float || b < 0 ? new Float(a ** b) : made(a ** b)
    default: throw new TemplateFault(`the sign ${sign} is not known`)
  }
}

/** Comparisons and `in`. */
export function compare(sign: string, left: Value, right: Value): boolean {
  switch (sign) {
    case '==': return equal(left, right)
    case '!=': return !equal(left, right)
    case '<': return less(left, right)
    case '>': return less(right, left, '>')
    case '<=': return !lessOrNan(right, left, '<=')
    case '>=': return !lessOrNan(left, right, '>=')
    case 'in': return contains(right, left)
    default: return !contains(right, left)
  }
}

function lessOrNan(left: Value, right: Value, sign: string): boolean {
  return Number.isNaN(asNumber(left)) || Number.isNaN(asNumber(right)) || less(left, right, sign)
}

/** `value[from:to:step]`. Throws where the value has no slices. */
export function slice(value: Value, from: Value, to: Value, step: Value): Value {
  if (value instanceof Missing) return value.fail()
  const items: readonly Value[] | undefined = typeof value === 'string' ? [...value] : value instanceof Tuple || value instanceof Range ? value.items : isList(value) ? value : undefined
  const whole = (given: Value): boolean => given === null || typeof given === 'number' || typeof given === 'boolean'
  if (items === undefined || isDict(value) || ![from, to, step].every(whole)) throw new TemplateFault(`'${typeName(value)}' object has no such slices`)
  const by = step === null ? 1 : asNumber(step) ?? 1
  if (by === 0) throw new TemplateFault('slice step cannot be zero')
  const [lowest, highest] = by > 0 ? [0, items.length] : [-1, items.length - 1]
  const bound = (given: Value, otherwise: number): number => {
    const at = given === null ? undefined : asNumber(given)
    return at === undefined ? otherwise : Math.min(highest, Math.max(lowest, at < 0 ? at + items.length : at))
  }
  const [start, end] = [bound(from, by > 0 ? lowest : highest), bound(to, by > 0 ? highest : lowest)]
  const taken: Value[] = []
  for (let at = start; by > 0 ? at < end : at > end; at += by) taken.push(items[at] ?? null)
  return typeof value === 'string' ? taken.join('') : value instanceof Tuple ? new Tuple(taken) : taken
}
