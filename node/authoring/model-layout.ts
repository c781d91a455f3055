import { readdir, readFile, realpath, stat } from 'node:fs/promises'
import { basename, dirname, join, relative, resolve, sep } from 'node:path'
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
  /** The graph within the folder, and those beside it that were not taken: the same model in other precisions, its other half. */
  readonly file: string
  readonly others: readonly string[]
}

/** Byte for byte part of the model. */
const TEXTS = ['config.json', 'generation_config.json', 'genai_config.json', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja', '1_Pooling/config.json', 'sentence_bert_config.json'] as const
const TEXT_BYTES = 67_108_864
/** How exporters call a whole model, the likeliest first; the decoder that takes caches before one that does not. */
const USUAL = ['model', 'decoder_model_merged', 'decoder_with_past_model', 'decoder_model']
/** Where they put it. */
const FOLDERS = ['', 'onnx']
/** How deep else a graph is looked for, and in how many folders: some keep one a device and precision. */
const DEEPEST = 3
const MOST_FOLDERS = 256

/**
 * Finds a model as Hugging Face's ONNX exports lay it out: the graph in the folder itself or in `onnx/`, the texts beside it or one
 * above. `path` is that folder or a graph in it; `file` chooses among several graphs. Throws NOT_FOUND and BAD_INPUT that
 * name what there is.
 */
export async function findModel(path: string, file?: string): Promise<ModelLayout> {
  const found = await stat(path).catch(() => undefined)
  if (found === undefined) throw new MeshError('NOT_FOUND', `${path}: no such file or folder`)
  if (found.isFile() && !path.endsWith('.onnx')) throw new MeshError('BAD_INPUT', `${basename(path)} is no ONNX model: export the model to ONNX first (its file ends in .onnx)`)
  const folder = found.isFile() ? dirname(resolve(path)) : resolve(path)
  const graphs = await graphsIn(folder)
  const graph = found.isFile() ? resolve(path) : join(folder, chooseGraph(folder, graphs, file))
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
  return {
    graph, graphFolder, texts, name: basename(found.isFile() && graphFolder === root ? graph.replace(/\.onnx$/, '') : root),
    file: relative(folder, graph), others: graphs.filter(other => join(folder, other) !== graph),
  }
}

/** All graphs of a folder, where exporters put them; deeper down where there is none. */
async function graphsIn(root: string): Promise<readonly string[]> {
  const usual = (await Promise.all(FOLDERS.map(folder => graphsOf(root, folder)))).flat()
  let folders: readonly string[] = usual.length > 0 ? [] : ['']
  for (let depth = 0; depth < DEEPEST && folders.length > 0; depth++) {
    folders = (await Promise.all(folders.map(folder => subfolders(root, folder)))).flat().slice(0, MOST_FOLDERS)
    const found = (await Promise.all(folders.map(folder => graphsOf(root, folder)))).flat()
    if (found.length > 0) return found
  }
  return usual
}

async function graphsOf(root: string, folder: string): Promise<readonly string[]> {
  return (await readdir(join(root, folder)).catch(() => [])).filter(name => name.endsWith('.onnx')).sort().map(name => join(folder, name))
}

async function subfolders(root: string, folder: string): Promise<readonly string[]> {
  return (await readdir(join(root, folder), { withFileTypes: true }).catch(() => [])).filter(entry => entry.isDirectory() && !entry.name.startsWith('.')).map(({ name }) => join(folder, name)).sort()
}

/** What a graph's name says: which of the usual ones it is, and in which precision (`q4`, `fp16`, `quantized`…; nothing: as it was exported). */
function partsOf(graph: string): { readonly rank: number; readonly precision: string } | undefined {
  const stem = basename(graph, '.onnx')
  const rank = USUAL.findIndex(usual => stem === usual || stem.startsWith(`${usual}_`) && !USUAL.some(longer => longer.length > usual.length && (stem === longer || stem.startsWith(`${longer}_`))))
  return rank < 0 ? undefined : { rank, precision: stem.slice((USUAL[rank] ?? '').length + 1) }
}

/** The one that is asked for, by its name or its precision; else the one as it was exported, else the only precision there is. */
function chooseGraph(root: string, graphs: readonly string[], file: string | undefined): string {
  if (graphs.length === 0) throw new MeshError('NOT_FOUND', `${root} holds no .onnx file, nor does its onnx folder: export the model to ONNX first`)
  const likeliest = (precision: string): string | undefined => graphs.map(graph => ({ graph, parts: partsOf(graph) })).filter(({ parts }) => parts?.precision === precision).sort((a, b) => (a.parts?.rank ?? 0) - (b.parts?.rank ?? 0))[0]?.graph
  const deeper = new Set(graphs.map(graph => dirname(graph)).filter(folder => folder !== '.' && !FOLDERS.includes(folder)))
  const several = (): MeshError => new MeshError('BAD_INPUT', `several models are there: choose one with --file: ${graphs.join(', ')}`)
  if (file !== undefined) {
    const named = graphs.filter(graph => graph === file || dirname(graph) === file || basename(graph) === file || basename(graph) === `${file}.onnx`)
    if (named.length > 1 && deeper.size > 1) throw several()
    const wanted = named[0] ?? likeliest(file)
    if (wanted === undefined) throw new MeshError('NOT_FOUND', `there is no ${file} among ${graphs.join(', ')}`)
    return wanted
  }
  const [only, second] = new Set(graphs.map(graph => partsOf(graph)?.precision))
  const usual = deeper.size > 1 ? undefined : likeliest('') ?? (second === undefined && only !== undefined ? likeliest(only) : undefined)
  if (usual === undefined && graphs.length > 1) throw several()
  return usual ?? graphs[0] ?? ''
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
