import { callOf, evaluate, given, Scope } from './evaluate.ts'
import { print } from './printing.ts'
import { BLOCK_TEXT, type Body, type Parameters, type Statement, type Target } from './tree.ts'
import { bind, equal, foundOr, itemsOf, TemplateFault, Thing, truth, Tuple, type Arguments, type Value } from './values.ts'

type Ended = 'whole' | 'break' | 'continue'
type Loop = Statement & { readonly is: 'for' }

/** Steps that a turn of a loop is worth: its own names, and what is known of it. */
const TURN = 10

/** What a template, or a part of it, writes. Throws TemplateFault. */
export function write(body: Body, scope: Scope): string {
  const out: string[] = []
  run(body, scope, out)
  return together(out, scope)
}

function together(out: readonly string[], { work }: Scope): string {
  const text = out.join('')
  work.wrote(text)
  return text
}

function run(body: Body, scope: Scope, out: string[]): Ended {
  for (const statement of body) {
    const ended = step(statement, scope, out)
    if (ended !== 'whole') return ended
  }
  return 'whole'
}

function step(statement: Statement, scope: Scope, out: string[]): Ended {
  scope.work.spend(1)
  switch (statement.is) {
    case 'text': out.push(statement.text); break
    case 'print': out.push(print(evaluate(statement.value, scope))); break
    case 'if': {
      const branch = statement.branches.find(([when]) => truth(evaluate(when, scope)))
      return run(branch?.[1] ?? statement.otherwise, scope, out)
    }
    case 'for': out.push(loop(statement, evaluate(statement.of, scope), scope, 0)); break
    case 'set': assign(statement.target, evaluate(statement.value, scope), scope); break
    case 'set-block': assign(statement.target, through(statement, scope), scope); break
    case 'filter-block': out.push(print(through(statement, scope))); break
    case 'macro': scope.set(statement.name, macro(statement.name, statement.parameters, statement.body, scope)); break
    case 'call-block': {
      const { list, named } = given(statement.call.given, scope)
      const caller = macro('caller', statement.parameters, statement.body, scope)
      out.push(print(callOf(evaluate(statement.call.of, scope), { list, named: new Map([...named, ['caller', caller]]) })))
      break
    }
    case 'with': {
      const inner = new Scope(scope)
      for (const [target, value] of statement.pairs) assign(target, evaluate(value, scope), inner)
      return run(statement.body, inner, out)
    }
    case 'break': case 'continue': return statement.is
  }
  return 'whole'
}

function through({ body, through }: Statement & { readonly is: 'set-block' | 'filter-block' }, scope: Scope): Value {
  const inner = new Scope(scope)
  inner.set(BLOCK_TEXT, write(body, new Scope(scope)))
  return evaluate(through, inner)
}

function assign(target: Target, value: Value, scope: Scope): void {
  if ('parts' in target) {
    const items = itemsOf(value)
    if (items.length !== target.parts.length) throw new TemplateFault(`cannot give ${items.length} values to ${target.parts.length} names`)
    for (const [at, part] of target.parts.entries()) assign(part, items[at] ?? null, scope)
  } else if (target.field === undefined) scope.set(target.name, value)
  else {
    const space = scope.get(target.name)
    if (!(space instanceof Thing) || space.kind !== 'Namespace') throw new TemplateFault(`cannot assign attribute on non-namespace object '${target.name}'`)
    space.fields.set(target.field, value)
  }
}

function loop(node: Loop, over: Value, scope: Scope, depth: number): string {
  const all = itemsOf(over)
  scope.work.spend(all.length * TURN)
  const inner = (item: Value): Scope => {
    const made = new Scope(scope)
    assign(node.target, item, made)
    return made
  }
  const { only } = node
  const items = only === undefined ? all : all.filter(item => truth(evaluate(only, inner(item))))
  const out: string[] = []
  let before: Value | undefined
  for (const [at, item] of items.entries()) {
    const own = inner(item)
    const changed = (asked: Arguments): Value => {
      const now = new Tuple(asked.list)
      const fresh = before === undefined || !equal(before, now)
      before = now
      return fresh
    }
    const again = node.recursive ? (asked: Arguments): Value => loop(node, bind(asked, 'loop', 'iterable')[0] ?? null, scope, depth + 1) : undefined
    own.set('loop', new Thing('LoopContext', loopFields(items, at, depth, changed), again))
    if (run(node.body, own, out) === 'break') break
  }
  if (items.length === 0) run(node.otherwise, new Scope(scope), out)
  return together(out, scope)
}

function loopFields(items: readonly Value[], at: number, depth: number, changed: (asked: Arguments) => Value): Map<string, Value> {
  const { length } = items
  const cycle = ({ list }: Arguments): Value => {
    if (list.length === 0) throw new TemplateFault('no items for cycling given')
    return list[at % list.length] ?? null
  }
  return new Map<string, Value>([
    ['index', at + 1], ['index0', at], ['revindex', length - at], ['revindex0', length - at - 1], ['first', at === 0], ['last', at === length - 1], ['length', length], ['depth', depth + 1], ['depth0', depth],
    ['previtem', foundOr(items[at - 1], 'there is no previous item, it')], ['nextitem', foundOr(items[at + 1], 'there is no next item, it')],
    ['cycle', new Thing('method', new Map(), cycle)], ['changed', new Thing('method', new Map(), changed)],
  ])
}

function macro(name: string, { names, defaults, uses }: Parameters, body: Body, scope: Scope): Thing {
  const call = ({ list, named }: Arguments): Value => {
    const own = new Scope(scope)
    const left = new Map(named)
    for (const [at, parameter] of names.entries()) {
      const fallback = defaults[at - (names.length - defaults.length)]
      if (at < list.length && left.has(parameter)) throw new TemplateFault(`macro '${name}' got several values for '${parameter}'`)
      const handed = at < list.length ? list[at] : left.get(parameter)
      own.set(parameter, handed === undefined && fallback !== undefined ? evaluate(fallback, own) : foundOr(handed, `parameter '${parameter}'`))
      left.delete(parameter)
    }
    if (uses.has('caller') && !names.includes('caller')) {
      own.set('caller', foundOr(left.get('caller'), 'no caller defined, it'))
      left.delete('caller')
    }
    if (uses.has('kwargs')) own.set('kwargs', new Map(left))
    else for (const [extra] of left) throw new TemplateFault(`macro '${name}' takes no keyword argument '${extra}'`)
    if (uses.has('varargs')) own.set('varargs', new Tuple(list.slice(names.length)))
    else if (list.length > names.length) throw new TemplateFault(`macro '${name}' takes not more than ${names.length} argument(s)`)
    return write(body, own)
  }
  return new Thing('Macro', new Map<string, Value>([['name', name], ['arguments', new Tuple(names)]]), call)
}
