import { clone, create } from '@bufbuild/protobuf'
import { AttributeProto_AttributeType as Kind, AttributeProtoSchema, NodeProtoSchema, TensorProtoSchema, ValueInfoProtoSchema, type AttributeProto, type GraphProto, type NodeProto, type TensorProto, type ValueInfoProto } from './onnx-pb.js'
import { ELEMENT } from './element.ts'

export const CONTRIB = 'com.microsoft'

/** A node; without a name, as ONNX allows. */
export function node(opType: string, input: readonly string[], output: readonly string[], attribute: readonly AttributeProto[] = [], domain = '', name = ''): NodeProto {
  return create(NodeProtoSchema, { name, opType, input: [...input], output: [...output], attribute: [...attribute], domain })
}

export function intAttribute(name: string, value: number): AttributeProto {
  return create(AttributeProtoSchema, { name, type: Kind.INT, i: BigInt(value) })
}

export function intsAttribute(name: string, values: readonly number[]): AttributeProto {
  return create(AttributeProtoSchema, { name, type: Kind.INTS, ints: values.map(BigInt) })
}

export function floatAttribute(name: string, value: number): AttributeProto {
  return create(AttributeProtoSchema, { name, type: Kind.FLOAT, f: value })
}

export function stringAttribute(name: string, value: string): AttributeProto {
  return create(AttributeProtoSchema, { name, type: Kind.STRING, s: new TextEncoder().encode(value) })
}

export function attributeOf(of: NodeProto, name: string): AttributeProto | undefined {
  return of.attribute.find(attribute => attribute.name === name)
}

export function integerOf(of: NodeProto, name: string): number | undefined {
  const attribute = attributeOf(of, name)
  return attribute === undefined ? undefined : Number(attribute.i)
}

/** A constant tensor of int64, a scalar or a list. */
export function integers(name: string, values: readonly number[] | number): TensorProto {
  const list = typeof values === 'number' ? [values] : values
  const data = BigInt64Array.from(list, BigInt)
  return create(TensorProtoSchema, { name, dataType: ELEMENT.int64, dims: typeof values === 'number' ? [] : [BigInt(list.length)], rawData: new Uint8Array(data.buffer) })
}

/** Declares an input or output; without `dims`, of any shape. A text is a dimension that varies, by name. */
export function valueInfo(name: string, elemType: number, dims?: readonly (number | string)[]): ValueInfoProto {
  const shape = dims === undefined ? undefined : { dim: dims.map(dim => ({ value: typeof dim === 'string' ? { case: 'dimParam' as const, value: dim } : { case: 'dimValue' as const, value: BigInt(dim) } })) }
  return create(ValueInfoProtoSchema, { name, type: { value: { case: 'tensorType', value: { elemType, ...(shape === undefined ? {} : { shape }) } } } })
}

export type Shape = { readonly dataType: number; readonly dims: readonly (number | string)[] | undefined }

/** Element type and dims that a declaration states; an unnamed varying dimension is ''. Undefined for what is no tensor. */
export function shapeOf(info: ValueInfoProto | undefined): Shape | undefined {
  const type = info?.type?.value
  if (type?.case !== 'tensorType') return undefined
  const dims = type.value.shape?.dim.map(({ value }) => value.case === 'dimValue' ? Number(value.value) : value.value ?? '')
  return { dataType: type.value.elemType, dims }
}

/** Every name a node reads, those its bodies (If, Loop, Scan) capture included. */
export function readsOf(of: NodeProto): readonly string[] {
  const names = of.input.filter(name => name !== '')
  for (const { g, graphs } of of.attribute) for (const body of g === undefined ? graphs : [g, ...graphs]) names.push(...capturedBy(body))
  return names
}

function capturedBy(body: GraphProto): readonly string[] {
  const own = new Set([...body.input.map(({ name }) => name), ...body.initializer.map(({ name }) => name), ...body.node.flatMap(({ output }) => output)])
  return [...body.node.flatMap(readsOf), ...body.output.map(({ name }) => name)].filter(name => !own.has(name))
}

/** A copy in which every value is called by another name, in bodies too. */
export function renamed(of: NodeProto, rename: (name: string) => string): NodeProto {
  const copy = clone(NodeProtoSchema, of)
  renameNode(copy, name => name === '' ? '' : rename(name))
  return copy
}

function renameNode(of: NodeProto, rename: (name: string) => string): void {
  of.input = of.input.map(rename)
  of.output = of.output.map(rename)
  for (const { g, graphs } of of.attribute) {
    for (const body of g === undefined ? graphs : [g, ...graphs]) {
      for (const named of [...body.input, ...body.output, ...body.initializer, ...body.valueInfo]) named.name = rename(named.name)
      for (const inner of body.node) renameNode(inner, rename)
    }
  }
}

/** How messages call a node: by its name, or by what it writes. */
export function describe(of: NodeProto): string {
  return of.name === '' ? `${of.opType} that writes ${of.output.find(name => name !== '') ?? 'nothing'}` : `${of.opType} ${of.name}`
}
