import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject } from '../../lib/json.ts'

/** What a template, or Python under it, would refuse: the message is for whoever wrote the conversation or the template. */
export class TemplateFault extends Error {}

/** Python tells 1.0 from 1: numbers are integers, floats are of this class. */
export class Float {
  readonly value: number
  constructor(value: number) {
    this.value = value
  }
}

/** Jinja's undefined: prints nothing, is false and empty, and fails when anything is asked of it. */
export class Missing {
  readonly what: string
  constructor(what: string) {
    this.what = what
  }

  fail(): never {
    throw new TemplateFault(`${this.what} is undefined`)
  }
}

export class Tuple {
  readonly items: readonly Value[]
  constructor(items: readonly Value[]) {
    this.items = items
  }
}

/** What `keys()`, `values()` and `items()` of a dictionary give: can be gone through again and again, but not indexed. */
export class View {
  readonly kind: 'dict_keys' | 'dict_values' | 'dict_items'
  readonly items: readonly Value[]
  constructor(kind: View['kind'], items: readonly Value[]) {
    this.kind = kind
    this.items = items
  }
}

/** What `range()` gives: a list, but for how it is printed. */
export class Range {
  readonly items: readonly number[]
  readonly text: string
  constructor(items: readonly number[], text: string) {
    this.items = items
    this.text = text
  }
}

/** What was found, or what stands for what was not: None is found. */
export function foundOr(found: Value | undefined, what: string): Value {
  return found === undefined ? new Missing(what) : found
}

/** A generator: true, without a length, and empty once it was gone through. */
export class Once {
  #make: (() => readonly Value[]) | undefined
  #items: readonly Value[] = []
  /** What makes the items is asked when the first of them is. */
  constructor(make: () => readonly Value[]) {
    this.#make = make
  }

  rest(): readonly Value[] {
    const items = this.#make?.() ?? this.#items
    this.#make = undefined
    this.#items = []
    return items
  }

  next(): Value | undefined {
    const [first, ...rest] = this.rest()
    this.#items = rest
    return first
  }
}

/** Text marked as safe: what is joined to it is escaped. */
export class Markup {
  readonly text: string
  constructor(text: string) {
    this.text = text
  }
}

export type Arguments = { readonly list: readonly Value[]; readonly named: ReadonlyMap<string, Value> }
export type Call = (given: Arguments) => Value

/** A function, macro, namespace or loop: what has fields, may be called, and is no data. */
export class Thing {
  readonly kind: string
  readonly fields: Map<string, Value>
  readonly call: Call | undefined
  constructor(kind: string, fields: Map<string, Value>, call?: Call) {
    this.kind = kind
    this.fields = fields
    this.call = call
  }
}

export type Dict = ReadonlyMap<Value, Value>
export type Value = string | number | boolean | null | Float | Missing | Tuple | View | Range | Once | Markup | Thing | readonly Value[] | Dict

export const isList = (value: Value): value is readonly Value[] => Array.isArray(value)
export const isDict = (value: Value): value is Dict => value instanceof Map

export function fromJson(value: Json): Value {
  if (typeof value === 'number') return Number.isInteger(value) && Math.abs(value) < 1e21 ? value : new Float(value)
  if (Array.isArray(value)) return value.map(fromJson)
  if (isJsonObject(value)) return new Map(Object.entries(value).map(([key, inner]) => [key, fromJson(inner)]))
  return value === null || typeof value === 'string' || typeof value === 'boolean' ? value : null
}

/** Python's name for the type of a value. */
export function typeName(value: Value): string {
  if (value === null) return 'NoneType'
  if (typeof value === 'string') return 'str'
  if (typeof value === 'number') return 'int'
  if (typeof value === 'boolean') return 'bool'
  if (value instanceof Float) return 'float'
  if (value instanceof Missing) return 'Undefined'
  if (value instanceof Tuple) return 'tuple'
  if (value instanceof View) return value.kind
  if (value instanceof Range) return 'range'
  if (value instanceof Once) return 'generator'
  if (value instanceof Markup) return 'Markup'
  if (value instanceof Thing) return value.kind
  return isDict(value) ? 'dict' : 'list'
}

/** As a number; undefined where it is none. Booleans are numbers. */
export function asNumber(value: Value): number | undefined {
  if (value instanceof Float) return value.value
  return typeof value === 'number' ? value : typeof value === 'boolean' ? Number(value) : undefined
}

export function truth(value: Value): boolean {
  if (value instanceof Missing || value === null) return false
  if (value instanceof Once || value instanceof Thing) return true
  return asNumber(value) === undefined ? lengthOf(value) > 0 : asNumber(value) !== 0
}

/** `len()`: of text in code points. */
export function lengthOf(value: Value): number {
  if (typeof value === 'string') return [...value].length
  if (value instanceof Markup) return [...value.text].length
  if (value instanceof Missing) return 0
  if (value instanceof Tuple || value instanceof View || value instanceof Range) return value.items.length
  if (value !== null && typeof value === 'object' && isDict(value)) return value.size
  if (isList(value)) return value.length
  throw new TemplateFault(`object of type '${typeName(value)}' has no len()`)
}

export function canIterate(value: Value): boolean {
  return value !== null && !(value instanceof Thing) && asNumber(value) === undefined
}

/** `iter()`: the items of a list, the keys of a dictionary, the characters of a text. */
export function itemsOf(value: Value): readonly Value[] {
  if (typeof value === 'string') return [...value]
  if (value instanceof Markup) return [...value.text]
  if (value instanceof Missing) return []
  if (value instanceof Tuple || value instanceof View || value instanceof Range) return value.items
  if (value instanceof Once) return value.rest()
  if (isList(value)) return value
  if (isDict(value)) return [...value.keys()]
  throw new TemplateFault(`'${typeName(value)}' object is not iterable`)
}

/** `==` */
export function equal(left: Value, right: Value): boolean {
  const [a, b] = [asNumber(left), asNumber(right)]
  if (a !== undefined || b !== undefined) return a === b
  if (left instanceof Markup) return equal(left.text, right)
  if (right instanceof Markup) return equal(left, right.text)
  if (left instanceof Missing) return right instanceof Missing
  if (left instanceof Tuple) return right instanceof Tuple && equal(left.items, right.items)
  if (isList(left)) return isList(right) && left.length === right.length && left.every((item, at) => equal(item, right[at] ?? null))
  if (isDict(left)) return isDict(right) && left.size === right.size && [...left].every(([key, item]) => right.has(key) && equal(item, right.get(key) ?? null))
  return left === right
}

/** `<`. Throws where Python knows no order. */
export function less(left: Value, right: Value, sign = '<'): boolean {
  const [a, b] = [asNumber(left), asNumber(right)]
  if (a !== undefined && b !== undefined) return a < b
  if (left instanceof Missing) return left.fail()
  if (right instanceof Missing) return right.fail()
  if (typeof left === 'string' && typeof right === 'string') return lessItems([...left].map(sign => sign.codePointAt(0) ?? 0), [...right].map(sign => sign.codePointAt(0) ?? 0))
  if (left instanceof Tuple && right instanceof Tuple) return lessItems(left.items, right.items)
  if (isList(left) && isList(right)) return lessItems(left, right)
  throw new TemplateFault(`'${sign}' not supported between instances of '${typeName(left)}' and '${typeName(right)}'`)
}

function lessItems(left: readonly Value[], right: readonly Value[]): boolean {
  const at = left.findIndex((item, index) => index >= right.length || !equal(item, right[index] ?? null))
  if (at < 0) return left.length < right.length
  const [a, b] = [left[at], right[at]]
  return a !== undefined && b !== undefined && less(a, b)
}

/** `in`. Throws where nothing can be in it. */
export function contains(whole: Value, part: Value): boolean {
  if (typeof whole === 'string' || whole instanceof Markup) {
    if (part instanceof Missing || (typeof part !== 'string' && !(part instanceof Markup))) throw new TemplateFault(`'in <string>' requires string as left operand, not ${typeName(part)}`)
    return textOf(whole).includes(textOf(part))
  }
  if (isDict(whole)) return whole.has(part)
  if (!canIterate(whole)) throw new TemplateFault(`argument of type '${typeName(whole)}' is not iterable`)
  return itemsOf(whole).some(item => equal(item, part))
}

function textOf(value: string | Markup): string {
  return typeof value === 'string' ? value : value.text
}

/** The arguments by the names of a function's parameters; undefined where one was not given. Throws on one too many. */
export function bind({ list, named }: Arguments, what: string, ...names: readonly string[]): readonly (Value | undefined)[] {
  if (list.length > names.length) throw new TemplateFault(`${what} takes at most ${names.length} arguments (${list.length} given)`)
  for (const [name] of named) if (!names.includes(name) || names.indexOf(name) < list.length) throw new TemplateFault(`${what} got an unexpected argument '${name}'`)
  return names.map((name, at) => (at < list.length ? list[at] : named.get(name)))
}
