import { readExpression, readFilter, readFilters, readTuple } from './expressions.ts'
import { TokenReader } from './token-reader.ts'
import { tokenize } from './tokens.ts'
import { BLOCK_TEXT, type Body, type Expression, type Parameters, type Statement, type Target } from './tree.ts'

const BLOCK: Expression = { is: 'name', name: BLOCK_TEXT }
const NO_PARAMETERS: Parameters = { names: [], defaults: [], uses: new Set() }

/** Reads a template. Throws TemplateFault naming the line, and the tag, filter or test that is not known. */
export function readTemplate(source: string): Body {
  const reader = new TokenReader(tokenize(source))
  const body = readBody(reader, [], 0)
  if (reader.peek().kind !== 'end') reader.fail(`unexpected '${reader.peek().text}'`)
  return body
}

/** Statements up to a tag of `ends`, which is left to be read; `loops`: how many loops they stand in. */
function readBody(reader: TokenReader, ends: readonly string[], loops: number): Body {
  const body: Statement[] = []
  for (;;) {
    const { kind, text, line } = reader.peek()
    if (kind === 'end') return ends.length === 0 ? body : reader.fail(`the template ends before {% ${ends.join(' %} or {% ')} %}`)
    reader.next()
    if (kind === 'data') body.push({ is: 'text', text, line })
    else if (kind === 'open-value') {
      body.push({ is: 'print', value: readTuple(reader), line })
      reader.expect('close-value')
    } else {
      if (reader.is('name', ...ends)) return body
      body.push(readTag(reader, loops))
    }
  }
}

function readTag(reader: TokenReader, loops: number): Statement {
  const { text: tag, line } = reader.expect('name')
  switch (tag) {
    case 'if': return readIf(reader, line, loops)
    case 'for': return readFor(reader, line, loops)
    case 'set': return readSet(reader, line, loops)
    case 'macro': {
      const name = reader.expect('name').text
      const { parameters, body } = readCallable(reader, 'endmacro')
      return { is: 'macro', name, parameters, body, line }
    }
    case 'call': {
      const { parameters, body, value } = readCallable(reader, 'endcall', true)
      if (value?.is !== 'call') return reader.fail('{% call %} wants the call of a macro')
      return { is: 'call-block', call: value, parameters, body, line }
    }
    case 'filter': {
      const through = readFilters(reader, readFilter(reader, BLOCK))
      return { is: 'filter-block', through, body: inBlock(reader, 'endfilter', loops), line }
    }
    // What transformers trains on stands in it; to a prompt it is a scope of its own.
    case 'generation': return { is: 'with', pairs: [], body: inBlock(reader, 'endgeneration', 0), line }
    case 'with': return readWith(reader, line, loops)
    case 'break': case 'continue':
      if (loops === 0) reader.fail(`{% ${tag} %} outside of a loop`)
      reader.expect('close-block')
      return { is: tag, line }
    default: return reader.fail(`the tag {% ${tag} %} is not known here`)
  }
}

function inBlock(reader: TokenReader, end: string, loops: number): Body {
  reader.expect('close-block')
  const body = readBody(reader, [end], loops)
  reader.next()
  reader.expect('close-block')
  return body
}

function readIf(reader: TokenReader, line: number, loops: number): Statement {
  const branches: [Expression, Body][] = []
  for (;;) {
    const when = readTuple(reader, false)
    reader.expect('close-block')
    branches.push([when, readBody(reader, ['elif', 'else', 'endif'], loops)])
    const { text } = reader.next()
    if (text === 'elif') continue
    return { is: 'if', branches, otherwise: text === 'else' ? inBlock(reader, 'endif', loops) : (reader.expect('close-block'), []), line }
  }
}

function readFor(reader: TokenReader, line: number, loops: number): Statement {
  const target = readTarget(reader)
  reader.expect('name', 'in')
  const of = readTuple(reader, false)
  const only = reader.skip('name', 'if') ? readExpression(reader) : undefined
  const recursive = reader.skip('name', 'recursive')
  reader.expect('close-block')
  const body = readBody(reader, ['else', 'endfor'], loops + 1)
  const otherwise = reader.next().text === 'else' ? inBlock(reader, 'endfor', loops) : (reader.expect('close-block'), [])
  return { is: 'for', target, of, ...(only === undefined ? {} : { only }), recursive, body, otherwise, line }
}

function readSet(reader: TokenReader, line: number, loops: number): Statement {
  const target = readTarget(reader)
  if (reader.skip('sign', '=')) {
    const value = readTuple(reader)
    reader.expect('close-block')
    return { is: 'set', target, value, line }
  }
  const through = readFilters(reader, BLOCK)
  return { is: 'set-block', target, through, body: inBlock(reader, 'endset', loops), line }
}

function readWith(reader: TokenReader, line: number, loops: number): Statement {
  const pairs: [Target, Expression][] = []
  while (reader.peek().kind !== 'close-block') {
    if (pairs.length > 0) reader.expect('sign', ',')
    const target = readTarget(reader, false)
    reader.expect('sign', '=')
    pairs.push([target, readExpression(reader)])
  }
  return { is: 'with', pairs, body: inBlock(reader, 'endwith', loops), line }
}

/** Names that values are given to, in parentheses or not. */
function readTarget(reader: TokenReader, several = true): Target {
  const one = (): Target => {
    if (reader.skip('sign', '(')) {
      const inner = readTarget(reader)
      reader.expect('sign', ')')
      return inner
    }
    const name = reader.expect('name').text
    return reader.skip('sign', '.') ? { name, field: reader.expect('name').text } : { name }
  }
  const parts = [one()]
  let tuple = false
  while (several && reader.skip('sign', ',')) {
    tuple = true
    if (reader.peek().kind === 'name' ? reader.is('name', 'in') : !reader.is('sign', '(')) break
    parts.push(one())
  }
  return !tuple && parts[0] !== undefined ? parts[0] : { parts }
}

/** A macro, or what a macro is called with. */
function readCallable(reader: TokenReader, end: string, called = false): { readonly parameters: Parameters; readonly body: Body; readonly value?: Expression } {
  const declared = called && !reader.is('sign', '(') ? NO_PARAMETERS : readParameters(reader)
  const value = called ? readExpression(reader) : undefined
  const outer = new Set(reader.names)
  reader.names.clear()
  const body = inBlock(reader, end, 0)
  const uses = new Set(reader.names)
  for (const name of outer) reader.names.add(name)
  return { parameters: { ...declared, uses }, body, ...(value === undefined ? {} : { value }) }
}

function readParameters(reader: TokenReader): Parameters {
  reader.expect('sign', '(')
  const names: string[] = []
  const defaults: Expression[] = []
  while (!reader.is('sign', ')')) {
    if (names.length > 0) reader.expect('sign', ',')
    names.push(reader.expect('name').text)
    if (reader.skip('sign', '=')) defaults.push(readExpression(reader))
    else if (defaults.length > 0) reader.fail('a parameter without a default follows one with a default')
  }
  reader.next()
  return { names, defaults, uses: new Set() }
}
