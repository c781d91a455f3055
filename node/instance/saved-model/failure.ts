import { MeshError } from '../../../protocols/errors.ts'

/** The files are damaged, or are no SavedModel. */
export function broken(message: string): MeshError {
  return new MeshError('COMPONENT_ERROR', `the SavedModel cannot be read: ${message}`)
}

/** The model is sound, but asks for what TensorFlow.js does not have. */
export function unsupported(message: string): MeshError {
  return new MeshError('RUNTIME_UNAVAILABLE', `the SavedModel cannot run with TensorFlow.js alone: ${message}`)
}
