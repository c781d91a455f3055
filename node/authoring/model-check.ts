import { readFile } from 'node:fs/promises'
import { posix } from 'node:path'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { readSkeleton } from '../../src/llm/onnx/skeleton.ts'
import { invalid, type DirectoryFile } from './directory.ts'
import { FileAccess } from './file-access.ts'

/** model.json of TensorFlow.js, as far as it names other files. */
const layout = z.object({ modelTopology: z.unknown().optional(), weightsManifest: z.array(z.object({ paths: z.array(z.string()).max(100_000) })).max(10_000).optional() })
const LAYOUT_BYTES = 268_435_456

/**
 * Looks whether a model's file is one, and whole: a host that is given a broken one learns it only after it has won the bid and fetched
 * the weights. Reads the graph, never the weights. Throws SPEC_INVALID naming the file.
 */
export async function checkModelFile(path: string, files: readonly DirectoryFile[]): Promise<void> {
  const model = files.find(file => file.path === path)
  if (model === undefined) return
  if (path.endsWith('.onnx')) await checkOnnx(model, files)
  else if (path.endsWith('.json')) await checkLayout(model, files)
}

async function checkOnnx(model: DirectoryFile, files: readonly DirectoryFile[]): Promise<void> {
  await using access = new FileAccess()
  try {
    const { model: { graph, opsetImport } } = await readSkeleton(await access.file(model.absolute), async location => {
      const beside = files.find(file => file.path === posix.join(posix.dirname(model.path), location))
      return beside === undefined ? undefined : access.file(beside.absolute)
    })
    if (graph === undefined || graph.output.length === 0 || opsetImport.length === 0) throw invalid(model.path, 'is no ONNX model: it holds no graph with outputs')
  } catch (error) {
    if (error instanceof MeshError) throw error.message.startsWith(model.path) ? error : invalid(model.path, error.message)
    throw invalid(model.path, `is no ONNX model: ${error instanceof Error ? error.message : String(error)}`)
  }
}

async function checkLayout(model: DirectoryFile, files: readonly DirectoryFile[]): Promise<void> {
  if (model.size > LAYOUT_BYTES) throw invalid(model.path, `has ${model.size} bytes; the limit of a model's description is ${LAYOUT_BYTES}`)
  let read: z.infer<typeof layout>
  try {
    read = layout.parse(JSON.parse(await readFile(model.absolute, 'utf8')))
  } catch (cause) {
    throw invalid(model.path, `is no model.json of TensorFlow.js: ${cause instanceof z.ZodError ? z.prettifyError(cause) : String(cause)}`)
  }
  if (read.modelTopology === undefined) throw invalid(model.path, 'has no modelTopology: convert the model with tensorflowjs_converter')
  const beside = new Set(files.map(file => file.path))
  for (const weights of (read.weightsManifest ?? []).flatMap(({ paths }) => paths)) {
    if (!beside.has(posix.join(posix.dirname(model.path), weights))) throw invalid(model.path, `names ${weights}, which is not there: put it beside the model`)
  }
}
