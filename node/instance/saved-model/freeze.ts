import { broken, unsupported } from './failure.ts'
import type { Attribute, MetaGraph, Node, Shape, Signature } from './messages.ts'
import { BODIES, isRunnable, isWaiting, RENAMED, VARIABLES, WRITES } from './operations.ts'
import { Scopes, type Body, type Scope, type Source } from './scope.ts'
import { restoredKeys, variableId } from './variables.ts'
import { nearestType, readTensor, type Weight } from './weight.ts'

const MAX_EMITTED = 200_000
/** Together; a graph can say large constants in few bytes. */
const MAX_CONSTANT_BYTES = 1_073_741_824
/** TensorFlow's numbers of types. */
const TEXT = 7
const BOOLEAN = 10

/** Attributes in protobuf's JSON form, as TensorFlow.js reads graphs. */
type Json = { readonly [key: string]: unknown }
export type FrozenNode = { readonly name: string; readonly op: string; readonly input: readonly string[]; readonly attr: Json }
export type FrozenFunction = { readonly signature: { readonly name: string; readonly inputArg: readonly { readonly name: string; readonly type: number }[]; readonly outputArg: readonly { readonly name: string; readonly type: number }[] }; readonly nodeDef: FrozenNode[]; readonly ret: Readonly<Record<string, string>> }
/** One graph without calls and variables. `inputs` and `outputs` name its nodes in the order of the signature. */
export type Frozen = {
  readonly nodes: readonly FrozenNode[]
  readonly functions: readonly FrozenFunction[]
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly constants: readonly { readonly name: string; readonly weight: Weight }[]
  /** Constants whose values are the bundle's under `key`. */
  readonly variables: readonly { readonly name: string; readonly key: string }[]
  /** Whether it can only be run asynchronously. */
  readonly waiting: boolean
  /** Whether the WASM backend would get it wrong: it takes texts for numbers, and reverses bits beyond its memory. */
  readonly plain: boolean
}

/**
 * Makes one flat graph of what a signature's outputs need: calls inlined, variables made constants, everything else left
 * out. Loops and branches keep their functions, each frozen the same way. Throws COMPONENT_ERROR for graphs that make no
 * sense, RUNTIME_UNAVAILABLE for operations that TensorFlow.js has not.
 */
export function freeze(graph: MetaGraph, signature: Signature): Frozen {
  return new Freezing(graph, signature).run()
}

class Freezing {
  readonly #signature: Signature
  readonly #scopes: Scopes
  readonly #keys: ReadonlyMap<string, string>
  readonly #emitted = new Map<string, string>()
  readonly #queue: { readonly scope: Scope; readonly node: Node; readonly name: string }[] = []
  readonly #bodies = new Map<Body, FrozenNode[]>()
  readonly #functions: FrozenFunction[] = []
  readonly #constants: { readonly name: string; readonly weight: Weight }[] = []
  readonly #variables = new Map<string, { readonly name: string; readonly key: string; readonly of: string }>()
  #waiting = false
  #plain: boolean
  #bytes = 0

  constructor(graph: MetaGraph, signature: Signature) {
    this.#signature = signature
    this.#scopes = new Scopes(graph, signature.inputs.map(input => input.tensor))
    this.#keys = restoredKeys(this.#scopes)
    this.#plain = ![...signature.inputs, ...signature.outputs].some(({ type }) => type === TEXT)
  }

  run(): Frozen {
    const { main } = this.#scopes
    const nodes: FrozenNode[] = []
    this.#bodies.set(main.body, nodes)
    const inputs = this.#signature.inputs.map(({ type, shape }, index) => {
      nodes.push({ name: `input/${index}`, op: 'Placeholder', input: [], attr: { dtype: { type: nearestType(type) }, shape: { shape: shapeJson(shape) } } })
      return `input/${index}`
    })
    const outputs = this.#signature.outputs.map(({ tensor, type }, index) => {
      nodes.push({ name: `output/${index}`, op: 'Identity', input: [this.#tensor(this.#scopes.locate(main, tensor))], attr: { T: { type: nearestType(type) } } })
      return `output/${index}`
    })
    for (let next = this.#queue.pop(); next !== undefined; next = this.#queue.pop()) this.#emit(next.scope, next.node, next.name)
    this.#refuseMemory()
    return { nodes, functions: this.#functions, inputs, outputs, constants: this.#constants, variables: [...this.#variables.values()], waiting: this.#waiting, plain: this.#plain }
  }

  /** The name of a tensor in what is emitted; its node is emitted later. */
  #tensor(source: Source): string {
    if (source.kind === 'input') return `input/${source.index}`
    if (source.kind === 'argument') return `argument/${source.scope.id}/${source.index}`
    const { scope, node, index } = source
    if (index > 0 && VARIABLES.has(node.op)) throw broken(`"${node.name}" has one output`)
    const key = `${scope.id} ${node.name}`
    let name = this.#emitted.get(key)
    if (name === undefined) {
      if (this.#emitted.size >= MAX_EMITTED) throw broken(`inlined, it has more than ${MAX_EMITTED} operations`)
      // The numbers make names unique in all functions; the rest serves who reads an error.
      name = `${node.name.replaceAll(/[^\w./]/g, '_').slice(-80)}/${this.#emitted.size}`
      this.#emitted.set(key, name)
      this.#queue.push({ scope, node, name })
    }
    return index === 0 ? name : `${name}:${index}`
  }

  #emit(scope: Scope, node: Node, name: string): void {
    const nodes = this.#bodies.get(scope.body)
    if (nodes === undefined) throw broken(`"${node.name}" is in no graph`)
    const op = RENAMED.get(node.op) ?? node.op
    if (op === 'Const') {
      const value = node.attributes.get('value')
      if (value?.kind !== 'tensor') throw broken(`the constant "${node.name}" has no value`)
      const weight = readTensor(value.value)
      this.#bytes += weight.data.byteLength
      if (this.#bytes > MAX_CONSTANT_BYTES) throw broken(`its constants have more than ${MAX_CONSTANT_BYTES} bytes`)
      if (weight.type === 'string') this.#plain = false
      this.#constants.push({ name, weight })
      nodes.push({ name, op, input: [], attr: {} })
      return
    }
    if (VARIABLES.has(op)) {
      const of = variableId(node)
      // Saved without a restoring operation, a variable has the key that it was named by.
      const key = this.#keys.get(of) ?? of.slice(of.indexOf('\0') + 1)
      this.#variables.set(name, { name, key, of })
      nodes.push({ name, op: 'Const', input: [], attr: {} })
      return
    }
    if (op === 'Placeholder') throw broken(`its outputs need "${node.name}", which the signature does not list among its inputs`)
    if (!isRunnable(op)) throw unsupported(`it has no operation ${node.op} (node "${node.name}"); install @tensorflow/tfjs-node on the host, or change the model`)
    if (isWaiting(op)) this.#waiting = true
    const input = node.inputs.map(reference => this.#tensor(this.#scopes.locate(scope, reference)))
    const attr: Record<string, unknown> = {}
    const defaults = this.#scopes.graph.operations.get(node.op)?.defaults
    for (const [key, value] of new Map([...(defaults ?? []), ...node.attributes])) {
      if (/^[a-z]\w{0,99}$/i.test(key)) attr[key] = attributeJson(value)
      if (value.kind === 'type' && (value.value === TEXT || (value.value === BOOLEAN && op.startsWith('Reverse')))) this.#plain = false
    }
    for (const attribute of BODIES.get(op) ?? []) attr[attribute] = { func: { name: this.#body(scope, node, attribute) } }
    nodes.push({ name, op, input, attr })
  }

  #body(scope: Scope, node: Node, attribute: string): string {
    const called = node.attributes.get(attribute)
    if (called?.kind !== 'function') throw broken(`"${node.name}" (${node.op}) names no function as its ${attribute}`)
    const inside = this.#scopes.bodyOf(scope, called.value)
    const { signature, returns } = this.#scopes.functionNamed(called.value)
    const nodeDef: FrozenNode[] = []
    this.#bodies.set(inside.body, nodeDef)
    const name = `function/${inside.id}`
    const inputArg = signature.inputs.map(({ type }, index) => ({ name: `argument/${inside.id}/${index}`, type: nearestType(type) }))
    const ret: Record<string, string> = {}
    // A node of its own for each output: TensorFlow.js remembers only one output of a node that a function returns.
    const outputArg = signature.outputs.map(({ name: output, type }, index) => {
      const returned = returns.get(output)
      if (returned === undefined) throw broken(`the function "${called.value}" does not return "${output}"`)
      const own = `result/${inside.id}/${index}`
      nodeDef.push({ name: own, op: 'Identity', input: [this.#tensor(this.#scopes.locate(inside, returned))], attr: {} })
      ret[own] = own
      return { name: own, type: nearestType(type) }
    })
    this.#functions.push({ signature: { name, inputArg, outputArg }, nodeDef, ret })
    return name
  }

  /** A model whose answers depend on earlier calls would answer differently here, and on every instance. */
  #refuseMemory(): void {
    const read = new Set([...this.#variables.values()].map(variable => variable.of))
    for (const scope of this.#scopes.all) {
      if (scope === this.#scopes.main || this.#restores(scope)) continue
      for (const node of scope.nodes.values()) {
        if (!WRITES.test(node.op) || node.inputs[0] === undefined) continue
        const written = this.#scopes.locate(scope, node.inputs[0])
        if (written.kind === 'node' && VARIABLES.has(written.node.op) && read.has(variableId(written.node))) {
          throw unsupported(`it writes the variable "${written.node.name}" while it answers (${node.op} "${node.name}"); keep state in a block with code instead`)
        }
      }
    }
  }

  #restores(scope: Scope): boolean {
    for (const node of scope.nodes.values()) if (node.op === 'RestoreV2') return true
    return false
  }
}

function attributeJson(attribute: Attribute): Json {
  switch (attribute.kind) {
    case 'bytes': return { s: base64(attribute.value) }
    case 'integer': return { i: attribute.value }
    case 'float': return { f: attribute.value }
    case 'boolean': return { b: attribute.value }
    case 'type': return { type: nearestType(attribute.value) }
    case 'shape': return { shape: shapeJson(attribute.value) }
    case 'list': {
      const { bytes, integers, floats, booleans, types, shapes } = attribute.value
      return { list: { s: bytes.map(base64), i: integers, f: floats, b: booleans, type: types.map(nearestType), shape: shapes.map(shapeJson) } }
    }
    case 'tensor': case 'function': return {}
  }
}

function shapeJson(shape: Shape): Json {
  return shape === undefined ? { unknownRank: true } : { dim: shape.map(size => ({ size })) }
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}
