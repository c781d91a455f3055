import type { Token } from './tokens.ts'
import { TemplateFault } from './values.ts'

/** Goes through tokens; faults name the line. */
export class TokenReader {
  readonly #tokens: readonly Token[]
  #at = 0
  /** Names that were read, for macros that ask for what was not declared. */
  readonly names = new Set<string>()

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens
  }

  peek(ahead = 0): Token {
    return this.#tokens[Math.min(this.#at + ahead, this.#tokens.length - 1)] ?? { kind: 'end', text: '', line: 0 }
  }

  next(): Token {
    const token = this.peek()
    this.#at++
    if (token.kind === 'name') this.names.add(token.text)
    return token
  }

  is(kind: 'name' | 'sign', ...texts: readonly string[]): boolean {
    const token = this.peek()
    return token.kind === kind && texts.includes(token.text)
  }

  skip(kind: 'name' | 'sign', text: string): boolean {
    const found = this.is(kind, text)
    if (found) this.next()
    return found
  }

  expect(kind: Token['kind'], text?: string): Token {
    const token = this.peek()
    if (token.kind !== kind || (text !== undefined && token.text !== text)) return this.fail(`expected ${text === undefined ? kind : `'${text}'`}, got ${token.kind === 'end' ? 'the end of the template' : `'${token.text}'`}`)
    return this.next()
  }

  fail(what: string): never {
    throw new TemplateFault(`line ${this.peek().line}: ${what}`)
  }
}
