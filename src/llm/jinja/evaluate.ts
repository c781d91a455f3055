import { FILTERS } from './filters.ts'
import { attribute, subscript } from './members.ts'
import { compare, math, slice } from './operators.ts'
import { print } from './printing.ts'
import { TESTS } from './tests.ts'
import type { Expression, Given } from './tree.ts'
import { asNumber, Float, isDict, isList, itemsOf, Missing, TemplateFault, Thing, truth, Tuple, typeName, type Arguments, type Value } from './values.ts'
import { Work } from './work.ts'

/** Names and what they stand for, inside of others. */
export class Scope {
  /** Of the whole rendering. */
  readonly work: Work
  readonly #names = new Map<string, Value>()
  readonly #outer: Scope | undefined

  constructor(outer?: Scope) {
    this.#outer = outer
    this.work = outer?.work ?? new Work()
  }

  get(name: string): Value {
    const found = this.#names.get(name)
    if (found !== undefined) return found
    return this.#outer === undefined ? new Missing(`'${name}'`) : this.#outer.get(name)
  }

  set(name: string, value: Value): void {
    this.#names.set(name, value)
  }
}

/** What an expression is worth. Throws TemplateFault, also where all that was asked of this rendering is too much. */
export function evaluate(node: Expression, scope: Scope): Value {
  scope.work.spend(1)
  const value = worth(node, scope)
  if (node.is !== 'value' && node.is !== 'name') {
    if (typeof value === 'string') scope.work.wrote(value)
    else if (isList(value)) scope.work.spend(value.length)
  }
  return value
}

function worth(node: Expression, scope: Scope): Value {
  const of = (inner: Expression): Value => evaluate(inner, scope)
  switch (node.is) {
    case 'value': return node.value
    case 'name': return scope.get(node.name)
    case 'list': return node.items.map(of)
    case 'tuple': return new Tuple(node.items.map(of))
    case 'dict': return new Map(node.pairs.map(([key, value]) => [hashable(of(key)), of(value)]))
    case 'join': return node.items.map(item => print(of(item))).join('')
    case 'attribute': return attribute(of(node.of), node.name)
    case 'item': return subscript(of(node.of), of(node.at))
    case 'slice': return slice(of(node.of), node.from === undefined ? null : of(node.from), node.to === undefined ? null : of(node.to), node.step === undefined ? null : of(node.step))
    case 'call': return callOf(of(node.of), given(node.given, scope))
    case 'filter': return (FILTERS.get(node.name) ?? unknown('filter', node.name))(of(node.of), given(node.given, scope))
    case 'test': return (TESTS.get(node.name) ?? unknown('test', node.name))(of(node.of), given(node.given, scope).list)
    case 'not': return !truth(of(node.of))
    case 'minus': case 'plus': return signed(of(node.of), node.is === 'minus')
    case 'and': {
      const left = of(node.left)
      return truth(left) ? of(node.right) : left
    }
    case 'or': {
      const left = of(node.left)
      return truth(left) ? left : of(node.right)
    }
    case 'math': return math(node.sign, of(node.left), of(node.right))
    case 'compare': {
      let left = of(node.first)
      for (const [sign, next] of node.rest) {
        const right = of(next)
        if (!compare(sign, left, right)) return false
        left = right
      }
      return true
    }
    case 'choice': {
      if (truth(of(node.when))) return of(node.value)
      return node.otherwise === undefined ? new Missing('the value of an if without else') : of(node.otherwise)
    }
  }
}

function unknown(kind: string, name: string): never {
  throw new TemplateFault(`the ${kind} '${name}' is not known here`)
}

function hashable(key: Value): Value {
  if (key !== null && typeof key === 'object' && !(key instanceof Float)) throw new TemplateFault(`a ${typeName(key)} cannot be a key here`)
  return key instanceof Float && Number.isInteger(key.value) ? key.value : key
}

function signed(value: Value, negative: boolean): Value {
  const number = asNumber(value)
  if (value instanceof Missing) return value.fail()
  if (number === undefined) throw new TemplateFault(`bad operand type for unary sign: '${typeName(value)}'`)
  const made = negative ? -number : number
  return value instanceof Float ? new Float(made) : made + 0
}

/** Calls what can be called. */
export function callOf(value: Value, given: Arguments): Value {
  if (value instanceof Missing) return value.fail()
  if (!(value instanceof Thing) || value.call === undefined) throw new TemplateFault(`'${typeName(value)}' object is not callable`)
  return value.call(given)
}

export function given({ list, named, spread, spreadNamed }: Given, scope: Scope): Arguments {
  const more = spread === undefined ? [] : itemsOf(evaluate(spread, scope))
  const fields = spreadNamed === undefined ? null : evaluate(spreadNamed, scope)
  if (spreadNamed !== undefined && (fields === null || typeof fields !== 'object' || !isDict(fields))) throw new TemplateFault('the argument after ** must be a mapping')
  const moreNamed = fields !== null && typeof fields === 'object' && isDict(fields) ? [...fields].map(([key, value]): [string, Value] => [print(key), value]) : []
  return { list: [...list.map(each => evaluate(each, scope)), ...more], named: new Map([...named.map(([name, each]): [string, Value] => [name, evaluate(each, scope)]), ...moreNamed]) }
}
