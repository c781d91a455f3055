import { broken } from './failure.ts'
import type { GraphFunction, MetaGraph, Node } from './messages.ts'
import { CALLS, PASSING } from './operations.ts'

const MAX_DEPTH = 64
const MAX_SCOPES = 20_000
const MAX_STEPS = 5_000_000
const MAX_STEPS_EACH = 10_000

/** Where nodes are emitted to: the main graph, or the function of a loop or branch. `id` is 0 for the main graph. */
export type Body = { readonly id: number }

/** The nodes of a graph, or of one call of a function. */
export type Scope = {
  readonly id: number
  readonly depth: number
  readonly body: Body
  readonly nodes: ReadonlyMap<string, Node>
  readonly definition: GraphFunction | undefined
  /** The call that this is the inside of; none for the main graph and for bodies. */
  readonly caller: { readonly scope: Scope; readonly node: Node } | undefined
  readonly children: Map<string, Scope>
}

/** Where a tensor really comes from. */
export type Source =
  | { readonly kind: 'node'; readonly scope: Scope; readonly node: Node; readonly index: number }
  /** An input of the signature. */
  | { readonly kind: 'input'; readonly index: number }
  /** An argument of a loop's or branch's function. */
  | { readonly kind: 'argument'; readonly scope: Scope; readonly index: number }

/**
 * Follows tensors through calls and operations that only pass them on. Calls are entered as often as they are met, each
 * time as a scope of its own, so that what is emitted is inlined. Bounded: a small file can say a huge graph.
 */
export class Scopes {
  readonly graph: MetaGraph
  readonly main: Scope
  readonly #fed: ReadonlyMap<string, number>
  readonly #all: Scope[] = []
  #steps = 0

  /** `inputs` are the tensors that callers feed, which cut off what comes before them. */
  constructor(graph: MetaGraph, inputs: readonly string[]) {
    this.graph = graph
    this.#fed = new Map(inputs.map((tensor, index) => [canonical(tensor), index]))
    this.main = this.#add({ depth: 0, body: { id: 0 }, nodes: graph.nodes, definition: undefined, caller: undefined })
  }

  /** Every scope entered so far. */
  get all(): readonly Scope[] {
    return this.#all
  }

  /** The inside of a call, the same for the same call. */
  inside(scope: Scope, node: Node, definition: GraphFunction): Scope {
    const known = scope.children.get(node.name)
    if (known !== undefined) return known
    const child = this.#add({ depth: scope.depth + 1, body: scope.body, nodes: definition.nodes, definition, caller: { scope, node } })
    scope.children.set(node.name, child)
    return child
  }

  /** A function that stays one, because a loop or branch runs it. */
  bodyOf(scope: Scope, name: string): Scope {
    const definition = this.functionNamed(name)
    return this.#add({ depth: scope.depth + 1, body: { id: this.#all.length }, nodes: definition.nodes, definition, caller: undefined })
  }

  functionNamed(name: string): GraphFunction {
    const found = this.graph.functions.get(name)
    if (found === undefined) throw broken(`it calls the function "${name}", which it does not hold`)
    return found
  }

  /** The function a node calls; undefined when it is no call. */
  called(node: Node): GraphFunction | undefined {
    if (!CALLS.has(node.op)) return this.graph.functions.get(node.op)
    const attribute = node.attributes.get('f')
    if (attribute?.kind !== 'function') throw broken(`the call "${node.name}" names no function`)
    return this.functionNamed(attribute.value)
  }

  /** Where `reference` (`node`, `node:index`, or in functions `argument` or `node:output:index`) comes from. Throws COMPONENT_ERROR. */
  locate(from: Scope, reference: string): Source {
    let scope = from
    let wanted = reference
    for (let steps = 0; ; steps++) {
      if (steps > MAX_STEPS_EACH || ++this.#steps > MAX_STEPS) throw broken('its graph takes too long to follow; it may run in a circle')
      if (scope === this.main) {
        const fed = this.#fed.get(canonical(wanted))
        if (fed !== undefined) return { kind: 'input', index: fed }
      }
      const argument = wanted.includes(':') ? -1 : scope.definition?.signature.inputs.findIndex(({ name }) => name === wanted) ?? -1
      if (argument >= 0) {
        if (scope.caller === undefined) return { kind: 'argument', scope, index: argument }
        const { scope: outside, node } = scope.caller
        wanted = inputOf(node, argument)
        scope = outside
        continue
      }
      const { node, index } = this.#resolve(scope, wanted)
      const definition = this.called(node)
      if (definition !== undefined) {
        const output = definition.signature.outputs[index]
        const returned = output === undefined ? undefined : definition.returns.get(output.name)
        if (returned === undefined) throw broken(`the function "${definition.signature.name}" gives no output ${index}`)
        scope = this.inside(scope, node, definition)
        wanted = returned
      } else if (PASSING.has(node.op)) {
        wanted = inputOf(node, node.op === 'IdentityN' ? index : 0)
      } else {
        return { kind: 'node', scope, node, index }
      }
    }
  }

  #add(scope: Omit<Scope, 'id' | 'children'>): Scope {
    if (scope.depth > MAX_DEPTH) throw broken(`its functions call each other more than ${MAX_DEPTH} deep`)
    if (this.#all.length >= MAX_SCOPES) throw broken(`its functions are called in more than ${MAX_SCOPES} places`)
    if (scope.definition?.signature.inputs.some(argument => argument.numberAttribute !== '' || argument.typesAttribute !== '') === true) throw broken(`the function "${scope.definition.signature.name}" takes lists of tensors`)
    const added = { ...scope, id: this.#all.length, children: new Map<string, Scope>() }
    this.#all.push(added)
    return added
  }

  #resolve(scope: Scope, reference: string): { readonly node: Node; readonly index: number } {
    const [name = '', ...rest] = reference.split(':')
    const node = scope.nodes.get(name)
    if (node === undefined) throw broken(`a node takes "${reference}", which its graph does not hold`)
    const place = Number(rest.at(-1) ?? 0)
    if (rest.length > 2 || !Number.isInteger(place) || place < 0 || place > 65_535) throw broken(`the tensor "${reference}"`)
    return { node, index: rest.length < 2 ? place : place + this.#offset(node, rest[0]!) }
  }

  /** How many tensors a node gives before its output of that name. */
  #offset(node: Node, output: string): number {
    const outputs = (this.graph.functions.get(node.op)?.signature ?? this.graph.operations.get(node.op))?.outputs ?? []
    let offset = 0
    for (const argument of outputs) {
      if (argument.name === output) return offset
      offset += sizeOf(node, argument.numberAttribute, argument.typesAttribute)
    }
    // Without its description (files need not carry any) an operation has one output, as nearly all have.
    if (outputs.length === 0) return 0
    throw broken(`"${node.name}" (${node.op}) has no output "${output}"`)
  }
}

function sizeOf(node: Node, numberAttribute: string, typesAttribute: string): number {
  const number = node.attributes.get(numberAttribute)
  if (number?.kind === 'integer') return number.value
  const types = node.attributes.get(typesAttribute)
  return types?.kind === 'list' ? types.value.types.length : 1
}

/** A node's data input. Throws COMPONENT_ERROR when it has none at that place. */
export function inputOf(node: Node, index: number): string {
  const input = node.inputs[index]
  if (input === undefined) throw broken(`"${node.name}" (${node.op}) has no input ${index}`)
  return input
}

function canonical(tensor: string): string {
  return tensor.includes(':') ? tensor : `${tensor}:0`
}
