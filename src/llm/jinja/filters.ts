import { attribute, subscript } from './members.ts'
import { escapeMarkup, math } from './operators.ts'
import { print } from './printing.ts'
import { toJsonText } from './python-json.ts'
import { TESTS } from './tests.ts'
import { fixed, printf } from './text-format.ts'
import { capitalize, lines, replaceText, strip, TEXT_METHODS } from './text-methods.ts'
import { asNumber, bind, equal, Float, foundOr, isDict, itemsOf, lengthOf, less, Markup, Missing, Once, TemplateFault, Thing, truth, Tuple, typeName, View, type Arguments, type Value } from './values.ts'
import { repeated, several } from './work.ts'

export type Filter = (value: Value, given: Arguments) => Value

/** By a path of fields and indices, as filters name attributes. */
function pathOf(path: Value | undefined, fold: boolean, otherwise?: Value): (value: Value) => Value {
  const steps = path === undefined || path === null ? [] : String(print(path)).split('.')
  return value => {
    let found = value
    for (const step of steps) {
      found = subscript(found, /^\d+$/.test(step) ? Number(step) : step)
      if (found instanceof Missing && otherwise !== undefined) found = otherwise
    }
    return fold && typeof found === 'string' ? found.toLowerCase() : found
  }
}

/** Items in order of what `key` makes of them; those alike stay as they were. */
function sorted(items: readonly Value[], key: (value: Value) => Value, reverse: boolean): readonly Value[] {
  const keyed = items.map(value => ({ value, key: key(value) }))
  return keyed.sort((a, b) => (less(a.key, b.key) ? -1 : Number(less(b.key, a.key))) * (reverse ? -1 : 1)).map(({ value }) => value)
}

function sort(value: Value, given: Arguments): Value {
  const [reverse = false, sensitive = false, path] = bind(given, 'sort', 'reverse', 'case_sensitive', 'attribute')
  const paths = typeof path === 'string' && path.includes(',') ? path.split(',') : undefined
  const key = paths === undefined ? pathOf(path, !truth(sensitive)) : (each: Value): Value => paths.map(one => pathOf(one, !truth(sensitive))(each))
  return sorted(itemsOf(value), key, truth(reverse))
}

function dictsort(value: Value, given: Arguments): Value {
  const [sensitive = false, by = 'key', reverse = false] = bind(given, 'dictsort', 'case_sensitive', 'by', 'reverse')
  const pairs = pairsOf(value)
  const key = pathOf(by === 'value' ? 1 : 0, !truth(sensitive))
  return sorted(pairs, key, truth(reverse))
}

function pairsOf(value: Value): readonly Value[] {
  if (value instanceof Missing) return []
  if (value === null || typeof value !== 'object' || !isDict(value)) throw new TemplateFault('can only get item pairs from a mapping')
  return [...value].map(pair => new Tuple(pair))
}

function extreme(name: 'min' | 'max'): Filter {
  return (value, given) => {
    const [sensitive = false, path] = bind(given, name, 'case_sensitive', 'attribute')
    const key = pathOf(path, !truth(sensitive))
    return itemsOf(value).reduce<Value | undefined>((best, each) => (best === undefined || (name === 'min' ? less(key(each), key(best)) : less(key(best), key(each))) ? each : best), undefined) ?? new Missing(`the ${name} of nothing`)
  }
}

/** Jinja goes through nothing that is false, whatever it is. */
function unlessFalse(value: Value): readonly Value[] {
  return truth(value) ? itemsOf(value) : []
}

function mapped(value: Value, given: Arguments): Value {
  const [name, ...list] = given.list
  if (name === undefined) {
    const [path, otherwise] = bind(given, 'map', 'attribute', 'default')
    if (path === undefined) throw new TemplateFault('map wants a filter or an attribute')
    return new Once(() => unlessFalse(value).map(pathOf(path, false, otherwise)))
  }
  const filter = typeof name === 'string' ? FILTERS.get(name) : undefined
  if (filter === undefined) throw new TemplateFault(`the filter '${print(name)}' is not known here`)
  return new Once(() => unlessFalse(value).map(each => filter(each, { list, named: given.named })))
}

function chosen(wanted: boolean, byAttribute: boolean): Filter {
  return (value, { list }) => {
    const path = byAttribute ? list[0] : undefined
    if (byAttribute && path === undefined) throw new TemplateFault('the filter wants the name of an attribute')
    const [name, ...rest] = byAttribute ? list.slice(1) : list
    const test = name === undefined ? truth : typeof name === 'string' ? TESTS.get(name) : undefined
    if (test === undefined) throw new TemplateFault(`the test '${print(name ?? null)}' is not known here`)
    const of = pathOf(path, false)
    return new Once(() => unlessFalse(value).filter(each => test(of(each), rest) === wanted))
  }
}

function unique(value: Value, given: Arguments): Value {
  const [sensitive = false, path] = bind(given, 'unique', 'case_sensitive', 'attribute')
  const key = pathOf(path, !truth(sensitive))
  const seen: Value[] = []
  return new Once(() => itemsOf(value).filter(each => {
    const is = key(each)
    const fresh = !seen.some(other => equal(other, is))
    if (fresh) seen.push(is)
    return fresh
  }))
}

function indent(value: Value, given: Arguments): Value {
  const [width = 4, first = false, blank = false] = bind(given, 'indent', 'width', 'first', 'blank')
  if (typeof value !== 'string') throw new TemplateFault(`indent wants a text, not ${typeName(value)}`)
  const by = typeof width === 'string' ? width : repeated(' ', asNumber(width) ?? 0)
  const [start = '', ...rest] = lines(`${value}\n`)
  return (truth(first) ? by : '') + [start, ...rest.map(line => (line !== '' || truth(blank) ? by + line : line))].join('\n')
}

function toInteger(value: Value, given: Arguments): Value {
  const [otherwise = 0, base = 10] = bind(given, 'int', 'default', 'base')
  if (value instanceof Missing) return value.fail()
  if (typeof value === 'string') {
    const text = strip(value, undefined).replaceAll('_', '')
    if (base === 10 && /^[-+]?\d+$/.test(text)) return Number(text)
    if (typeof base === 'number' && base !== 10) return Number.isNaN(Number.parseInt(text, base)) ? otherwise : Number.parseInt(text.replace(/^0[xob]/i, ''), base)
    const float = toFloat(text)
    return float === undefined || !Number.isFinite(float) ? otherwise : Math.trunc(float)
  }
  const number = asNumber(value)
  return number === undefined || !Number.isFinite(number) ? otherwise : Math.trunc(number)
}

function toFloat(text: string): number | undefined {
  return /^[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?$/i.test(text) ? Number(text) : undefined
}

function round(value: Value, given: Arguments): Value {
  const [digits = 0, how = 'common'] = bind(given, 'round', 'precision', 'method')
  const [number, places] = [asNumber(value), asNumber(digits) ?? 0]
  if (number === undefined) throw new TemplateFault(`round wants a number, not ${typeName(value)}`)
  if (how === 'common') return value instanceof Float ? new Float(Number(places < 0 ? Math.round(number * 10 ** places) / 10 ** places : fixed(number, places))) : number
  if (how !== 'ceil' && how !== 'floor') throw new TemplateFault('round: method must be common, ceil or floor')
  return new Float((how === 'ceil' ? Math.ceil : Math.floor)(number * 10 ** places) / 10 ** places)
}

function batches(value: Value, given: Arguments): Value {
  const [size = 1, fill] = bind(given, 'batch', 'linecount', 'fill_with')
  const count = Math.max(1, asNumber(size) ?? 1)
  return new Once(() => {
    const items = itemsOf(value)
    return Array.from({ length: Math.ceil(items.length / count) }, (_, at): Value => {
      const batch = items.slice(at * count, (at + 1) * count)
      return fill === undefined || fill === null ? batch : [...batch, ...several([fill], count - batch.length)]
    })
  })
}

function reversed(value: Value): Value {
  if (typeof value === 'string') return [...value].reverse().join('')
  if (value instanceof Once) return [...itemsOf(value)].reverse()
  const items = [...itemsOf(value)].reverse()
  return new Once(() => items)
}

function last(value: Value): Value {
  if (value instanceof Once) throw new TemplateFault(`'generator' object is not reversible`)
  return foundOr(itemsOf(value).at(-1), 'the last item of nothing')
}

const text = (change: (text: string) => Value): Filter => (value, given) => (bind(given, 'the filter'), change(print(value)))
const plain = (change: (value: Value) => Value): Filter => (value, given) => (bind(given, 'the filter'), change(value))
const otherwise: Filter = (value, given) => {
  const [instead = '', also = false] = bind(given, 'default', 'default_value', 'boolean')
  return value instanceof Missing || (truth(also) && !truth(value)) ? instead : value
}

/** What may stand after `|`; others are refused when the template is read. */
export const FILTERS: ReadonlyMap<string, Filter> = new Map<string, Filter>([
  ['tojson', toJsonText],
  ['trim', (value, given) => strip(print(value), bind(given, 'trim', 'chars')[0])],
  ['upper', text(value => value.toUpperCase())],
  ['lower', text(value => value.toLowerCase())],
  ['capitalize', text(capitalize)],
  ['title', text(value => value.split(/([-\s({[<]+)/u).map(capitalize).join(''))],
  ['wordcount', text(value => value.match(/[\p{L}\p{N}_]+/gu)?.length ?? 0)],
  ['replace', (value, given) => {
    const [old = null, by = null, most = null] = bind(given, 'replace', 'old', 'new', 'count')
    return replaceText(print(value), print(old), print(by), most === null ? -1 : asNumber(most) ?? -1)
  }],
  ['center', (value, { list, named }) => TEXT_METHODS.get('center')?.(print(value), { list: list.length === 0 && named.size === 0 ? [80] : list, named }) ?? null],
  ['indent', indent],
  ['format', (value, { list, named }) => printf(print(value), named.size > 0 ? new Map(named) : new Tuple(list))],
  ['string', plain(value => (value instanceof Markup ? value : print(value)))],
  ['safe', plain(value => new Markup(print(value)))],
  ...['escape', 'e'].map((name): [string, Filter] => [name, plain(value => (value instanceof Markup ? value : new Markup(escapeMarkup(print(value)))))]),
  ...['default', 'd'].map((name): [string, Filter] => [name, otherwise]),
  ...['length', 'count'].map((name): [string, Filter] => [name, plain(lengthOf)]),
  ['list', plain(value => itemsOf(value))],
  ['first', plain(value => foundOr(value instanceof Once ? value.next() : itemsOf(value)[0], 'the first item of nothing'))],
  ['last', plain(last)],
  ['reverse', plain(reversed)],
  ['join', (value, given) => {
    const [between = '', path] = bind(given, 'join', 'd', 'attribute')
    return itemsOf(value).map(each => print(pathOf(path, false)(each))).join(print(between))
  }],
  ['sum', (value, given) => {
    const [path, start = 0] = bind(given, 'sum', 'attribute', 'start')
    return itemsOf(value).map(pathOf(path, false)).reduce<Value>((sum, each) => math('+', sum, each), start)
  }],
  ['abs', plain(value => (value instanceof Float ? new Float(Math.abs(value.value)) : Math.abs(asNumber(value) ?? notNumber(value))))],
  ['int', toInteger],
  ['float', (value, given) => {
    const [instead = new Float(0)] = bind(given, 'float', 'default')
    const number = typeof value === 'string' ? toFloat(strip(value, undefined)) : value instanceof Missing ? value.fail() : asNumber(value)
    return number === undefined ? instead : new Float(number)
  }],
  ['round', round],
  ['min', extreme('min')],
  ['max', extreme('max')],
  ['sort', sort],
  ['dictsort', dictsort],
  ['items', plain(value => new Once(() => pairsOf(value)))],
  ['unique', unique],
  ['map', mapped],
  ['select', chosen(true, false)],
  ['reject', chosen(false, false)],
  ['selectattr', chosen(true, true)],
  ['rejectattr', chosen(false, true)],
  ['batch', batches],
  ['attr', (value, given) => {
    const name = print(bind(given, 'attr', 'name')[0] ?? null)
    const found = attribute(value, name)
    return found instanceof Thing || value instanceof Thing || value instanceof View ? found : new Missing(`the attribute '${name}'`)
  }],
])

function notNumber(value: Value): never {
  throw new TemplateFault(`bad operand type for abs(): '${typeName(value)}'`)
}
