import { FILTERS } from './filters.ts'
import { TESTS } from './tests.ts'
import type { TokenReader } from './token-reader.ts'
import { stringValue } from './tokens.ts'
import type { Expression, Given } from './tree.ts'
import { Float, type Value } from './values.ts'

const CONSTANTS: ReadonlyMap<string, Value> = new Map<string, Value>([['true', true], ['True', true], ['false', false], ['False', false], ['none', null], ['None', null]])
/** Functions that Jinja has and that no prompt should need: they are refused when the template is read. */
const REFUSED = ['lipsum', 'cycler', 'joiner']
const COMPARISONS = ['==', '!=', '<', '<=', '>', '>=']
const NOTHING: Given = { list: [], named: [] }

/** Several with commas between are a tuple, as in `{% set a = 1, 2 %}`. */
export function readTuple(reader: TokenReader, choices = true): Expression {
  const one = (): Expression => (choices ? readExpression(reader) : readOr(reader))
  const first = one()
  if (!reader.is('sign', ',')) return first
  const items = [first]
  while (reader.skip('sign', ',')) {
    if (reader.is('sign', ')', '=') || ['close-block', 'close-value'].includes(reader.peek().kind)) break
    items.push(one())
  }
  return { is: 'tuple', items }
}

/** An expression, `… if … else …` and all, with the precedence that Jinja gives (`~` binds closer than `+`, filters closer than any sign). */
export function readExpression(reader: TokenReader): Expression {
  let value = readOr(reader)
  while (reader.skip('name', 'if')) {
    const when = readOr(reader)
    value = { is: 'choice', when, value, ...(reader.skip('name', 'else') ? { otherwise: readExpression(reader) } : {}) }
  }
  return value
}

function readOr(reader: TokenReader): Expression {
  let left = readAnd(reader)
  while (reader.skip('name', 'or')) left = { is: 'or', left, right: readAnd(reader) }
  return left
}

function readAnd(reader: TokenReader): Expression {
  let left = readNot(reader)
  while (reader.skip('name', 'and')) left = { is: 'and', left, right: readNot(reader) }
  return left
}

function readNot(reader: TokenReader): Expression {
  return reader.skip('name', 'not') ? { is: 'not', of: readNot(reader) } : readComparison(reader)
}

function readComparison(reader: TokenReader): Expression {
  const first = readSum(reader)
  const rest: [string, Expression][] = []
  for (;;) {
    if (reader.is('sign', ...COMPARISONS)) rest.push([reader.next().text, readSum(reader)])
    else if (reader.skip('name', 'in')) rest.push(['in', readSum(reader)])
    else if (reader.is('name', 'not') && reader.peek(1).kind === 'name' && reader.peek(1).text === 'in') {
      reader.next()
      reader.next()
      rest.push(['not in', readSum(reader)])
    } else return rest.length === 0 ? first : { is: 'compare', first, rest }
  }
}

function chain(reader: TokenReader, signs: readonly string[], inner: (reader: TokenReader) => Expression): Expression {
  let left = inner(reader)
  while (reader.is('sign', ...signs)) left = { is: 'math', sign: reader.next().text, left, right: inner(reader) }
  return left
}

const readSum = (reader: TokenReader): Expression => chain(reader, ['+', '-'], readJoin)
const readProduct = (reader: TokenReader): Expression => chain(reader, ['*', '/', '//', '%'], readPower)
const readPower = (reader: TokenReader): Expression => chain(reader, ['**'], readSigned)

function readJoin(reader: TokenReader): Expression {
  const items = [readProduct(reader)]
  while (reader.skip('sign', '~')) items.push(readProduct(reader))
  return items.length === 1 && items[0] !== undefined ? items[0] : { is: 'join', items }
}

function readSigned(reader: TokenReader): Expression {
  return readFilters(reader, unfiltered(reader))
}

function unfiltered(reader: TokenReader): Expression {
  if (reader.skip('sign', '-')) return { is: 'minus', of: unfiltered(reader) }
  if (reader.skip('sign', '+')) return { is: 'plus', of: unfiltered(reader) }
  return readPostfix(reader, readPrimary(reader))
}

/** Filters and tests after a value. */
export function readFilters(reader: TokenReader, of: Expression): Expression {
  let value = of
  for (;;) {
    if (reader.skip('sign', '|')) value = readFilter(reader, value)
    else if (reader.skip('name', 'is')) value = readTest(reader, value)
    else if (reader.is('sign', '(')) value = { is: 'call', of: value, given: readGiven(reader) }
    else return value
  }
}

/** A filter by its name, without the sign before it. */
export function readFilter(reader: TokenReader, of: Expression): Expression {
  const name = dotted(reader)
  if (!FILTERS.has(name)) reader.fail(`the filter '${name}' is not known here`)
  return { is: 'filter', of, name, given: reader.is('sign', '(') ? readGiven(reader) : NOTHING }
}

function readTest(reader: TokenReader, of: Expression): Expression {
  const negated = reader.skip('name', 'not')
  const name = dotted(reader)
  if (!TESTS.has(name)) reader.fail(`the test '${name}' is not known here`)
  const test: Expression = { is: 'test', of, name, given: testGiven(reader) }
  return negated ? { is: 'not', of: test } : test
}

function testGiven(reader: TokenReader): Given {
  if (reader.is('sign', '(')) return readGiven(reader)
  const token = reader.peek()
  const begins = ['name', 'string', 'integer', 'float'].includes(token.kind) || reader.is('sign', '[', '{')
  if (!begins || reader.is('name', 'else', 'or', 'and')) return NOTHING
  if (reader.is('name', 'is')) return reader.fail('tests cannot be chained with "is"')
  return { list: [readPostfix(reader, readPrimary(reader))], named: [] }
}

function dotted(reader: TokenReader): string {
  let name = reader.expect('name').text
  while (reader.skip('sign', '.')) name += `.${reader.expect('name').text}`
  return name
}

function readPostfix(reader: TokenReader, of: Expression): Expression {
  let value = of
  for (;;) {
    if (reader.skip('sign', '.')) {
      if (reader.peek().kind === 'integer') value = { is: 'item', of: value, at: { is: 'value', value: Number(reader.next().text) } }
      else value = { is: 'attribute', of: value, name: reader.expect('name').text }
    } else if (reader.skip('sign', '[')) value = readSubscript(reader, value)
    else if (reader.is('sign', '(')) value = { is: 'call', of: value, given: readGiven(reader) }
    else return value
  }
}

function readSubscript(reader: TokenReader, of: Expression): Expression {
  const part = (): Expression | undefined => (reader.is('sign', ':', ']') ? undefined : readExpression(reader))
  const from = part()
  if (!reader.is('sign', ':')) {
    reader.expect('sign', ']')
    return from === undefined ? reader.fail('expected an index') : { is: 'item', of, at: from }
  }
  reader.next()
  const to = part()
  const step = reader.skip('sign', ':') ? part() : undefined
  reader.expect('sign', ']')
  return { is: 'slice', of, ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }), ...(step === undefined ? {} : { step }) }
}

/** Arguments in parentheses. */
function readGiven(reader: TokenReader): Given {
  reader.expect('sign', '(')
  const list: Expression[] = []
  const named: [string, Expression][] = []
  let spread: Expression | undefined
  let spreadNamed: Expression | undefined
  while (!reader.is('sign', ')')) {
    if (reader.skip('sign', '**')) spreadNamed = readExpression(reader)
    else if (reader.skip('sign', '*')) spread = readExpression(reader)
    else if (reader.peek().kind === 'name' && reader.peek(1).kind === 'sign' && reader.peek(1).text === '=') {
      const name = reader.next().text
      reader.next()
      named.push([name, readExpression(reader)])
    } else if (named.length > 0 || spread !== undefined || spreadNamed !== undefined) reader.fail('an argument without a name follows one with a name')
    else list.push(readExpression(reader))
    if (!reader.is('sign', ')')) reader.expect('sign', ',')
  }
  reader.next()
  return { list, named, ...(spread === undefined ? {} : { spread }), ...(spreadNamed === undefined ? {} : { spreadNamed }) }
}

function readPrimary(reader: TokenReader): Expression {
  const token = reader.next()
  if (token.kind === 'name') {
    const constant = CONSTANTS.get(token.text)
    if (REFUSED.includes(token.text)) reader.fail(`the function '${token.text}' is not known here`)
    return constant === undefined ? { is: 'name', name: token.text } : { is: 'value', value: constant }
  }
  if (token.kind === 'string') {
    let value = stringValue(token.text)
    while (reader.peek().kind === 'string') value += stringValue(reader.next().text)
    return { is: 'value', value }
  }
  if (token.kind === 'integer') return { is: 'value', value: Number(token.text.replaceAll('_', '')) }
  if (token.kind === 'float') return { is: 'value', value: new Float(Number(token.text.replaceAll('_', ''))) }
  if (token.kind === 'sign' && token.text === '(') {
    const value: Expression = reader.is('sign', ')') ? { is: 'tuple', items: [] } : readTuple(reader)
    reader.expect('sign', ')')
    return value
  }
  if (token.kind === 'sign' && token.text === '[') return { is: 'list', items: separated(reader, ']', () => readExpression(reader)) }
  if (token.kind === 'sign' && token.text === '{') return { is: 'dict', pairs: separated(reader, '}', () => pair(reader)) }
  return reader.fail(`unexpected '${token.text}'`)
}

function pair(reader: TokenReader): readonly [Expression, Expression] {
  const key = readExpression(reader)
  reader.expect('sign', ':')
  return [key, readExpression(reader)]
}

function separated<T>(reader: TokenReader, close: string, one: () => T): readonly T[] {
  const items: T[] = []
  while (!reader.is('sign', close)) {
    items.push(one())
    if (!reader.is('sign', close)) reader.expect('sign', ',')
  }
  reader.next()
  return items
}
