import { ELEMENT } from '../../../src/llm/onnx/element.ts'
import { node, shapeOf, valueInfo } from '../../../src/llm/onnx/node.ts'
import type { ModelProto, ValueInfoProto } from '../../../src/llm/onnx/onnx-pb.js'

/** As a decoder exported in two and merged is: the graph with caches was traced with one token, and has no triangle of who sees whom. */
export function forOneToken({ graph }: ModelProto): void {
  const longer = (info: ValueInfoProto) => info.name.startsWith('present') ? valueInfo(info.name, ELEMENT.float32, shapeOf(info)!.dims!.with(2, 'past_length + 1')) : info
  graph!.input = graph!.input.map(info => info.name.startsWith('past') ? valueInfo(info.name, ELEMENT.float32, shapeOf(info)!.dims!.with(2, 'past_length')) : info)
  graph!.output = graph!.output.map(longer)
  const branch = graph!.node[0]!.attribute.find(({ name }) => name === 'then_branch')!.g!
  branch.node = branch.node.map(one => {
    const [kept = ''] = one.opType === 'And' ? one.input.filter(name => branch.node.find(({ output }) => output.includes(name))?.opType !== 'LessOrEqual') : []
    return kept === '' ? one : node('Identity', [kept], one.output)
  }).filter(({ opType }) => opType !== 'LessOrEqual')
}
