import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { isList, isObject, type JsonObject } from './document.ts'

/** One field that a GraphQL query asks for, under the name it is to be answered as. */
export type Selection = { readonly as: string; readonly name: string; readonly args: JsonObject; readonly fields: readonly Selection[] }

const TOKEN = /[\s,]+|#[^\n]*|([!$():=@[\]{|}]|\.\.\.|[A-Za-z_]\w*|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|"(?:[^"\\\n]|\\.)*")/gy
const MOST_TOKENS = 5_000
const DEEPEST = 20

/**
 * Reads a GraphQL query (https://spec.graphql.org, §2): operations with arguments, aliases and variables; no mutations, fragments
 * or directives. Throws BAD_INPUT saying where.
 */
export function parseGraphQuery(source: string, variables: JsonObject = {}): readonly Selection[] {
  return new Reader(tokensOf(source), variables).operation()
}

/** What a selection picks of a document; a field that is not there is null, and lists are picked from one by one. */
export function pick(value: Json | undefined, fields: readonly Selection[]): Json {
  if (value === undefined || value === null || fields.length === 0) return value ?? null
  if (isList(value)) return value.map(one => pick(one, fields))
  if (!isObject(value)) return value
  return Object.fromEntries(fields.map(({ as, name, fields: inner }) => [as, pick(Object.hasOwn(value, name) ? value[name] : undefined, inner)]))
}

function tokensOf(source: string): readonly string[] {
  const tokens: string[] = []
  TOKEN.lastIndex = 0
  while (TOKEN.lastIndex < source.length) {
    const at = TOKEN.lastIndex
    const match = TOKEN.exec(source)
    if (match === null) throw bad(`there is something unreadable at ${at}: ${JSON.stringify(source.slice(at, at + 20))}`)
    if (match[1] !== undefined && tokens.push(match[1]) > MOST_TOKENS) throw bad(`a query may have ${MOST_TOKENS} words`)
  }
  return tokens
}

class Reader {
  readonly #tokens: readonly string[]
  readonly #variables: JsonObject
  #at = 0

  constructor(tokens: readonly string[], variables: JsonObject) {
    this.#tokens = tokens
    this.#variables = variables
  }

  operation(): readonly Selection[] {
    if (this.#tokens[this.#at] !== '{') {
      const kind = this.#next('a query')
      if (kind !== 'query') throw bad(`${kind} is not answered here, only query`)
      // Its name and what its variables are to be: their values say enough.
      while (this.#tokens[this.#at] !== undefined && this.#tokens[this.#at] !== '{') this.#at += 1
    }
    const fields = this.#selection(0)
    if (this.#tokens[this.#at] !== undefined) throw bad(`one query at a time; ${this.#tokens[this.#at]} comes after its end`)
    return fields
  }

  #selection(depth: number): readonly Selection[] {
    if (depth > DEEPEST) throw bad(`a query may nest ${DEEPEST} deep`)
    this.#expect('{')
    const fields: Selection[] = []
    while (!this.#take('}')) {
      const first = this.#name()
      const name = this.#take(':') ? this.#name() : first
      const args = this.#tokens[this.#at] === '(' ? this.#fieldsOf('(', ')', depth) : {}
      fields.push({ as: first, name, args, fields: this.#tokens[this.#at] === '{' ? this.#selection(depth + 1) : [] })
    }
    if (fields.length === 0) throw bad('a selection names at least one field')
    return fields
  }

  #fieldsOf(open: string, close: string, depth: number): JsonObject {
    if (depth > DEEPEST) throw bad(`a query may nest ${DEEPEST} deep`)
    this.#expect(open)
    const out: Record<string, Json> = {}
    while (!this.#take(close)) {
      const name = this.#name()
      this.#expect(':')
      if (name !== '__proto__') out[name] = this.#value(depth + 1)
    }
    return out
  }

  #value(depth: number): Json {
    if (depth > DEEPEST) throw bad(`a query may nest ${DEEPEST} deep`)
    const token = this.#tokens[this.#at]
    if (token === '{') return this.#fieldsOf('{', '}', depth)
    this.#next('a value')
    if (token === '[') {
      const list: Json[] = []
      while (!this.#take(']')) list.push(this.#value(depth + 1))
      return list
    }
    if (token === '$') {
      const name = this.#name()
      return Object.hasOwn(this.#variables, name) ? this.#variables[name] ?? null : null
    }
    if (token === undefined || /^[!():=@\]|}]$|^\.\.\.$/.test(token)) throw bad(`${token ?? 'the end'} stands where a value belongs`)
    if (token === 'true' || token === 'false') return token === 'true'
    if (token === 'null') return null
    // Names of an enum are texts here.
    return /^["\d-]/.test(token) ? jsonOf(token) : token
  }

  #name(): string {
    const name = this.#next('a name')
    if (name === '...') throw bad('fragments are not answered here: name the fields')
    if (!/^[A-Za-z_]/.test(name)) throw bad(`${name} stands where a name belongs`)
    return name
  }

  #next(what: string): string {
    const token = this.#tokens[this.#at]
    if (token === undefined) throw bad(`it ends where ${what} belongs`)
    this.#at += 1
    return token
  }

  #expect(token: string): void {
    const found = this.#next(token)
    if (found !== token) throw bad(`${found} stands where ${token} belongs`)
  }

  #take(token: string): boolean {
    if (this.#tokens[this.#at] === undefined) throw bad(`it ends where ${token} belongs`)
    if (this.#tokens[this.#at] !== token) return false
    this.#at += 1
    return true
  }
}

function jsonOf(token: string): Json {
  try {
    const value: Json = JSON.parse(token)
    return value
  } catch {
    throw bad(`${token.slice(0, 40)} is no text or number`)
  }
}

function bad(because: string): MeshError {
  return new MeshError('BAD_INPUT', `query: ${because}`)
}
