import { toBinary, type DescField, type DescMessage } from '@bufbuild/protobuf'
import { MeshError } from '../../../protocols/errors.ts'
import { concat } from '../../lib/gather.ts'
import { decodeModel, parsed } from './codec.ts'
import { byteLength } from './element.ts'
import { ModelProtoSchema, TensorProtoSchema, type GraphProto, type ModelProto, type NodeProto, type TensorProto } from './onnx-pb.js'
import { Cursor, readExactly, type RandomAccess } from './random-access.ts'
import { isReferenced, pointTo, tensorBytes, tensorRef } from './tensor-ref.ts'

/**
 * A model without its large payloads: every tensor of more than a KiB is a reference (tensor-ref.ts) into the model file
 * itself or into its external data; smaller ones are inline, wherever they were.
 */
export type Skeleton = { readonly model: ModelProto }

/** Finds the external data file of that name, beside the model. Undefined where there is none. */
export type OpenExternal = (location: string) => Promise<RandomAccess | undefined>

export const INLINE_BYTES = 1024
/** Graphs of real models take a few MB; one that needs more memory than this is refused. */
const SKELETON_BYTES = 256 << 20
const DEEPEST = 64

const RAW_DATA = 9
/** Packed lists of TensorProto. Fixed-width ones are raw little-endian data as they lie. */
const PAYLOADS: ReadonlyMap<number, 'raw' | 'varint'> = new Map([[4, 'raw'], [RAW_DATA, 'raw'], [10, 'raw'], [5, 'varint'], [7, 'varint'], [11, 'varint']])

type Written = { readonly chunks: Uint8Array[]; length: number }

/**
 * Reads a model by random access, without ever reading a large payload, so that files far beyond memory and protobuf's 2 GB
 * do. `open` is asked for external data files, to check references against their sizes and to take small tensors inline.
 * Throws SPEC_INVALID for anything malformed and NOT_FOUND for a missing external file.
 */
export async function readSkeleton(source: RandomAccess, open: OpenExternal = () => Promise.resolve(undefined)): Promise<Skeleton> {
  const reader = new SkeletonReader(source)
  const model = decodeModel(joined(await reader.message(ModelProtoSchema, source.size, 0)))
  const files = new Map<string, RandomAccess>([['', source]])
  for (const tensor of tensorsOf(model)) if (isReferenced(tensor)) await settle(tensor, files, open)
  return { model }
}

class SkeletonReader {
  readonly #cursor: Cursor
  readonly #fields = new Map<DescMessage, ReadonlyMap<number, DescField>>()
  #kept = 0

  constructor(source: RandomAccess) {
    this.#cursor = new Cursor(source)
  }

  async message(schema: DescMessage, end: number, depth: number): Promise<Written> {
    if (depth > DEEPEST) throw new MeshError('SPEC_INVALID', `the model nests messages more than ${DEEPEST} deep`)
    const written: Written = { chunks: [], length: 0 }
    const fields = this.#fieldsOf(schema)
    const elided: { readonly field: number; readonly offset: number; readonly stored: number }[] = []
    while (this.#cursor.offset < end) {
      const tag = await this.#cursor.varint(end)
      const number = Math.floor(tag / 8)
      const wire = tag % 8
      if (wire !== 2) {
        this.#append(written, varint(tag))
        this.#append(written, wire === 0 ? await this.#rawVarint(end) : await this.#copy(fixedWidth(wire, this.#cursor.offset), end))
        continue
      }
      const length = await this.#cursor.varint(end)
      if (this.#cursor.offset + length > end) throw new MeshError('SPEC_INVALID', `the model is cut short, or a length in it lies: field ${number} of ${schema.typeName} at byte ${this.#cursor.offset} says ${length} bytes`)
      if (length > INLINE_BYTES && schema.typeName === TensorProtoSchema.typeName && PAYLOADS.has(number)) {
        elided.push({ field: number, offset: this.#cursor.offset, stored: length })
        this.#cursor.offset += length
        continue
      }
      this.#append(written, varint(tag))
      const inner = length > INLINE_BYTES ? messageOf(fields.get(number)) : undefined
      if (inner === undefined) {
        this.#append(written, varint(length))
        this.#append(written, await this.#copy(length, end))
        continue
      }
      const nested = await this.message(inner, this.#cursor.offset + length, depth + 1)
      this.#append(written, varint(nested.length))
      written.chunks.push(...nested.chunks)
      written.length += nested.length
    }
    return elided.length === 0 ? written : this.#reference(joined(written), elided)
  }

  #reference(rest: Uint8Array, elided: readonly { readonly field: number; readonly offset: number; readonly stored: number }[]): Written {
    const tensor = parsed(TensorProtoSchema, rest)
    const [only, second] = elided
    if (only === undefined || second !== undefined) throw new MeshError('SPEC_INVALID', `tensor ${tensor.name} holds its data twice`)
    pointTo(tensor, { location: '', offset: only.offset, stored: only.stored, encoding: PAYLOADS.get(only.field) ?? 'raw' })
    const bytes = toBinary(TensorProtoSchema, tensor)
    return { chunks: [bytes], length: bytes.length }
  }

  async #copy(length: number, end: number): Promise<Uint8Array> {
    return Uint8Array.from(await this.#cursor.take(length, end))
  }

  async #rawVarint(end: number): Promise<Uint8Array> {
    const bytes: number[] = []
    for (;;) {
      const byte = (await this.#cursor.take(1, end))[0] ?? 0
      bytes.push(byte)
      if (byte < 128) return Uint8Array.from(bytes)
      if (bytes.length === 10) throw new MeshError('SPEC_INVALID', `byte ${this.#cursor.offset} of the model ends no varint`)
    }
  }

  #append(written: Written, bytes: Uint8Array): void {
    this.#kept += bytes.length
    if (this.#kept > SKELETON_BYTES) throw new MeshError('SPEC_INVALID', `the graph without its weights is larger than ${SKELETON_BYTES >> 20} MB`)
    written.chunks.push(bytes)
    written.length += bytes.length
  }

  #fieldsOf(schema: DescMessage): ReadonlyMap<number, DescField> {
    const known = this.#fields.get(schema) ?? new Map(schema.fields.map(field => [field.number, field]))
    this.#fields.set(schema, known)
    return known
  }
}

/** Checks that a reference lies inside its file; takes small tensors inline. */
async function settle(tensor: TensorProto, files: Map<string, RandomAccess>, open: OpenExternal): Promise<void> {
  const ref = tensorRef(tensor)
  const file = files.get(ref.location) ?? await open(ref.location)
  if (file === undefined) throw new MeshError('NOT_FOUND', `the model's weights file ${ref.location} is missing; put it beside the model`)
  files.set(ref.location, file)
  if (ref.offset + ref.stored > file.size) throw new MeshError('SPEC_INVALID', `tensor ${tensor.name} lies outside ${ref.location || 'the model file'}: bytes ${ref.offset} to ${ref.offset + ref.stored} of ${file.size}`)
  if (ref.length > INLINE_BYTES) return
  const bytes = ref.encoding === 'raw' ? await readExactly(file, ref.offset, ref.stored) : joined(await collect(tensorBytes(ref, file)))
  inline(tensor, Uint8Array.from(bytes))
}

function inline(tensor: TensorProto, bytes: Uint8Array): void {
  if (bytes.length !== byteLength(tensor.dataType, tensor.dims)) throw new MeshError('SPEC_INVALID', `the data of tensor ${tensor.name} contradicts its shape`)
  tensor.rawData = bytes
  tensor.externalData = []
  tensor.dataLocation = 0
}

/** Every dense tensor of a model: initializers and constants, at any depth. */
export function * tensorsOf(model: ModelProto): Generator<TensorProto> {
  if (model.graph !== undefined) yield * tensorsOfGraph(model.graph)
  for (const { node } of model.functions) yield * tensorsOfNodes(node)
}

function * tensorsOfGraph(graph: GraphProto): Generator<TensorProto> {
  yield * graph.initializer
  yield * tensorsOfNodes(graph.node)
}

function * tensorsOfNodes(nodes: readonly NodeProto[]): Generator<TensorProto> {
  for (const { attribute } of nodes) {
    for (const { t, g, tensors, graphs } of attribute) {
      if (t !== undefined) yield t
      yield * tensors
      if (g !== undefined) yield * tensorsOfGraph(g)
      for (const graph of graphs) yield * tensorsOfGraph(graph)
    }
  }
}

async function collect(pieces: AsyncIterable<Uint8Array>): Promise<Written> {
  const written: Written = { chunks: [], length: 0 }
  for await (const piece of pieces) {
    written.chunks.push(piece)
    written.length += piece.length
  }
  return written
}

function joined({ chunks, length }: Written): Uint8Array {
  return concat(chunks, length)
}

function messageOf(field: DescField | undefined): DescMessage | undefined {
  if (field?.fieldKind === 'message') return field.message
  return field?.fieldKind === 'list' && field.listKind === 'message' ? field.message : undefined
}

function fixedWidth(wire: number, offset: number): number {
  if (wire === 1) return 8
  if (wire === 5) return 4
  throw new MeshError('SPEC_INVALID', `byte ${offset} of the model starts no protobuf field`)
}

function varint(value: number): Uint8Array {
  const bytes: number[] = []
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Uint8Array.from([...bytes, rest])
    bytes.push(rest % 128 + 128)
  }
}
