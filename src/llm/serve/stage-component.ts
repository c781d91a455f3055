import { utf8 } from '../../../protocols/codec.ts'
import { MeshError } from '../../../protocols/errors.ts'
import type { PeerId } from '../../../protocols/ids.ts'
import type { ModelManifest } from '../../../protocols/model.ts'
import type { BundleFile, ComponentManifest } from '../../../protocols/specs.ts'
import { stageFile, type StageFile } from '../../../protocols/stage-file.ts'
import { parseComponent } from '../../specs/component.ts'
import { boundaryBytes, kvBytes } from '../model-facts.ts'
import type { ModelAnalysis } from '../onnx/analyse.ts'
import { pieceFile } from '../onnx/pieces.ts'
import type { Skeleton } from '../onnx/skeleton.ts'
import { stageGraph } from '../onnx/stage-graph.ts'
import { stageNeeds } from '../plan/stage-needs.ts'

const GRAPH = 'stage.onnx'
const FILE = 'stage.json'

/** A stage before its own two files are stored; the weights it points to have been since the model was imported. */
export type StageDraft = {
  readonly draft: Omit<ComponentManifest, 'files'>
  readonly own: readonly { readonly path: string; readonly bytes: Uint8Array }[]
  readonly pieces: readonly BundleFile[]
}

/** The component of layers [first, end) of a model. The same layers give the same component, whoever serves them for whom. Throws SPEC_INVALID. */
export function stageComponent(manifest: ModelManifest, skeleton: Skeleton, analysis: ModelAnalysis, { first, end }: { readonly first: number; readonly end: number }, author: PeerId): StageDraft {
  const { facts, modelId } = manifest
  const { onnx, pieces, io } = stageGraph(skeleton, analysis, { first, end, select: true, greedy: true })
  const file: StageFile = stageFile.parse({
    model: manifest.modelURI,
    spec: {
      first, end, layers: manifest.layers.length, vocab: facts.vocab, contextTokens: facts.contextTokens, kvTokens: facts.contextTokens,
      inputBytes: boundaryBytes(io.receives), outputBytes: boundaryBytes(io.sends), kvBytes: kvBytes(io.caches),
    },
    io,
  })
  const names = new Set(pieces.map(pieceFile))
  const files = manifest.pieces.filter(({ path }) => names.has(path))
  if (files.length !== names.size) throw new MeshError('SPEC_INVALID', `${manifest.modelURI} lacks weights that its graph names: import it again under a new version`)
  const draft = parseComponent({
    componentId: { ...modelId, name: `${modelId.name}-l${first}-${end}` }, componentType: 'llm', runtime: { name: 'llm', model: GRAPH, format: 'onnx' },
    needs: stageNeeds(manifest, first, end, { contextTokens: facts.contextTokens, sessions: 1 }),
    componentMetadata: { model: manifest.modelURI, layers: [first, end], of: manifest.layers.length },
    tags: ['llm-stage'],
  }, { author })
  return { draft, own: [{ path: GRAPH, bytes: onnx }, { path: FILE, bytes: utf8(JSON.stringify(file)) }], pieces: files }
}
