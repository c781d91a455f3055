import { attributeOf } from './node.ts'
import type { GraphProto } from './onnx-pb.js'
import { integersOf } from './tensor-ref.ts'

export type Constant = { readonly rank: number; readonly values: readonly number[] }

/** Looks integers up that are constants of a graph, as initializers or as nodes; undefined for what is none. */
export function constantValues({ initializer, node }: GraphProto): (name: string | undefined) => Constant | undefined {
  const tensors = new Map(initializer.map(tensor => [tensor.name, tensor]))
  for (const one of node) {
    const tensor = one.opType === 'Constant' ? attributeOf(one, 'value')?.t : undefined
    if (tensor !== undefined) tensors.set(one.output[0] ?? '', tensor)
  }
  return name => {
    const tensor = tensors.get(name ?? '')
    const values = tensor === undefined ? undefined : integersOf(tensor)
    return tensor === undefined || values === undefined ? undefined : { rank: tensor.dims.length, values }
  }
}
