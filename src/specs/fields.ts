import type { Json } from '../../protocols/ids.ts'
import { quote } from '../../protocols/refusal.ts'
import { nearestName } from '../lib/nearest-name.ts'
import { isList, isObject, type JsonObject } from './document.ts'
import type { Problems } from './problems.ts'

const NAME = /^[A-Za-z0-9][A-Za-z0-9._+-]*$/
/** Remarks that authors and tools leave beside the fields. */
const REMARK = /^(?:[_@$#/]|x-)/i
/** Fields that any document may carry and nothing reads. */
const UNREAD = ['description', 'metadata', 'comment', 'createdAt', 'lastModifiedAt', 'status']

/**
 * Reads the fields of one object of a spec by any of their names, in any spelling (`minInstances`, `min_instances`,
 * `min-instances`), and notes what is wrong with them. Each reader returns a usable value even after a problem, so that
 * reading goes on and finds the rest.
 */
export class Fields {
  readonly #values: JsonObject
  readonly #path: string
  readonly #problems: Problems
  /** Plain spelling → the name under which it was asked for. */
  readonly #asked = new Map<string, string>()
  #spellings: ReadonlyMap<string, readonly string[]> | undefined
  /** Keys that were told to contradict another. */
  readonly #unlike = new Set<string>()

  constructor(values: JsonObject, path: string, problems: Problems) {
    this.#values = values
    this.#path = path
    this.#problems = problems
  }

  get values(): JsonObject {
    return this.#values
  }

  get problems(): Problems {
    return this.#problems
  }

  path(name: string): string {
    return this.#path === '' ? name : `${this.#path}.${name}`
  }

  /** The first of `names` that is present and not null. The first name is the one errors use. Notes two spellings of one name that say different things. */
  find(...names: readonly string[]): Json | undefined {
    for (const name of names) if (!this.#asked.has(plainName(name))) this.#asked.set(plainName(name), name)
    const key = names.find(name => this.#said(name)) ?? names.flatMap(name => this.#spelled(name))[0]
    if (key === undefined) return undefined
    this.#compare(this.#spelled(key))
    return this.#own(key)
  }

  /** Notes names of one thing that say different things, so that none is taken in silence; the same said twice is well. */
  agree(names: readonly string[]): void {
    this.#compare(names.flatMap(name => this.#spelled(name)))
  }

  #compare([first, ...others]: readonly string[]): void {
    if (first === undefined) return
    const value = this.#own(first)
    const other = others.find(key => !sameSaid(value, this.#own(key)))
    if (other === undefined || this.#unlike.has(other)) return
    this.#unlike.add(first).add(other)
    this.#problems.add(this.path(first), `${quote(value)} here and ${quote(this.#own(other))} as ${other.slice(0, 100)}, which are names of one thing: keep one of them`)
  }

  /** Every spelling of `name` that says something. */
  #spelled(name: string): readonly string[] {
    this.#spellings ??= Map.groupBy(Object.keys(this.#values), plainName)
    return (this.#spellings.get(plainName(name)) ?? []).filter(key => this.#said(key))
  }

  #said(name: string): boolean {
    const value = this.#own(name)
    return value !== undefined && value !== null
  }

  #own(name: string): Json | undefined {
    return Object.hasOwn(this.#values, name) ? this.#values[name] : undefined
  }

  /** Notes each field that no reader has asked for, so that a slip of the pen is not taken for a default. `also` are names to let pass. */
  refuseUnknown(also: readonly string[] = []): void {
    const allowed = new Set([...UNREAD, ...also].map(plainName))
    for (const [key, value] of Object.entries(this.#values)) {
      if (value === null || REMARK.test(key) || allowed.has(plainName(key)) || this.#asked.has(plainName(key))) continue
      const names = [...this.#asked.values()]
      const near = nearestName(key, names)
      this.#problems.add(this.path(key.slice(0, 100)), `there is no such field (it says ${quote(value)}); ${near === undefined ? `the fields are ${names.join(', ')}` : `did you mean "${near}"?`}`)
    }
  }

  wrong(name: string, value: Json | undefined, expected: string): void {
    this.#problems.add(this.path(name), value === undefined ? `missing; ${expected}` : `${quote(value)} is not usable here; ${expected}`)
  }

  /** A text of at most `limit` characters, or undefined when absent or empty. Numbers count as their text (versions). */
  text(names: readonly string[], limit = 300): string | undefined {
    const value = this.find(...names)
    if (value === undefined || value === '') return undefined
    const text = typeof value === 'number' ? String(value) : value
    if (typeof text !== 'string' || text.length > limit) {
      this.wrong(names[0]!, value, `give a text of at most ${limit} characters`)
      return undefined
    }
    return text
  }

  /** A text that must be there; `fix` says what to write. */
  needed(names: readonly string[], fix: string, limit = 300): string {
    const before = this.#problems.count
    const text = this.text(names, limit)
    if (text === undefined && this.#problems.count === before) this.wrong(names[0]!, this.find(...names), fix)
    return text ?? ''
  }

  /** A name that goes into a URI: letters, digits, `.`, `_`, `+` and `-`. */
  part(names: readonly string[], example: string): string {
    const text = this.needed(names, `give one, for example ${JSON.stringify(example)}`, 200)
    if (text !== '' && !NAME.test(text)) this.wrong(names[0]!, text, `use letters, digits, ".", "_", "+" and "-", starting with a letter or digit, for example ${JSON.stringify(example)}`)
    return text
  }

  /** A whole number in range; numeric texts count. Undefined when absent. */
  count(names: readonly string[], low: number, high: number): number | undefined {
    const value = this.find(...names)
    if (value === undefined) return undefined
    const number = typeof value === 'string' && /^\d{1,9}$/.test(value.trim()) ? Number(value) : value
    if (typeof number !== 'number' || !Number.isInteger(number) || number < low || number > high) {
      this.wrong(names[0]!, value, `give a whole number from ${low} to ${high}`)
      return undefined
    }
    return number
  }

  /** An object, or undefined when absent. */
  object(...names: readonly string[]): JsonObject | undefined {
    const value = this.find(...names)
    if (value === undefined || isObject(value)) return value
    this.wrong(names[0]!, value, 'give an object { … }')
    return undefined
  }

  /** A list, or empty when absent. */
  list(...names: readonly string[]): readonly Json[] {
    const value = this.find(...names)
    if (value === undefined) return []
    if (isList(value)) return value
    this.wrong(names[0]!, value, 'give a list [ … ]')
    return []
  }

  /** A list of short texts; one text with commas counts as a list. */
  texts(names: readonly string[], limit = 200): readonly string[] {
    const value = this.find(...names)
    const items = typeof value === 'string' ? value.split(',').map(text => text.trim()).filter(text => text !== '') : this.list(...names)
    const texts: string[] = []
    for (const [index, item] of items.entries()) {
      if (typeof item === 'string' && item.length <= 100) texts.push(item)
      else this.wrong(`${names[0]!}[${index}]`, item, 'give a text of at most 100 characters')
    }
    if (texts.length > limit) this.wrong(names[0]!, texts, `give at most ${limit}`)
    return texts.slice(0, limit)
  }

  /** Name → text. */
  labels(...names: readonly string[]): Readonly<Record<string, string>> {
    const labels: Record<string, string> = {}
    for (const [key, value] of Object.entries(this.object(...names) ?? {})) {
      if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') labels[key] = String(value)
      else this.wrong(`${names[0]!}.${key}`, value, 'give a text')
    }
    return labels
  }

  /** The fields of an object inside this one; empty when absent. */
  inside(...names: readonly string[]): Fields {
    return new Fields(this.object(...names) ?? {}, this.path(names[0]!), this.#problems)
  }

  /** One of the keys of `meanings`, by any of its spellings; case, `-` and `_` do not matter. */
  choice<T extends string>(names: readonly string[], meanings: Readonly<Record<T, readonly string[]>>, otherwise: NoInfer<T>): T {
    const value = this.find(...names)
    if (value === undefined || value === '') return otherwise
    const said = typeof value === 'string' ? plainName(value) : ''
    for (const meaning in meanings) if ([meaning, ...meanings[meaning]].some(spelling => plainName(spelling) === said)) return meaning
    this.wrong(names[0]!, value, `use one of ${Object.keys(meanings).join(', ')}`)
    return otherwise
  }
}

/** A name without the differences of its spellings: `minInstances`, `min_instances` and `min-instances` are one. */
export function plainName(text: string): string {
  return text.toLowerCase().replaceAll(/[-_ ]/g, '')
}

/** Numbers are the same as their texts and spellings of a name are one, as readers take them. */
function sameSaid(one: Json | undefined, other: Json | undefined): boolean {
  if (isList(one) && isList(other)) return one.length === other.length && one.every((item, at) => sameSaid(item, other[at]))
  if (isObject(one) && isObject(other)) {
    const named = new Map(Object.entries(other).map(([key, value]) => [plainName(key), value]))
    return named.size === Object.keys(one).length && Object.entries(one).every(([key, value]) => sameSaid(value, named.get(plainName(key))))
  }
  return typeof one === 'object' || typeof other === 'object' ? one === other : String(one) === String(other)
}
