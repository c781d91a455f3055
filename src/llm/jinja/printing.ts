import { Float, isDict, isList, Markup, Missing, Range, TemplateFault, Thing, Tuple, typeName, View, type Value } from './values.ts'

/** `str()`, as templates print values. */
export function print(value: Value): string {
  if (typeof value === 'string') return value
  if (value instanceof Missing) return ''
  return value instanceof Markup ? value.text : represent(value)
}

/** `repr()`. Throws for what prints an address of Python's memory. */
export function represent(value: Value): string {
  if (value === null) return 'None'
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  if (typeof value === 'number') return String(value)
  if (typeof value === 'string') return quoted(value)
  if (value instanceof Float) return printFloat(value.value)
  if (value instanceof Missing) return 'Undefined'
  if (value instanceof Tuple) return value.items.length === 1 ? `(${value.items.map(represent).join('')},)` : `(${value.items.map(represent).join(', ')})`
  if (value instanceof View) return `${value.kind}([${value.items.map(represent).join(', ')}])`
  if (value instanceof Range) return value.text
  if (value instanceof Markup) return `Markup(${quoted(value.text)})`
  if (isList(value)) return `[${value.map(represent).join(', ')}]`
  if (isDict(value)) return `{${[...value].map(([key, item]) => `${represent(key)}: ${represent(item)}`).join(', ')}}`
  if (value instanceof Thing && value.kind === 'Namespace') return `<Namespace ${represent(new Map(value.fields))}>`
  throw new TemplateFault(`a ${typeName(value)} cannot be printed: it has no text of its own`)
}

/** Python's shortest form of a float: with an exponent below 1e-4 and from 1e16. */
export function printFloat(value: number): string {
  if (Number.isNaN(value)) return 'nan'
  if (!Number.isFinite(value)) return value < 0 ? '-inf' : 'inf'
  if (Object.is(value, -0)) return '-0.0'
  const [digits = '', power = '0'] = value.toExponential().split('e')
  const exponent = Number(power)
  if (exponent < -4 || exponent >= 16) return `${digits}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`
  const plain = exponent < 0 ? value.toFixed(Math.max(0, digits.replace(/[-.]/g, '').length - 1 - exponent)) : String(value)
  return plain.includes('.') ? plain : `${plain}.0`
}

const SHORT = new Map([['\n', '\\n'], ['\r', '\\r'], ['\t', '\\t'], ['\\', '\\\\']])

function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'"
  const escaped = text.replaceAll(/[\\\p{C}\p{Z}'"]/gu, sign => {
    if (sign === ' ' || ((sign === '"' || sign === "'") && sign !== quote)) return sign
    if (sign === quote) return `\\${sign}`
    const code = sign.codePointAt(0) ?? 0
    const hex = code.toString(16)
    return SHORT.get(sign) ?? (code < 0x100 ? `\\x${hex.padStart(2, '0')}` : code < 0x10000 ? `\\u${hex.padStart(4, '0')}` : `\\U${hex.padStart(8, '0')}`)
  })
  return quote + escaped + quote
}
