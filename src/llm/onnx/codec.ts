import { fromBinary, toBinary, type DescMessage, type MessageShape } from '@bufbuild/protobuf'
import { MeshError } from '../../../protocols/errors.ts'
import { ModelProtoSchema, type ModelProto } from './onnx-pb.js'

/** Parses a whole model. What our schema does not know is kept and written back. Throws SPEC_INVALID for anything that is not a ModelProto with a graph. */
export function decodeModel(bytes: Uint8Array): ModelProto {
  const model = parsed(ModelProtoSchema, bytes)
  if (model.graph === undefined) throw new MeshError('SPEC_INVALID', 'this ONNX model has no graph')
  return model
}

/** A message of an ONNX file. Throws SPEC_INVALID. */
export function parsed<Schema extends DescMessage>(schema: Schema, bytes: Uint8Array): MessageShape<Schema> {
  try {
    return fromBinary(schema, bytes)
  } catch (cause) {
    throw new MeshError('SPEC_INVALID', `this is not an ONNX model: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
}

/** The bytes of a model, in field order: decoding and encoding again gives the same bytes as any writer that does so too. */
export function encodeModel(model: ModelProto): Uint8Array {
  return toBinary(ModelProtoSchema, model)
}
