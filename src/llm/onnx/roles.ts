import { MeshError } from '../../../protocols/errors.ts'
import { ELEMENT, byteLength } from './element.ts'
import type { WiredGraph } from './wired-graph.ts'
import { describe, shapeOf } from './node.ts'
import type { TensorProto } from './onnx-pb.js'

export type InputRole = 'ids' | 'mask' | 'positions'

const RESHAPES: ReadonlySet<string> = new Set(['Reshape', 'Squeeze', 'Unsqueeze', 'Flatten', 'Cast', 'Identity'])
/** A table of learned positions may be as large as one of tokens. */
const OTHERS = /position|mask|type/
const LOOKUPS: ReadonlySet<string> = new Set(['Gather', 'GatherBlockQuantized'])

/** What each input that is no cache is for: the one that indexes the largest table holds the tokens. Throws SPEC_INVALID for an input nobody would know how to fill. */
export function inputRoles(graph: WiredGraph, caches: ReadonlySet<string>): ReadonlyMap<string, InputRole> {
  const roles = new Map<string, InputRole>()
  let largest = 0
  let ids: string | undefined
  for (const { opType, input } of graph.nodes) {
    const table = LOOKUPS.has(opType) ? tableBehind(graph, input[0] ?? '') : undefined
    if (table === undefined || table.dataType === ELEMENT.string) continue
    const bytes = byteLength(table.dataType, table.dims)
    const index = inputBehind(graph, input[1] ?? '')
    if (index === undefined || OTHERS.test(index) || bytes <= largest) continue
    largest = bytes
    ids = index
  }
  if (ids === undefined) throw new MeshError('SPEC_INVALID', 'no input of the model looks up a token embedding; a model that takes embeddings is not supported')
  roles.set(ids, 'ids')
  for (const [name, info] of graph.inputs) {
    if (name === ids || caches.has(name)) continue
    const role = /mask/.test(name) ? 'mask' : /position/.test(name) ? 'positions' : undefined
    const reader = graph.nodes[graph.consumers.get(name)?.[0] ?? -1]
    if (role === undefined || shapeOf(info)?.dims?.length !== 2) throw new MeshError('SPEC_INVALID', `the model's input ${name} is none of token ids, attention mask, positions and caches${reader === undefined ? '' : `; it goes into ${describe(reader)}`}`)
    roles.set(name, role)
  }
  return roles
}

/** The nodes that look tokens up in a table. */
export function tokenLookups(graph: WiredGraph, roles: ReadonlyMap<string, InputRole>): readonly number[] {
  return [...graph.nodes.keys()].filter(at => {
    const { opType, input } = graph.nodes[at]!
    return LOOKUPS.has(opType) && tableBehind(graph, input[0] ?? '') !== undefined && roles.get(inputBehind(graph, input[1] ?? '') ?? '') === 'ids'
  })
}

/** The constant that a value is, turned, reshaped or converted: a head that shares its weights has them its own way round. */
function tableBehind(graph: WiredGraph, name: string): TensorProto | undefined {
  const by = graph.producer.get(name)
  if (by === undefined) return graph.initializers.get(name)
  const { opType, input } = graph.nodes[by]!
  return RESHAPES.has(opType) || opType === 'Transpose' || opType === 'DequantizeLinear' ? tableBehind(graph, input[0] ?? '') : undefined
}

/** The input that a value is, reshaped or converted. */
export function inputBehind(graph: WiredGraph, name: string): string | undefined {
  const by = graph.producer.get(name)
  if (by === undefined) return graph.inputs.has(name) ? name : undefined
  const { opType, input } = graph.nodes[by]!
  return RESHAPES.has(opType) ? inputBehind(graph, input[0] ?? '') : undefined
}
