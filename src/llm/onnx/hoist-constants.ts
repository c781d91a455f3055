import { clone } from '@bufbuild/protobuf'
import { attributeOf, node } from './node.ts'
import { NodeProtoSchema, TensorProtoSchema, type GraphProto, type NodeProto, type TensorProto } from './onnx-pb.js'
import { isReferenced } from './tensor-ref.ts'

/**
 * Makes large constants initializers of the graph, those deep in bodies (If, Loop, Scan) too: only an initializer can lie in a
 * file of its own. A body keeps its name for one, as a copy of what it now sees around it.
 */
export function hoistConstants(graph: GraphProto): void {
  const hoisting = new Hoisting(graph.initializer)
  graph.node = graph.node.filter(one => {
    const value = constantOf(one)
    if (value !== undefined) hoisting.add(value, one.output[0] ?? '')
    return value === undefined
  }).map(one => hoisting.withoutConstants(one))
}

class Hoisting {
  readonly #into: TensorProto[]
  #count = 0

  constructor(into: TensorProto[]) {
    this.#into = into
  }

  add(value: TensorProto, name: string): void {
    const tensor = clone(TensorProtoSchema, value)
    tensor.name = name
    this.#into.push(tensor)
  }

  withoutConstants(of: NodeProto): NodeProto {
    if (!bodiesOf(of).some(holdsConstants)) return of
    const copy = clone(NodeProtoSchema, of)
    for (const body of bodiesOf(copy)) this.#empty(body)
    return copy
  }

  #empty(body: GraphProto): void {
    const large = body.initializer.filter(isReferenced)
    body.initializer = body.initializer.filter(tensor => !isReferenced(tensor))
    body.node = [...large.map(tensor => this.#outside(tensor, tensor.name)), ...body.node.map(one => {
      const value = constantOf(one)
      return value === undefined ? this.withoutConstants(one) : this.#outside(value, one.output[0] ?? '')
    })]
  }

  #outside(value: TensorProto, name: string): NodeProto {
    const outer = `/aios/constant-${this.#count++}`
    this.add(value, outer)
    return node('Identity', [outer], [name])
  }
}

function holdsConstants(body: GraphProto): boolean {
  return body.initializer.some(isReferenced) || body.node.some(one => constantOf(one) !== undefined || bodiesOf(one).some(holdsConstants))
}

function bodiesOf(of: NodeProto): readonly GraphProto[] {
  return of.attribute.flatMap(({ g, graphs }) => g === undefined ? graphs : [g, ...graphs])
}

/** What a Constant whose payload is elsewhere holds. */
function constantOf(of: NodeProto): TensorProto | undefined {
  const value = of.opType === 'Constant' && of.domain === '' ? attributeOf(of, 'value')?.t : undefined
  return value !== undefined && isReferenced(value) ? value : undefined
}
