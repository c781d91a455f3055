import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { decodeModel, encodeModel } from '../../../src/llm/onnx/codec.ts'
import type { ModelProto } from '../../../src/llm/onnx/onnx-pb.js'
import { makeModel, type ModelOptions } from '../../fixtures/llm/make-model.ts'

/** A directory under `root` with a model that is made and then changed. */
export function rewrittenModel(root: string, name: string, options: ModelOptions, rewrite: (model: ModelProto) => void): string {
  const model = decodeModel(readFileSync(join(makeModel(join(root, `${name}-source`), options).directory, 'model.onnx')))
  rewrite(model)
  const directory = join(root, name)
  mkdirSync(directory)
  writeFileSync(join(directory, 'model.onnx'), encodeModel(model))
  return directory
}
