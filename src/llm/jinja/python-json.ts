import { printFloat } from './printing.ts'
import { asNumber, bind, Float, isDict, isList, less, TemplateFault, truth, Tuple, typeName, type Arguments, type Value } from './values.ts'
import { repeated } from './work.ts'

type Form = { readonly ascii: boolean; readonly indent: string | undefined; readonly comma: string; readonly colon: string; readonly sorted: boolean }

/** The filter `tojson` as Hugging Face's transformers has it: `json.dumps`, non-ASCII as it is. Throws for what is no data. */
export function toJsonText(value: Value, given: Arguments): string {
  const [ascii = false, indent = null, separators = null, sorted = false] = bind(given, 'tojson', 'ensure_ascii', 'indent', 'separators', 'sort_keys')
  const width = indent === null ? undefined : typeof indent === 'string' ? indent : repeated(' ', asNumber(indent) ?? 0)
  const pair = separators instanceof Tuple ? separators.items : isList(separators) ? separators : [width === undefined ? ', ' : ',', ': ']
  const [comma, colon] = pair
  if (typeof comma !== 'string' || typeof colon !== 'string' || pair.length !== 2) throw new TemplateFault('tojson: separators must be two texts')
  return written(value, { ascii: truth(ascii), indent: width, comma, colon, sorted: truth(sorted) }, '\n')
}

function written(value: Value, form: Form, line: string): string {
  if (value === null) return 'null'
  if (typeof value === 'boolean' || typeof value === 'number') return String(value)
  if (value instanceof Float) return jsonFloat(value.value)
  if (typeof value === 'string') return jsonString(value, form.ascii)
  const inner = form.indent === undefined ? line : line + form.indent
  const around = (open: string, parts: readonly string[], close: string): string => {
    if (parts.length === 0) return open + close
    return form.indent === undefined ? open + parts.join(form.comma) + close : open + inner + parts.join(form.comma + inner) + line + close
  }
  if (value instanceof Tuple || isList(value)) return around('[', (isList(value) ? value : value.items).map(item => written(item, form, inner)), ']')
  if (!isDict(value)) throw new TemplateFault(`Object of type ${typeName(value)} is not JSON serializable`)
  const pairs = form.sorted ? [...value].sort(([a], [b]) => (less(a, b) ? -1 : Number(less(b, a)))) : [...value]
  return around('{', pairs.map(([key, item]) => jsonString(keyText(key), form.ascii) + form.colon + written(item, form, inner)), '}')
}

function keyText(key: Value): string {
  if (typeof key === 'string') return key
  if (key === null || typeof key === 'boolean' || typeof key === 'number') return String(key)
  if (key instanceof Float) return jsonFloat(key.value)
  throw new TemplateFault(`keys must be str, int, float, bool or None, not ${typeName(key)}`)
}

function jsonFloat(value: number): string {
  return Number.isFinite(value) ? printFloat(value) : Number.isNaN(value) ? 'NaN' : value < 0 ? '-Infinity' : 'Infinity'
}

/** JSON.stringify writes half of a surrogate pair as an escape, Python as it is. */
function jsonString(text: string, ascii: boolean): string {
  const unit = (sign: string): string => `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`
  // oxlint-disable-next-line no-control-regex
  const plain = `"${text.replaceAll(/["\\\u0000-\u001f]/g, sign => JSON.stringify(sign).slice(1, -1))}"`
  return ascii ? plain.replaceAll(/[^ -~]/g, unit) : plain
}
