import { MeshError } from '../../../protocols/errors.ts'
import { describe, readsOf } from './node.ts'
import type { GraphProto, NodeProto, TensorProto, ValueInfoProto } from './onnx-pb.js'

/** A graph in an order in which it can run, with who writes and who reads each value. Nodes are known by their place in `nodes`. */
export type WiredGraph = {
  readonly nodes: readonly NodeProto[]
  readonly reads: readonly (readonly string[])[]
  readonly producer: ReadonlyMap<string, number>
  readonly consumers: ReadonlyMap<string, readonly number[]>
  readonly initializers: ReadonlyMap<string, TensorProto>
  /** Inputs that must be fed: not those that only give an initializer's type. */
  readonly inputs: ReadonlyMap<string, ValueInfoProto>
  readonly outputs: ReadonlyMap<string, ValueInfoProto>
}

/** Wires `nodes` up as the graph's. Throws SPEC_INVALID for cycles, values written twice and values nobody writes, naming the node. */
export function wireGraph(graph: GraphProto, nodes: readonly NodeProto[] = graph.node): WiredGraph {
  const initializers = new Map(graph.initializer.map(tensor => [tensor.name, tensor]))
  const inputs = new Map(graph.input.filter(({ name }) => !initializers.has(name)).map(input => [input.name, input]))
  const outputs = new Map(graph.output.map(output => [output.name, output]))
  const sorted = inOrder(nodes, name => initializers.has(name) || inputs.has(name))
  const reads = sorted.map(readsOf)
  const producer = new Map(sorted.flatMap(({ output }, at) => output.filter(name => name !== '').map(name => [name, at] as const)))
  const consumers = new Map<string, number[]>()
  for (const [at, names] of reads.entries()) {
    for (const name of new Set(names)) {
      const known = consumers.get(name)
      if (known === undefined) consumers.set(name, [at])
      else known.push(at)
    }
  }
  for (const name of outputs.keys()) if (!producer.has(name) && !initializers.has(name) && !inputs.has(name)) throw new MeshError('SPEC_INVALID', `no node of the model writes its output ${name}`)
  return { nodes: sorted, reads, producer, consumers, initializers, inputs, outputs }
}

/** Nodes in an order in which they can run; what is in order already stays as it is. Throws as `wireGraph` does. */
export function inOrder(nodes: readonly NodeProto[], given: (name: string) => boolean): readonly NodeProto[] {
  const writer = new Map<string, NodeProto>()
  for (const node of nodes) {
    for (const name of node.output) {
      if (name === '') continue
      if (writer.has(name) || given(name)) throw new MeshError('SPEC_INVALID', `${describe(node)} writes ${name}, which is written already`)
      writer.set(name, node)
    }
  }
  const sorted: NodeProto[] = []
  const state = new Map<NodeProto, 'entered' | 'done'>()
  for (const root of nodes) {
    const path: { readonly node: NodeProto; readonly wants: readonly string[]; next: number }[] = []
    const enter = (node: NodeProto): void => {
      state.set(node, 'entered')
      path.push({ node, wants: readsOf(node), next: 0 })
    }
    if (!state.has(root)) enter(root)
    for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
      const name = top.wants[top.next++]
      if (name === undefined) {
        state.set(top.node, 'done')
        sorted.push(top.node)
        path.pop()
        continue
      }
      const before = writer.get(name)
      if (before === undefined) {
        if (!given(name)) throw new MeshError('SPEC_INVALID', `${describe(top.node)} reads ${name}, which nothing in the model writes`)
      } else if (state.get(before) === 'entered') {
        throw new MeshError('SPEC_INVALID', `the graph has a cycle through ${describe(before)}`)
      } else if (!state.has(before)) {
        enter(before)
      }
    }
  }
  return sorted
}
