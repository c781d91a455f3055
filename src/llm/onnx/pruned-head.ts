import { constantValues, type Constant } from './constant-values.ts'
import { attributeOf, integerOf, renamed } from './node.ts'
import type { GraphProto, NodeProto } from './onnx-pb.js'

const LOGITS = 'logits'
const TOKENS = 1
const FAR = 2 ** 31 - 1
/** Steps from the logits back to where tokens may be dropped: a product, its bias, scale and cap, conversions. */
const MOST_STEPS = 12
const STEPS: ReadonlySet<string> = new Set(['MatMul', 'Gemm', 'MatMulNBits', 'MatMulBnb4', 'FusedMatMul', 'Add', 'Mul', 'Div', 'Tanh', 'Cast', 'Identity', 'DequantizeLinear', 'QuantizeLinear'])

type Look = { readonly producer: ReadonlyMap<string, NodeProto>; readonly constant: (name: string | undefined) => Constant | undefined }

/** Takes out what gives only the last token to a head that was exported pruned: a stage chooses itself of which tokens it gives logits, and may be asked for several. */
export function unpruneHead(graph: GraphProto): void {
  const look: Look = { producer: new Map(graph.node.flatMap(one => one.output.map(name => [name, one] as const))), constant: constantValues(graph) }
  for (let name = LOGITS, steps = 0; steps < MOST_STEPS; steps += 1) {
    const all = tokensBefore(name, look)
    if (all !== undefined) {
      // Whoever read the last token reads all of them; an output's name stays.
      const [from, to] = name === LOGITS ? [all, name] : [name, all]
      graph.node = graph.node.filter(one => !one.output.includes(name)).map(one => [...one.input, ...one.output].includes(from) ? renamed(one, other => other === from ? to : other) : one)
      graph.valueInfo = graph.valueInfo.filter(info => info.name !== from && info.name !== to)
      return
    }
    const by = look.producer.get(name)
    if (by === undefined || !STEPS.has(by.opType)) return
    name = by.input[0] ?? ''
  }
}

/** The tokens of which a value is the last; undefined where it is not made so. */
function tokensBefore(name: string, { producer, constant }: Look): string | undefined {
  const by = producer.get(name)
  if (by === undefined) return undefined
  if (by.opType === 'Unsqueeze') {
    const axes = attributeOf(by, 'axes')?.ints.map(Number) ?? constant(by.input[1])?.values
    const inner = producer.get(by.input[0] ?? '')
    return axes?.length === 1 && axes[0] === TOKENS && inner !== undefined && takesLast(inner, 0, constant) ? inner.input[0] : undefined
  }
  if (by.opType === 'Slice') {
    const [from, to, axes, steps] = [1, 2, 3, 4].map(at => constant(by.input[at])?.values)
    const last = from?.length === 1 && from[0] === -1 && (to?.[0] ?? 0) >= FAR && axes?.[0] === TOKENS && (steps === undefined || steps[0] === 1)
    return last ? by.input[0] : undefined
  }
  return takesLast(by, 1, constant) ? by.input[0] : undefined
}

function takesLast(of: NodeProto, rank: number, constant: Look['constant']): boolean {
  const index = constant(of.input[1])
  return of.opType === 'Gather' && integerOf(of, 'axis') === TOKENS && index?.rank === rank && index.values.length === 1 && index.values[0] === -1
}
