import { print, printFloat, represent } from './printing.ts'
import { asNumber, Float, isDict, TemplateFault, Tuple, typeName, type Arguments, type Value } from './values.ts'
import { repeated } from './work.ts'

const PLACE = /%(?:\(([^)]*)\))?([-+ #0]*)(\*|\d+)?(?:\.(\*|\d+))?[hlL]?([^])?/g

/** Python's `text % values`. Throws where they do not fit, and for signs that no prompt should need. */
export function printf(text: string, values: Value): string {
  const list = values instanceof Tuple ? values.items : [values]
  let used = 0
  const made = text.replaceAll(PLACE, (all, name?: string, flags = '', width?: string, precision?: string, sign = '') => {
    if (sign === '%' && all === '%%') return '%'
    if (width === '*' || precision === '*' || flags.includes('#')) throw new TemplateFault(`the format ${all} is not known here`)
    let value: Value | undefined
    if (name === undefined) value = list[used++]
    else if (isDict(values)) value = values.get(name)
    else throw new TemplateFault('format requires a mapping')
    if (value === undefined) throw new TemplateFault(name === undefined ? 'not enough arguments for format string' : `format: no value for '${name}'`)
    return padded(signed(one(sign, value, precision === undefined ? undefined : Number(precision), all), 'sra'.includes(sign) ? '' : flags), Number(width ?? 0), flags, !'srac'.includes(sign))
  })
  if (used < list.length && !(isDict(values) || (used === 0 && !(values instanceof Tuple) && typeof values === 'object' && values !== null && !(values instanceof Float)))) throw new TemplateFault('not all arguments converted during string formatting')
  return made
}

function one(sign: string, value: Value, precision: number | undefined, all: string): string {
  if (sign === 's' || sign === 'r') return [...(sign === 's' ? print(value) : represent(value))].slice(0, precision).join('')
  if (sign === 'c' && typeof value === 'string') return value
  const number = asNumber(value)
  if (number === undefined) throw new TemplateFault(`%${sign} format: a number is required, not ${typeName(value)}`)
  switch (sign) {
    case 'd': case 'i': case 'u': return whole(Math.trunc(number), 10, precision)
    case 'x': return whole(number, 16, precision)
    case 'X': return whole(number, 16, precision).toUpperCase()
    case 'o': return whole(number, 8, precision)
    case 'c': return String.fromCodePoint(number)
    case 'f': case 'F': return Number.isFinite(number) ? fixed(number, precision ?? 6) : printFloat(number)
    case 'e': return number.toExponential(precision ?? 6).replace(/e([-+])(\d)$/, 'e$10$2')
    default: throw new TemplateFault(`the format ${all} is not known here`)
  }
}

function whole(number: number, base: number, precision = 0): string {
  const digits = Math.abs(number).toString(base)
  return (number < 0 ? '-' : '') + repeated('0', precision - digits.length) + digits
}

/** A float with so many digits after the point; ties, where the float is exactly between, go to the even digit. */
export function fixed(value: number, digits: number): string {
  const exact = Math.abs(value).toFixed(Math.min(100, digits + 40))
  const end = exact.indexOf('.') + (digits === 0 ? 0 : 1 + digits)
  const lower = exact.slice(0, end)
  const tie = /^\.?50*$/.test(exact.slice(end)) && '02468'.includes(lower.at(-1) ?? '')
  return tie ? (value < 0 ? '-' : '') + lower : value.toFixed(digits)
}

function signed(text: string, flags: string): string {
  if (text.startsWith('-')) return text
  return flags.includes('+') ? `+${text}` : flags.includes(' ') ? ` ${text}` : text
}

function padded(text: string, width: number, flags: string, number: boolean): string {
  const missing = Math.max(0, width - [...text].length)
  if (flags.includes('-')) return text + repeated(' ', missing)
  if (!flags.includes('0') || !number) return repeated(' ', missing) + text
  const sign = /^[-+ ]?/.exec(text)?.[0] ?? ''
  return sign + repeated('0', missing) + text.slice(sign.length)
}

/** `'{} {name}'.format(…)`; without format specifications, which no prompt should need. */
export function braces(text: string, { list, named }: Arguments): string {
  let next = 0
  return text.replaceAll(/\{\{|\}\}|\{([^{}]*)\}|[{}]/g, (all, inside?: string) => {
    if (inside === undefined) {
      if (all.length === 2) return all.slice(1)
      throw new TemplateFault(`single '${all}' encountered in format string`)
    }
    const [, name = '', conversion] = /^([^!:.[\]]*)(![rs])?$/.exec(inside) ?? []
    if (!/^[^!:.[\]]*(?:![rs])?$/.test(inside)) throw new TemplateFault(`the format {${inside}} is not known here`)
    const value = name === '' ? list[next++] : /^\d+$/.test(name) ? list[Number(name)] : named.get(name)
    if (value === undefined) throw new TemplateFault(`format: no value for {${inside}}`)
    return conversion === '!r' ? represent(value) : print(value)
  })
}
