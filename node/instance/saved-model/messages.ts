/** The part of TensorFlow's protobuf schemas (saved_model.proto and what it holds) that running a model needs. */
import { broken } from './failure.ts'
import { WireReader } from './wire.ts'

/** Dimensions, -1 where free; undefined where even their number is free. */
export type Shape = readonly number[] | undefined
export type Attribute =
  | { readonly kind: 'bytes'; readonly value: Uint8Array }
  | { readonly kind: 'integer' | 'float' | 'type'; readonly value: number }
  | { readonly kind: 'boolean'; readonly value: boolean }
  | { readonly kind: 'shape'; readonly value: Shape }
  /** A TensorProto, still encoded. */
  | { readonly kind: 'tensor'; readonly value: Uint8Array }
  | { readonly kind: 'function'; readonly value: string }
  | { readonly kind: 'list'; readonly value: AttributeList }
export type AttributeList = { readonly bytes: readonly Uint8Array[]; readonly integers: readonly number[]; readonly floats: readonly number[]; readonly booleans: readonly boolean[]; readonly types: readonly number[]; readonly shapes: readonly Shape[] }

export type Node = { readonly name: string; readonly op: string; readonly inputs: readonly string[]; readonly controls: readonly string[]; readonly attributes: ReadonlyMap<string, Attribute> }
export type Argument = { readonly name: string; readonly type: number; readonly numberAttribute: string; readonly typesAttribute: string }
export type Operation = { readonly name: string; readonly inputs: readonly Argument[]; readonly outputs: readonly Argument[]; readonly defaults: ReadonlyMap<string, Attribute> }
export type GraphFunction = { readonly signature: Operation; readonly nodes: ReadonlyMap<string, Node>; readonly returns: ReadonlyMap<string, string> }
export type Endpoint = { readonly key: string; readonly tensor: string; readonly type: number; readonly shape: Shape }
export type Signature = { readonly inputs: readonly Endpoint[]; readonly outputs: readonly Endpoint[] }
export type MetaGraph = {
  readonly tags: readonly string[]
  readonly operations: ReadonlyMap<string, Operation>
  readonly nodes: ReadonlyMap<string, Node>
  readonly functions: ReadonlyMap<string, GraphFunction>
  readonly signatures: ReadonlyMap<string, Signature>
  /** The operation that restores the variables; empty where there are none. */
  readonly restore: string
}

const MAX_NODES = 1_000_000

/** The graphs of a saved_model.pb. Throws COMPONENT_ERROR. */
export function readSavedModel(bytes: Uint8Array): readonly MetaGraph[] {
  const graphs: MetaGraph[] = []
  const wire = new WireReader(bytes)
  while (wire.next()) if (wire.field === 2) graphs.push(readMetaGraph(wire.bytes()))
  if (graphs.length === 0) throw broken('saved_model.pb holds no graph')
  return graphs
}

function readMetaGraph(bytes: Uint8Array): MetaGraph {
  const tags: string[] = []
  const operations = new Map<string, Operation>()
  const nodes = new Map<string, Node>()
  const functions = new Map<string, GraphFunction>()
  const signatures = new Map<string, Signature>()
  let restore = ''
  const wire = new WireReader(bytes)
  while (wire.next()) {
    if (wire.field === 1) readInfo(wire.bytes(), tags, operations)
    else if (wire.field === 2) readGraph(wire.bytes(), nodes, functions)
    else if (wire.field === 3) restore = textField(wire.bytes(), 3)
    else if (wire.field === 5) {
      const [key, value] = entry(wire.bytes())
      signatures.set(key, readSignature(value))
    }
  }
  return { tags, operations, nodes, functions, signatures, restore }
}

function readInfo(bytes: Uint8Array, tags: string[], operations: Map<string, Operation>): void {
  const wire = new WireReader(bytes)
  while (wire.next()) {
    if (wire.field === 4) tags.push(wire.text())
    if (wire.field !== 2) continue
    const list = new WireReader(wire.bytes())
    while (list.next()) {
      if (list.field !== 1) continue
      const operation = readOperation(list.bytes())
      operations.set(operation.name, operation)
    }
  }
}

function readGraph(bytes: Uint8Array, nodes: Map<string, Node>, functions: Map<string, GraphFunction>): void {
  const wire = new WireReader(bytes)
  while (wire.next()) {
    if (wire.field === 1) addNode(nodes, wire.bytes())
    if (wire.field !== 2) continue
    const library = new WireReader(wire.bytes())
    while (library.next()) {
      if (library.field !== 1) continue
      const read = readFunction(library.bytes())
      functions.set(read.signature.name, read)
    }
  }
}

function addNode(nodes: Map<string, Node>, bytes: Uint8Array): void {
  const node = readNode(bytes)
  if (nodes.has(node.name)) throw broken(`two nodes are called "${node.name}"`)
  if (nodes.size >= MAX_NODES) throw broken(`a graph has more than ${MAX_NODES} nodes`)
  nodes.set(node.name, node)
}

function readNode(bytes: Uint8Array): Node {
  let name = ''
  let op = ''
  const inputs: string[] = []
  const controls: string[] = []
  const attributes = new Map<string, Attribute>()
  const wire = new WireReader(bytes)
  while (wire.next()) {
    if (wire.field === 1) name = wire.text()
    else if (wire.field === 2) op = wire.text()
    else if (wire.field === 3) {
      const input = wire.text()
      if (input.startsWith('^')) controls.push(input.slice(1))
      else inputs.push(input)
    } else if (wire.field === 5) {
      const [key, value] = entry(wire.bytes())
      const attribute = readAttribute(value)
      if (attribute !== undefined) attributes.set(key, attribute)
    }
  }
  return { name, op, inputs, controls, attributes }
}

function readFunction(bytes: Uint8Array): GraphFunction {
  let signature: Operation | undefined
  const nodes = new Map<string, Node>()
  const returns = new Map<string, string>()
  const wire = new WireReader(bytes)
  while (wire.next()) {
    if (wire.field === 1) signature = readOperation(wire.bytes())
    else if (wire.field === 3) addNode(nodes, wire.bytes())
    else if (wire.field === 4) {
      const [key, value] = entry(wire.bytes())
      returns.set(key, new TextDecoder().decode(value))
    }
  }
  if (signature === undefined) throw broken('a function without a signature')
  return { signature, nodes, returns }
}

function readOperation(bytes: Uint8Array): Operation {
  let name = ''
  const inputs: Argument[] = []
  const outputs: Argument[] = []
  const defaults = new Map<string, Attribute>()
  const wire = new WireReader(bytes)
  while (wire.next()) {
    if (wire.field === 1) name = wire.text()
    else if (wire.field === 2) inputs.push(readArgument(wire.bytes()))
    else if (wire.field === 3) outputs.push(readArgument(wire.bytes()))
    else if (wire.field === 4) {
      const attribute = new WireReader(wire.bytes())
      let key = ''
      let value: Attribute | undefined
      while (attribute.next()) {
        if (attribute.field === 1) key = attribute.text()
        else if (attribute.field === 3) value = readAttribute(attribute.bytes())
      }
      if (value !== undefined) defaults.set(key, value)
    }
  }
  return { name, inputs, outputs, defaults }
}

function readArgument(bytes: Uint8Array): Argument {
  const argument = { name: '', type: 0, numberAttribute: '', typesAttribute: '' }
  const wire = new WireReader(bytes)
  while (wire.next()) {
    if (wire.field === 1) argument.name = wire.text()
    else if (wire.field === 3) argument.type = wire.integer()
    else if (wire.field === 5) argument.numberAttribute = wire.text()
    else if (wire.field === 6) argument.typesAttribute = wire.text()
  }
  return argument
}

function readAttribute(bytes: Uint8Array): Attribute | undefined {
  let attribute: Attribute | undefined
  const wire = new WireReader(bytes)
  while (wire.next()) {
    switch (wire.field) {
      case 1: attribute = { kind: 'list', value: readList(wire.bytes()) }; break
      case 2: attribute = { kind: 'bytes', value: wire.bytes() }; break
      case 3: attribute = { kind: 'integer', value: wire.integer() }; break
      case 4: attribute = { kind: 'float', value: wire.float() }; break
      case 5: attribute = { kind: 'boolean', value: wire.boolean() }; break
      case 6: attribute = { kind: 'type', value: wire.integer() }; break
      case 7: attribute = { kind: 'shape', value: readShape(wire.bytes()) }; break
      case 8: attribute = { kind: 'tensor', value: wire.bytes() }; break
      case 10: attribute = { kind: 'function', value: textField(wire.bytes(), 1) }; break
    }
  }
  return attribute
}

function readList(bytes: Uint8Array): AttributeList {
  const list = { bytes: new Array<Uint8Array>(), integers: new Array<number>(), floats: new Array<number>(), types: new Array<number>(), shapes: new Array<Shape>() }
  const booleans: number[] = []
  const wire = new WireReader(bytes)
  while (wire.next()) {
    switch (wire.field) {
      case 2: list.bytes.push(wire.bytes()); break
      case 3: wire.integers(list.integers); break
      case 4: wire.floats(list.floats); break
      case 5: wire.integers(booleans); break
      case 6: wire.integers(list.types); break
      case 7: list.shapes.push(readShape(wire.bytes())); break
    }
  }
  return { ...list, booleans: booleans.map(value => value !== 0) }
}

export function readShape(bytes: Uint8Array): Shape {
  const shape: number[] = []
  let free = false
  const wire = new WireReader(bytes)
  while (wire.next()) {
    if (wire.field === 3) free = wire.boolean()
    if (wire.field !== 2) continue
    const dimension = new WireReader(wire.bytes())
    let size = 0
    while (dimension.next()) if (dimension.field === 1) size = dimension.integer()
    if (size < -1 || !Number.isSafeInteger(size) || shape.length >= 254) throw broken(`a shape with the dimension ${size}`)
    shape.push(size)
  }
  return free ? undefined : shape
}

function readSignature(bytes: Uint8Array): Signature {
  const inputs: Endpoint[] = []
  const outputs: Endpoint[] = []
  const wire = new WireReader(bytes)
  while (wire.next()) {
    if (wire.field !== 1 && wire.field !== 2) continue
    const [key, value] = entry(wire.bytes())
    ;(wire.field === 1 ? inputs : outputs).push(readEndpoint(key, value))
  }
  // A protobuf map has no order of its own.
  const byKey = (a: Endpoint, b: Endpoint): number => (a.key < b.key ? -1 : 1)
  return { inputs: inputs.sort(byKey), outputs: outputs.sort(byKey) }
}

function readEndpoint(key: string, bytes: Uint8Array): Endpoint {
  const endpoint: { key: string; tensor: string; type: number; shape: Shape } = { key, tensor: '', type: 0, shape: [] }
  const wire = new WireReader(bytes)
  while (wire.next()) {
    if (wire.field === 1) endpoint.tensor = wire.text()
    else if (wire.field === 2) endpoint.type = wire.integer()
    else if (wire.field === 3) endpoint.shape = readShape(wire.bytes())
  }
  return endpoint
}

/** Key and still encoded value of one entry of a map with text keys. */
function entry(bytes: Uint8Array): readonly [string, Uint8Array] {
  let key = ''
  let value: Uint8Array = new Uint8Array(0)
  const wire = new WireReader(bytes)
  while (wire.next()) {
    if (wire.field === 1) key = wire.text()
    else if (wire.field === 2) value = wire.bytes()
  }
  return [key, value]
}

function textField(bytes: Uint8Array, field: number): string {
  let text = ''
  const wire = new WireReader(bytes)
  while (wire.next()) if (wire.field === field) text = wire.text()
  return text
}
