import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { decode, digest, encode, hex, utf8 } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import { cid as cidSchema, type Cid, type PeerId } from '../../protocols/ids.ts'
import type { ModelManifest } from '../../protocols/model.ts'
import type { BundleFile } from '../../protocols/specs.ts'
import { modelEnds, modelFacts, modelLayers, samplingDefaults } from '../../src/llm/model-facts.ts'
import { analyse } from '../../src/llm/onnx/analyse.ts'
import { encodeModel } from '../../src/llm/onnx/codec.ts'
import { roundActivationsToInt8 } from '../../src/llm/onnx/int8-activations.ts'
import { shapeOf } from '../../src/llm/onnx/node.ts'
import { pieceBytes, pieceFile, pieces, type Piece } from '../../src/llm/onnx/pieces.ts'
import type { RandomAccess } from '../../src/llm/onnx/random-access.ts'
import { readSkeleton, tensorsOf, type Skeleton } from '../../src/llm/onnx/skeleton.ts'
import { isReferenced, tensorRef } from '../../src/llm/onnx/tensor-ref.ts'
import { genaiDocuments } from '../../src/llm/text/genai-config.ts'
import type { ContentStore, Journal } from '../../src/ports.ts'
import type { ArtefactCatalogue } from '../../src/registries/catalogue.ts'
import { parseComponent } from '../../src/specs/component.ts'
import { makeUri, parseUri, type VersionedUri } from '../../src/specs/uri.ts'
import type { PublishProgress } from './authoring.ts'
import { FileAccess } from './file-access.ts'
import { externalFile, findModel, readTexts, type ModelLayout } from './model-layout.ts'
import { checkTexts, textNotes } from './model-texts.ts'

export type ModelImportPorts = {
  readonly content: Pick<ContentStore, 'add' | 'has' | 'pin'>
  /** Remembers what an interrupted import has stored. */
  readonly journal: Pick<Journal, 'get' | 'set'>
  readonly catalogue: Pick<ArtefactCatalogue, 'publishModel' | 'publishComponent'>
  readonly author: PeerId
}

export type ImportOptions = {
  /** `name:version-tag`; the folder's name and 1.0.0-stable where it is not said. */
  readonly name?: string | undefined
  /** Which graph, where several are there. */
  readonly file?: string | undefined
  /** `int8`: products with weights of 4 or 8 bits round their activations, faster and to other logits than the export's. */
  readonly activations?: 'int8' | undefined
  readonly signal?: AbortSignal
  readonly progress?: (progress: PublishProgress) => void
}

/** `graph`: the file that was taken; `others`: graphs beside it that were not. `notes`: what is worth knowing before it is served. */
export type ImportedModel = {
  readonly uri: string
  readonly cid: Cid
  readonly kind: 'decoder' | 'encoder'
  readonly layers: number
  readonly parameters: number
  readonly files: number
  readonly bytes: number
  readonly graph: string
  readonly others: readonly string[]
  readonly notes: readonly string[]
}

type Source = {
  readonly path: string
  readonly size: number
  readonly bytes: () => AsyncIterable<Uint8Array>
  /** The same as long as the same places of unchanged files are meant. Absent for what is too small to remember. */
  readonly mark?: string
}
const ONE_BY_ONE = 'its graph was made for one token at a time (nothing in it keeps a token from seeing those after it), so prompts are computed token by token: an export as one model.onnx, without use_cache_branch, takes them in one go'
const MEMORY = 'import/'
const MARK_BYTES = 256

/**
 * Imports a model from disk: the graph is read without its weights, these stream piece by piece into the content store, so that
 * memory stays small however large the model is. Nothing has a name before all of it is stored; what was stored before an
 * interruption is not read again as long as the files are the same. A decoder becomes pieces, an encoder a component of runtime `onnx`.
 */
export async function importModel(ports: ModelImportPorts, path: string, options: ImportOptions = {}): Promise<ImportedModel> {
  const layout = await findModel(path, options.file)
  const named = nameOf(options.name, layout)
  await using files = new FileAccess()
  const open = async (location: string): Promise<RandomAccess | undefined> => {
    const file = await externalFile(layout, location)
    return file === undefined ? undefined : files.file(file)
  }
  const skeleton = await readSkeleton(await files.file(layout.graph), open)
  const texts = await readTexts(layout)
  if (isEncoder(skeleton, layout) && options.activations !== undefined) throw new MeshError('BAD_INPUT', 'activations are rounded in decoders only; a sentence encoder is published as it is')
  if (isEncoder(skeleton, layout)) return importEncoder(ports, named, layout, skeleton, texts, options)

  if (options.activations === 'int8') roundActivationsToInt8(skeleton.model)
  const analysis = analyse(skeleton)
  const text = await checkTexts(layout, texts)
  const weights = pieces(analysis)
  const graph = encodeModel(skeleton.model)
  const instead = texts.has('genai_config.json') ? genaiDocuments(texts.get('genai_config.json')) : undefined
  const generation = texts.get('generation_config.json') ?? instead?.generation
  const facts = modelFacts(analysis, weights, { config: texts.get('config.json') ?? instead?.config, generation, ends: text.ends })
  const reopened = async (location: string): Promise<RandomAccess> => {
    const file = location === '' ? await files.file(layout.graph) : await open(location)
    if (file === undefined) throw new MeshError('NOT_FOUND', `the model's weights file ${location} is gone`)
    return file
  }
  const storing = new Storing(ports, options, [
    { path: 'skeleton.onnx', size: graph.byteLength, bytes: () => once(graph) },
    ...await Promise.all(weights.map(async piece => ({ path: pieceFile(piece.name), size: piece.size, bytes: () => pieceBytes(piece, reopened), mark: await markOf(piece, layout) }))),
    ...await textSources(layout),
  ])
  const [stored, ...rest] = await storing.run()
  if (stored === undefined) throw new MeshError('INTERNAL', 'the graph was not stored')
  const manifest: ModelManifest = {
    modelURI: makeUri(named), modelId: named, facts, skeleton: stored, pieces: rest.slice(0, weights.length),
    layers: [...modelLayers(analysis, weights)], ...modelEnds(analysis),
    files: rest.slice(weights.length), generation: { ...samplingDefaults(generation) }, author: ports.author,
  }
  const { uri, cid } = await ports.catalogue.publishModel(manifest)
  await storing.forget()
  const notes = [...analysis.oneByOne ? [ONE_BY_ONE] : [], ...textNotes(text, facts.vocab)]
  return { uri, cid, kind: 'decoder', layers: analysis.layers, parameters: facts.parameters, files: rest.length + 1, bytes: storing.bytes, graph: layout.file, others: layout.others, notes }
}

/** An encoder needs no cut: it is a component like any ONNX model, with its tokenizer, marked as giving embeddings. */
async function importEncoder(ports: ModelImportPorts, named: VersionedUri, layout: ModelLayout, skeleton: Skeleton, texts: ReadonlyMap<string, unknown>, options: ImportOptions): Promise<ImportedModel> {
  if (!texts.has('tokenizer.json')) throw new MeshError('SPEC_INVALID', `${layout.name} takes no keys and values, so it is an encoder; one needs its tokenizer.json beside it (a plain ONNX model is published as a component: \`aios component publish\`)`)
  await checkTexts(layout, texts, { chats: false })
  const locations = [...new Set([...tensorsOf(skeleton.model)].filter(isReferenced).map(tensor => tensorRef(tensor).location).filter(location => location !== ''))].sort()
  const sources = [await fileSource('model.onnx', layout.graph)]
  for (const location of locations) {
    const file = await externalFile(layout, location)
    if (file !== undefined) sources.push(await fileSource(location, file))
  }
  const weightMb = Math.ceil(sources.reduce((sum, { size }) => sum + size, 0) / 1_048_576)
  const graph = skeleton.model.graph
  const storing = new Storing(ports, options, [...sources, ...await textSources(layout)])
  const stored = await storing.run()
  const draft = parseComponent({
    componentId: named, componentType: 'embeddings', runtime: { name: 'onnx', model: 'model.onnx', format: 'onnx' }, needs: { cpuMilli: 1_000, memoryMb: 192 + 2 * weightMb },
    componentInitData: { embeddings: true },
    componentMetadata: { usecase: 'embeddings', inputs: (graph?.input ?? []).map(({ name }) => name), outputs: (graph?.output ?? []).map(({ name }) => name) },
    tags: ['embeddings'],
  }, { author: ports.author, files: stored.map(({ path }) => path) })
  const { uri, cid } = await ports.catalogue.publishComponent({ ...draft, files: [...stored] })
  return { uri, cid, kind: 'encoder', layers: 0, parameters: 0, files: stored.length, bytes: storing.bytes, graph: layout.file, others: layout.others, notes: [] }
}

/** Puts files into the content store one after another and tells how far it is. */
class Storing {
  readonly bytes: number
  readonly #ports: ModelImportPorts
  readonly #options: ImportOptions
  readonly #sources: readonly Source[]
  #done = 0

  constructor(ports: ModelImportPorts, options: ImportOptions, sources: readonly Source[]) {
    this.#ports = ports
    this.#options = options
    this.#sources = sources
    this.bytes = sources.reduce((sum, { size }) => sum + size, 0)
  }

  async run(): Promise<readonly BundleFile[]> {
    const stored: BundleFile[] = []
    for (const source of this.#sources) {
      const known = await this.#remembered(source)
      const { cid, size } = known ?? await this.#ports.content.add(this.#counted(source), this.#options.signal)
      if (size !== source.size) throw new MeshError('SPEC_INVALID', `${source.path} changed while it was imported: it had ${source.size} bytes and has ${size}`)
      await this.#ports.content.pin(cid)
      if (known === undefined && source.mark !== undefined) await this.#ports.journal.set(MEMORY + source.mark, encode(cid))
      stored.push({ path: source.path, cid, size })
    }
    return stored
  }

  /** What an import that was interrupted has stored of it. */
  async #remembered({ path, mark, size }: Source): Promise<{ readonly cid: Cid; readonly size: number } | undefined> {
    const cell = mark === undefined ? undefined : await this.#ports.journal.get(MEMORY + mark)
    if (cell === undefined) return undefined
    const cid = decode(cidSchema, cell, MARK_BYTES, 'import')
    if (!(await this.#ports.content.has(cid))) return undefined
    this.#done += size
    this.#options.progress?.({ path, doneBytes: this.#done, totalBytes: this.bytes })
    return { cid, size }
  }

  /** It has a name now: there is nothing to go on with. */
  async forget(): Promise<void> {
    for (const { mark } of this.#sources) if (mark !== undefined) await this.#ports.journal.set(MEMORY + mark, undefined)
  }

  async * #counted({ path, bytes }: Source): AsyncGenerator<Uint8Array> {
    for await (const chunk of bytes()) {
      yield chunk
      this.#done += chunk.byteLength
      this.#options.progress?.({ path, doneBytes: this.#done, totalBytes: this.bytes })
    }
  }
}

async function markOf({ name, entries }: Piece, layout: ModelLayout): Promise<string> {
  const stamps = new Map<string, string>()
  for (const { tensor: { location } } of entries) {
    if (stamps.has(location)) continue
    const file = location === '' ? layout.graph : await externalFile(layout, location)
    const found = file === undefined ? undefined : await stat(file)
    stamps.set(location, `${file} ${found?.size} ${found?.mtimeMs}`)
  }
  return hex(digest(utf8(JSON.stringify([name, entries.map(({ offset, tensor }) => [offset, tensor.location, tensor.offset, tensor.stored, tensor.encoding]), [...stamps]]))))
}

/** No input holds keys and values: nothing has more than a batch and a length. */
function isEncoder({ model }: Skeleton, { file, others }: ModelLayout): boolean {
  const graph = model.graph
  if (graph === undefined) throw new MeshError('SPEC_INVALID', 'the file holds no graph')
  const weights = new Set(graph.initializer.map(({ name }) => name))
  const takesCaches = graph.input.some(input => !weights.has(input.name) && (shapeOf(input)?.dims?.length ?? 0) >= 3)
  const other = others.find(name => name === file.replace(/decoder_model(?=[^/]*$)/, 'decoder_with_past_model'))
  if (!takesCaches && other !== undefined) throw new MeshError('BAD_INPUT', `${file} is the half of the model that begins a prompt and takes no keys and values: import the other half, which does both, with --file ${other}`)
  if (!takesCaches && graph.output.some(({ name }) => name === 'logits')) throw new MeshError('SPEC_INVALID', 'the model gives logits but takes no keys and values: export it with its cache (with optimum: `--task text-generation-with-past`)')
  return !takesCaches
}

function nameOf(said: string | undefined, { name }: ModelLayout): VersionedUri {
  if (said !== undefined && said.includes(':')) return parseUri('asset', said)
  const plain = (said ?? name).toLowerCase().replace(/[^a-z0-9._-]+/g, '-').replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, '')
  if (plain === '') throw new MeshError('BAD_INPUT', 'name the model: --name my-model:1.0.0-stable')
  return { name: plain, version: '1.0.0', releaseTag: 'stable' }
}

async function textSources({ texts }: ModelLayout): Promise<Source[]> {
  return Promise.all([...texts].map(([name, path]) => fileSource(name, path)))
}

async function fileSource(path: string, file: string): Promise<Source> {
  return { path, size: (await stat(file)).size, bytes: () => bytesOf(file) }
}

async function * bytesOf(file: string): AsyncGenerator<Uint8Array> {
  for await (const chunk of createReadStream(file, { highWaterMark: 1_048_576 })) if (chunk instanceof Uint8Array) yield chunk
}

async function * once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
