import { readdir, readFile, realpath, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve, sep } from 'node:path'
import { MeshError } from '../../protocols/errors.ts'

/** Where the parts of a model on disk are. */
export type ModelLayout = {
  /** The graph, and the folder its external data is named from. */
  readonly graph: string
  readonly graphFolder: string
  /** Tokenizer and configurations that were found: name → absolute path. */
  readonly texts: ReadonlyMap<string, string>
  /** What the folder is called. */
  readonly name: string
}

/** Byte for byte part of the model. */
const TEXTS = ['config.json', 'generation_config.json', 'genai_config.json', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja', '1_Pooling/config.json', 'sentence_bert_config.json'] as const
const TEXT_BYTES = 67_108_864
/** How exporters call a whole model, the likeliest first; the decoder that takes caches before one that does not. */
const USUAL = ['model.onnx', 'decoder_model_merged.onnx', 'decoder_with_past_model.onnx', 'decoder_model.onnx']
/** Where they put it. */
const FOLDERS = ['', 'onnx']

/**
 * Finds a model as Hugging Face's ONNX exports lay it out: the graph in the folder itself or in `onnx/`, the texts beside it or one
 * above. `path` is that folder or a graph in it; `file` chooses among several graphs. Throws NOT_FOUND and BAD_INPUT that
 * name what there is.
 */
export async function findModel(path: string, file?: string): Promise<ModelLayout> {
  const found = await stat(path).catch(() => undefined)
  if (found === undefined) throw new MeshError('NOT_FOUND', `${path}: no such file or folder`)
  const graph = found.isFile() ? resolve(path) : await chooseGraph(resolve(path), file)
  if (!graph.endsWith('.onnx')) throw new MeshError('BAD_INPUT', `${basename(graph)} is no ONNX model: export the model to ONNX first (its file ends in .onnx)`)
  const graphFolder = dirname(graph)
  const root = found.isFile() ? (FOLDERS.includes(basename(graphFolder)) ? dirname(graphFolder) : graphFolder) : resolve(path)
  const texts = new Map<string, string>()
  for (const name of TEXTS) {
    for (const folder of [root, graphFolder]) {
      const text = join(folder, name)
      if (texts.has(name) || (await stat(text).catch(() => undefined))?.isFile() !== true) continue
      texts.set(name, text)
    }
  }
  return { graph, graphFolder, texts, name: basename(found.isFile() && graphFolder === root ? graph.replace(/\.onnx$/, '') : root) }
}

async function chooseGraph(root: string, file: string | undefined): Promise<string> {
  const graphs = (await Promise.all(FOLDERS.map(async folder => (await readdir(join(root, folder)).catch(() => [])).filter(name => name.endsWith('.onnx')).sort().map(name => join(folder, name))))).flat()
  if (graphs.length === 0) throw new MeshError('NOT_FOUND', `${root} holds no .onnx file, nor does its onnx folder: export the model to ONNX first`)
  if (file !== undefined) {
    const wanted = graphs.find(graph => graph === file || basename(graph) === file || basename(graph) === `${file}.onnx` || basename(graph) === `model_${file}.onnx`)
    if (wanted === undefined) throw new MeshError('NOT_FOUND', `there is no ${file} among ${graphs.join(', ')}`)
    return join(root, wanted)
  }
  const usual = USUAL.flatMap(name => graphs.filter(graph => basename(graph) === name))[0]
  if (usual !== undefined) return join(root, usual)
  const [only, second] = graphs
  if (only === undefined || second !== undefined) throw new MeshError('BAD_INPUT', `several models are there: choose one with --file: ${graphs.join(', ')}`)
  return join(root, only)
}

/** An external data file named by a graph: in its folder, or nowhere. */
export async function externalFile({ graphFolder }: ModelLayout, location: string): Promise<string | undefined> {
  const path = resolve(graphFolder, location)
  if (!path.startsWith(graphFolder + sep)) return undefined
  // A link may lead elsewhere on purpose: caches of downloaded models are made of them. Where to, is the author's own business.
  const real = await realpath(path).catch(() => undefined)
  return real === undefined || (await stat(real)).isFile() === false ? undefined : real
}

/** The text files of a model, parsed where they are JSON. Throws SPEC_INVALID. */
export async function readTexts({ texts }: ModelLayout): Promise<ReadonlyMap<string, unknown>> {
  const read = new Map<string, unknown>()
  for (const [name, path] of texts) {
    if ((await stat(path)).size > TEXT_BYTES) throw new MeshError('SPEC_INVALID', `${name} has more than ${TEXT_BYTES >> 20} MiB`)
    const text = await readFile(path, 'utf8')
    if (!name.endsWith('.json')) {
      read.set(name, text)
      continue
    }
    try {
      read.set(name, JSON.parse(text))
    } catch (cause) {
      throw new MeshError('SPEC_INVALID', `${name} is not JSON: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    }
  }
  return read
}
