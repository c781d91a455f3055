import { broken } from './failure.ts'
import type { Node } from './messages.ts'
import { VARIABLES } from './operations.ts'
import { inputOf, type Scope, type Scopes } from './scope.ts'
import { readTensor } from './weight.ts'

const ASSIGN = new Set(['AssignVariableOp', 'Assign'])
const MAX_VISITED = 1_000_000

/** What tells one variable from another: several handles may name the same. */
export function variableId(node: Node): string {
  const text = (name: string): string => {
    const attribute = node.attributes.get(name)
    return attribute?.kind === 'bytes' ? new TextDecoder().decode(attribute.value) : ''
  }
  return `${text('container')}\0${text('shared_name') || node.name}`
}

/**
 * The bundle's key of each variable, read from the operations that restore them, as every SavedModel carries them for
 * loaders without Python: RestoreV2 names the keys, and each of its outputs is assigned to a variable.
 */
export function restoredKeys(scopes: Scopes): ReadonlyMap<string, string> {
  const keys = new Map<string, string>()
  const texts = new Map<Node, readonly string[]>()
  const [restore = ''] = scopes.graph.restore.split(':')
  const first = scopes.main.nodes.get(restore)
  const waiting: { readonly scope: Scope; readonly node: Node }[] = first === undefined ? [] : [{ scope: scopes.main, node: first }]
  const seen = new Set<string>([`0 ${restore}`])
  const visit = (scope: Scope, node: Node | undefined): void => {
    if (node === undefined || seen.has(`${scope.id} ${node.name}`)) return
    if (seen.size >= MAX_VISITED) throw broken('the operations that restore its variables are too many')
    seen.add(`${scope.id} ${node.name}`)
    waiting.push({ scope, node })
  }
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const { scope, node } = next
    if (ASSIGN.has(node.op)) readAssign(scopes, scope, node, keys, texts)
    const definition = scopes.called(node)
    if (definition !== undefined) {
      const inside = scopes.inside(scope, node, definition)
      for (const one of inside.nodes.values()) if (ASSIGN.has(one.op) || scopes.called(one) !== undefined) visit(inside, one)
    }
    for (const name of [...node.controls, ...node.inputs]) visit(scope, scope.nodes.get(name.split(':')[0] ?? ''))
  }
  return keys
}

function readAssign(scopes: Scopes, scope: Scope, assign: Node, keys: Map<string, string>, texts: Map<Node, readonly string[]>): void {
  const variable = scopes.locate(scope, inputOf(assign, 0))
  const value = scopes.locate(scope, inputOf(assign, 1))
  // Anything else is no checkpoint's: a table, a counter, an initial value.
  if (variable.kind !== 'node' || !VARIABLES.has(variable.node.op) || value.kind !== 'node' || value.node.op !== 'RestoreV2') return
  const names = scopes.locate(value.scope, inputOf(value.node, 1))
  if (names.kind !== 'node') throw broken('the names of its variables are not constant')
  let list = texts.get(names.node)
  if (list === undefined) texts.set(names.node, list = textsOf(names.node))
  const key = list[value.index]
  if (key === undefined) throw broken(`"${value.node.name}" restores more variables than it names`)
  keys.set(variableId(variable.node), key)
}

function textsOf(node: Node): readonly string[] {
  const value = node.attributes.get('value')
  const weight = node.op === 'Const' && value?.kind === 'tensor' ? readTensor(value.value) : undefined
  if (weight?.type !== 'string') throw broken('the names of its variables are not constant')
  const view = new DataView(weight.data)
  const list: string[] = []
  for (let at = 0; at < view.byteLength;) {
    const size = view.getUint32(at, true)
    list.push(new TextDecoder().decode(new Uint8Array(weight.data, at + 4, size)))
    at += 4 + size
  }
  return list
}
