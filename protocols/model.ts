import { z } from 'zod'
import { blockId, cid, json, peerId } from './ids.ts'
import { bundleFile, uri } from './specs.ts'

const name = z.string().min(1).max(200)
const count = z.int().nonnegative()

/** Layers of one model: far more than any model has, and few enough that a manifest stays a small record. */
export const MODEL_LAYERS = 1_024

/** What a part of a model costs a host. */
export const modelCost = z.object({
  /** Bytes of weights that a host of this part holds. */
  weightBytes: count,
  /** Bytes of weights read to compute one token: all of them for a layer, one row for an embedding. */
  readBytes: count,
  /** Floating-point operations for one token, attention over the context not counted. */
  flops: count,
})
export type ModelCost = z.infer<typeof modelCost>

export const modelLayer = modelCost.extend({
  /** Bytes of keys and values of one position. */
  kvBytes: count,
  /** Bytes of what goes on to the next layer, a token. */
  boundaryBytes: count,
  /** The file of this layer's own weights; absent where all of them are shared or tiny. */
  piece: name.optional(),
})
export type ModelLayer = z.infer<typeof modelLayer>

/** What a client has to know before it asks, and a planner before it plans. */
export const modelFacts = z.object({
  /** As the model's own configuration says (`llama`, `qwen2`, …). */
  architecture: name,
  hidden: count,
  vocab: z.int().positive(),
  /** Longest context the model knows, in tokens. */
  contextTokens: z.int().positive(),
  heads: count,
  kvHeads: count,
  headDim: count,
  /** Of most weight bytes: float32, float16, bfloat16, int8, int4. */
  weights: z.string().max(40),
  /** Of the activations between layers: float32, float16. */
  activations: z.string().max(40),
  parameters: count,
  /** Ids that end an answer. */
  endTokens: z.array(count).max(64),
  /** The id a prompt begins with, where the model has one. */
  beginToken: count.optional(),
})
export type ModelFacts = z.infer<typeof modelFacts>

/**
 * An imported model, as the DAG-CBOR block its URI names in the `layers` registry. Never changes. A stage of any range of
 * layers is made from it: the skeleton gives the graph, the pieces the weights, file by file.
 */
export const modelManifest = z.object({
  modelURI: uri,
  modelId: z.object({ name, version: name, releaseTag: name }),
  facts: modelFacts,
  /** The whole graph without its large tensors: ONNX, each of those naming where in the author's files it was. */
  skeleton: bundleFile,
  /** Weights, one content-addressed file a layer, the embedding, the head and what several layers share. */
  pieces: z.array(bundleFile).min(1).max(MODEL_LAYERS + 64),
  layers: z.array(modelLayer).min(1).max(MODEL_LAYERS),
  /** Beside the first layer and beside the last; a tied weight counts in both. */
  embedding: modelCost,
  head: modelCost,
  /** tokenizer.json, tokenizer_config.json, config.json, generation_config.json, a chat template: as they were found. */
  files: z.array(bundleFile).max(64),
  /** How the model likes to be sampled: what its generation_config.json says. */
  generation: z.record(z.string(), json).default({}),
  author: peerId,
})
export type ModelManifest = z.infer<typeof modelManifest>

/** Consecutive layers [first, end) that one block runs. */
export const servedStage = z.object({
  block: blockId,
  first: count,
  end: z.int().positive(),
  /** The component of the stage, pinned. */
  componentURI: uri,
  component: cid,
})
export type ServedStage = z.infer<typeof servedStage>

/** A model that is served: the value of its name in the `services` registry. The blocks are kept alive like any other. */
export const servedModel = z.object({
  /** How clients call it; its blocks are `<service>-s<k>`. */
  service: blockId.max(200),
  modelURI: uri,
  /** CID of the model's manifest. */
  model: cid,
  /** In the order of their layers, without gap or overlap, from 0 to the model's last. */
  stages: z.array(servedStage).min(1).max(128),
  /** Tokens a session may have, prompt and answer. */
  contextTokens: z.int().positive(),
  /** Sessions of that length that every stage keeps room for. */
  sessions: z.int().positive(),
  /** Further instances of each stage, on other hosts, that take over. */
  standbys: count,
  /**
   * Guess ahead: with a small model of the same vocabulary, served in one stage, where that runs on the peer that is asked; with
   * what the text repeats, otherwise or when this is the service's own name. Absent: never. Guesses are verified several at
   * once, by kernels that may give other last bits than those for single positions.
   */
  draft: blockId.max(200).optional(),
  owner: peerId,
  /** Raised when it is planned anew. */
  revision: count,
})
export type ServedModel = z.infer<typeof servedModel>
