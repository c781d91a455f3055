import { registerHooks } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { MeshError } from '../../protocols/errors.ts'
import { blockOf } from '../../sdk/block.ts'
import type { BlockDefinition } from '../../sdk/definition.ts'
import { givesEmbeddings } from '../../src/llm/embedding-model.ts'
import type { InstanceConfig } from './frames.ts'
import { modelBlock } from './model-block.ts'

const ENTRIES = ['main.mjs', 'index.mjs', 'main.js', 'index.js', 'main.ts', 'index.ts', 'block.ts']
const SDK = new URL('../../sdk/index.ts', import.meta.url).href

/** The block of a bundle: its entry file, or its model when it has no code. Throws SPEC_INVALID, or what the entry throws. */
export async function loadBlock(config: Pick<InstanceConfig, 'runtime' | 'bundle' | 'files' | 'blockData' | 'blockInitData'>): Promise<BlockDefinition> {
  const { runtime } = config
  if (runtime.entry === undefined && runtime.name !== 'node') {
    const model = runtime.model ?? config.files.find(file => file.endsWith(runtime.name === 'onnx' ? '.onnx' : 'model.json'))
    if (model === undefined) throw new MeshError('SPEC_INVALID', `the manifest's runtime.model names no file, and the bundle holds no ${runtime.name === 'onnx' ? '.onnx file' : 'model.json'}`)
    if (!config.files.includes(model)) throw new MeshError('SPEC_INVALID', `runtime.model is "${model}", which the bundle does not hold`)
    // A tokenizer is much to load for the many that need none.
    if (givesEmbeddings({ componentURI: String(config.blockData['componentURI'] ?? ''), initData: config.blockInitData })) return (await import('./embeddings/embedding-block.ts')).embeddingBlock(model)
    return modelBlock(model)
  }
  const entry = runtime.entry ?? ENTRIES.find(name => config.files.includes(name))
  if (entry === undefined) throw new MeshError('SPEC_INVALID', `the manifest's runtime.entry names no file, and the bundle holds none of ${ENTRIES.join(', ')}`)
  if (!config.files.includes(entry)) throw new MeshError('SPEC_INVALID', `runtime.entry is "${entry}", which the bundle does not hold`)
  resolveSdk()
  const module = (await import(pathToFileURL(join(config.bundle, entry)).href)) as Readonly<Record<string, unknown>>
  return blockOf(module, entry)
}

let resolving = false

/** Published bundles carry the SDK inside; an entry run from its folder finds this one. */
export function resolveSdk(): void {
  if (resolving) return
  resolving = true
  registerHooks({
    resolve: (specifier, context, next) => (specifier === 'aios-mesh/sdk' || specifier === 'aios-mesh' ? { url: SDK, shortCircuit: true } : next(specifier, context)),
  })
}
