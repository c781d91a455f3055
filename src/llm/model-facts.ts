import { z } from 'zod'
import { check } from '../../protocols/codec.ts'
import type { ModelCost, ModelFacts, ModelLayer } from '../../protocols/model.ts'
import type { Json } from '../../protocols/ids.ts'
import type { CacheShape, BoundaryTensor, ModelAnalysis } from './onnx/analyse.ts'
import { bitsOf, ELEMENT, elementName, type ElementName } from './onnx/element.ts'
import { integerOf } from './onnx/node.ts'
import { pieceFile, type Piece } from './onnx/pieces.ts'
import type { TensorRef } from './onnx/tensor-ref.ts'

const number = z.number().nullish()
const ids = z.union([z.int(), z.array(z.int())]).nullish()
/** What we read of `config.json`; the names differ from family to family. */
const config = z.looseObject({
  model_type: z.string().nullish(), architectures: z.array(z.string()).nullish(),
  max_position_embeddings: number, n_positions: number, n_ctx: number, max_sequence_length: number, seq_length: number,
  num_attention_heads: number, n_head: number, bos_token_id: ids,
})
const generation = z.looseObject({ bos_token_id: ids })
/** What decides how answers are drawn; the rest of `generation_config.json` is about other things. */
const SAMPLING = ['do_sample', 'temperature', 'top_k', 'top_p', 'min_p', 'repetition_penalty', 'max_new_tokens']
/** Where a model says nothing of its context. */
const CONTEXT_TOKENS = 2_048

export type ModelDocuments = { readonly config: unknown; readonly generation: unknown; readonly ends: readonly number[] }

/** Facts of a model from its graph, and from its configuration where a graph cannot tell. Throws SPEC_INVALID naming the file. */
export function modelFacts(analysis: ModelAnalysis, pieces: readonly Piece[], { config: given, generation: said, ends }: ModelDocuments): ModelFacts {
  const own = check(config, given ?? {}, 'config.json', 'SPEC_INVALID')
  const wishes = check(generation, said ?? {}, 'generation_config.json', 'SPEC_INVALID')
  const cache = analysis.caches[0]?.[0]
  const kindOf = weightKind(analysis)
  const begin = [wishes.bos_token_id ?? own.bos_token_id].flat().find(id => typeof id === 'number')
  const context = [own.max_position_embeddings, own.n_positions, own.n_ctx, own.max_sequence_length, own.seq_length].find(value => typeof value === 'number' && value > 0)
  return {
    architecture: own.model_type ?? own.architectures?.[0] ?? 'decoder',
    hidden: analysis.hidden,
    vocab: analysis.vocab,
    contextTokens: Math.floor(context ?? CONTEXT_TOKENS),
    heads: Math.floor(own.num_attention_heads ?? own.n_head ?? cache?.heads ?? 0),
    kvHeads: cache?.heads ?? 0,
    headDim: cache?.headDim ?? 0,
    weights: mostWeights(pieces, kindOf),
    activations: analysis.boundaries[0]?.[0]?.dtype ?? 'float32',
    parameters: parametersOf(pieces, kindOf),
    endTokens: [...new Set(ends)].slice(0, 64),
    ...(begin === undefined || begin < 0 ? {} : { beginToken: begin }),
  }
}

/** The model's own sampling defaults. */
export function samplingDefaults(generation: unknown): Readonly<Record<string, Json>> {
  const said = z.record(z.string(), z.json()).safeParse(generation)
  return said.success ? Object.fromEntries(Object.entries(said.data).filter(([name]) => SAMPLING.includes(name))) : {}
}

/** What each layer costs, in order. */
export function modelLayers(analysis: ModelAnalysis, pieces: readonly Piece[]): readonly ModelLayer[] {
  const files = new Set(pieces.map(({ name }) => pieceFile(name)))
  return analysis.perLayer.map(({ flopsPerToken, weightBytes }, layer) => {
    const piece = pieceFile(`layer-${layer}`)
    return {
      weightBytes, readBytes: weightBytes, flops: Math.round(flopsPerToken), kvBytes: kvBytes(analysis.caches[layer] ?? []),
      boundaryBytes: boundaryBytes(analysis.boundaries[layer] ?? []), ...(files.has(piece) ? { piece } : {}),
    }
  })
}

/** An embedding is looked up: a token reads one row of it. */
export function modelEnds({ embed, head, vocab }: ModelAnalysis): { readonly embedding: ModelCost; readonly head: ModelCost } {
  return {
    embedding: { weightBytes: embed.weightBytes, readBytes: Math.ceil(embed.weightBytes / Math.max(1, vocab)), flops: Math.round(embed.flopsPerToken) },
    head: { weightBytes: head.weightBytes, readBytes: head.weightBytes, flops: Math.round(head.flopsPerToken) },
  }
}

/** Keys and values of one position. */
export function kvBytes(caches: readonly Pick<CacheShape, 'dtype' | 'heads' | 'headDim'>[]): number {
  return caches.reduce((sum, { dtype, heads, headDim }) => sum + heads * headDim * elementBytes(dtype), 0)
}

/** What crosses a boundary for one token. */
export function boundaryBytes(tensors: readonly Pick<BoundaryTensor, 'dtype' | 'width'>[]): number {
  return tensors.reduce((sum, { dtype, width }) => sum + width * elementBytes(dtype), 0)
}

function elementBytes(dtype: ElementName): number {
  return (bitsOf(ELEMENT[dtype]) ?? 8) / 8
}

type Kind = (tensor: Pick<TensorRef, 'name' | 'dataType'>) => string

/** Operators on packed weights, with the input that holds them. */
const PACKED: ReadonlyMap<string, number> = new Map([['MatMulNBits', 1], ['MatMulBnb4', 1], ['GatherBlockQuantized', 0]])

/** Of most bytes, embeddings aside: they are often left as they were. */
function mostWeights(pieces: readonly Piece[], kindOf: Kind): string {
  const bytes = new Map<string, number>()
  for (const { name, entries } of pieces) {
    if (name === 'embed' || name === 'tied') continue
    for (const { tensor, length } of entries) {
      const kind = kindOf(tensor)
      bytes.set(kind, (bytes.get(kind) ?? 0) + length)
    }
  }
  return [...bytes].sort(([, a], [, b]) => b - a)[0]?.[0] ?? 'float32'
}

/** Packed weights call themselves uint8; only the operator that reads one says how many bits each number has. */
function weightKind({ plan }: ModelAnalysis): Kind {
  const packed = new Map(plan.graph.nodes.flatMap(one => {
    const at = PACKED.get(one.opType)
    return at === undefined ? [] : [[one.input[at] ?? '', integerOf(one, 'bits') ?? 4] as const]
  }))
  return ({ name, dataType }) => {
    const bits = packed.get(name)
    if (bits !== undefined) return `int${bits}`
    return dataType === ELEMENT.uint8 || dataType === ELEMENT.int8 ? 'int8' : elementName(dataType)
  }
}

function parametersOf(pieces: readonly Piece[], kindOf: Kind): number {
  return pieces.reduce((sum, { entries }) => sum + entries.reduce((inner, { tensor, length }) => {
    const bits = /^int(\d)$/.exec(kindOf(tensor))?.[1]
    return inner + Math.round(length * 8 / (bits === undefined ? bitsOf(tensor.dataType) ?? 8 : Number(bits)))
  }, 0), 0)
}
