import { TEXT_METHODS } from './text-methods.ts'
import { asNumber, bind, Float, equal, isDict, isList, Markup, foundOr, Missing, Range, TemplateFault, Thing, Tuple, typeName, View, type Arguments, type Dict, type Value } from './values.ts'

/** What would change data that was handed in: transformers' sandbox refuses it. */
const CHANGING: Readonly<Record<'list' | 'dict', readonly string[]>> = {
  list: ['append', 'clear', 'extend', 'insert', 'pop', 'remove', 'reverse', 'sort'],
  dict: ['clear', 'pop', 'popitem', 'setdefault', 'update'],
}
/** Methods that Python has and that no prompt should need: refused when called, rather than taken for undefined. */
const NOT_HERE: readonly string[] = ['encode', 'expandtabs', 'format_map', 'isascii', 'isidentifier', 'isprintable', 'istitle', 'maketrans', 'translate', 'fromkeys', 'bit_length', 'bit_count', 'as_integer_ratio', 'conjugate', 'to_bytes', 'is_integer', 'hex']

const method = (name: string, call: (given: Arguments) => Value): Thing => new Thing('builtin_function_or_method', new Map([['__name__', name]]), call)

/** `of.name`: a method or field first, then an item, as Jinja looks. */
export function attribute(of: Value, name: string): Value {
  if (of instanceof Missing) return of.fail()
  return foundOr(own(of, name) ?? item(of, name), `'${typeName(of)} object' has no attribute '${name}', it`)
}

/** `of[at]`: an item first, then a method or field. */
export function subscript(of: Value, at: Value): Value {
  if (of instanceof Missing) return of.fail()
  const found = item(of, at)
  return foundOr(found === undefined && typeof at === 'string' ? own(of, at) : found, `'${typeName(of)} object' has no element ${typeof at === 'string' ? `'${at}'` : typeof at === 'number' ? at : typeName(at)}, it`)
}

function item(of: Value, at: Value): Value | undefined {
  if (of !== null && typeof of === 'object' && isDict(of)) {
    const key = at instanceof Float ? at.value : typeof at === 'boolean' && !of.has(at) ? Number(at) : at
    return of.get(key)
  }
  if (of instanceof Thing) return typeof at === 'string' && of.kind === 'Namespace' ? of.fields.get(at) : undefined
  const items: readonly Value[] | undefined = typeof of === 'string' ? [...of] : of instanceof Tuple || of instanceof Range ? of.items : isList(of) ? of : undefined
  const index = at instanceof Float ? undefined : asNumber(at)
  return index === undefined ? undefined : items?.at(index)
}

function own(of: Value, name: string): Value | undefined {
  if (of instanceof Thing) return of.kind === 'Namespace' ? undefined : of.fields.get(name)
  if (of instanceof View || of instanceof Range || of === null) return undefined
  if (name.startsWith('__')) return method(name, () => refuse(of, name))
  if (typeof of === 'string') {
    const call = TEXT_METHODS.get(name)
    if (call !== undefined) return method(name, given => call(of, given))
  } else if (of instanceof Markup) {
    if (TEXT_METHODS.has(name)) return method(name, () => refuse(of, name))
  } else if (of instanceof Tuple || isList(of)) {
    if (isList(of) && CHANGING.list.includes(name)) return method(name, () => refuse(of, name))
    const items = isList(of) ? of : of.items
    if (name === 'index') return method(name, given => indexOf(items, bind(given, name, 'value')[0] ?? null))
    if (name === 'count') return method(name, given => items.filter(each => equal(each, bind(given, name, 'value')[0] ?? null)).length)
    if (name === 'copy' && isList(of)) return method(name, () => of)
  } else if (isDict(of)) return dictMethod(of, name)
  return typeof of !== 'boolean' && NOT_HERE.includes(name) ? method(name, () => refuse(of, name)) : undefined
}

function dictMethod(of: Dict, name: string): Value | undefined {
  switch (name) {
    case 'items': return method(name, given => (bind(given, name), new View('dict_items', [...of].map(pair => new Tuple(pair)))))
    case 'keys': return method(name, given => (bind(given, name), new View('dict_keys', [...of.keys()])))
    case 'values': return method(name, given => (bind(given, name), new View('dict_values', [...of.values()])))
    case 'copy': return method(name, () => of)
    case 'get': return method(name, given => {
      const [key = null, otherwise = null] = bind(given, name, 'key', 'default')
      const found = of.get(key)
      return found === undefined ? otherwise : found
    })
    default: return CHANGING.dict.includes(name) || name === 'fromkeys' ? method(name, () => refuse(of, name)) : undefined
  }
}

function indexOf(items: readonly Value[], value: Value): number {
  const at = items.findIndex(each => equal(each, value))
  if (at < 0) throw new TemplateFault('the value is not in the list')
  return at
}

function refuse(of: Value, name: string): never {
  throw new TemplateFault(`'${name}' of a ${typeName(of)} may not be used here`)
}
