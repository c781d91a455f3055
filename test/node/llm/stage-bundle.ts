/** Bundles of stages as a host gets them, made from a model's directory. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { StageFile } from '../../../protocols/stage-file.ts'
import type { RunningInstance, StageOutput, StageRunner, StageStep } from '../../../src/ports.ts'
import { decodeModel, encodeModel } from '../../../src/llm/onnx/codec.ts'
import type { ModelProto } from '../../../src/llm/onnx/onnx-pb.js'
import { pieceBytes, pieceFile, pieces } from '../../../src/llm/onnx/pieces.ts'
import { stageGraph } from '../../../src/llm/onnx/stage-graph.ts'
import type { StageIo } from '../../../src/llm/onnx/stage-io.ts'
import { makeModel, type ModelOptions } from '../../fixtures/llm/make-model.ts'
import { openModel, type OpenModel } from '../../llm/onnx/stage-chain.ts'
import { never, type Bench, type Parts } from '../instance-bundle.ts'

const BYTES: Readonly<Record<string, number>> = { float32: 4, float16: 2, int64: 8, int32: 4, bool: 1 }

export type Model = Disposable & { readonly directory: string; readonly open: OpenModel; readonly context: number; readonly vocab: number; readonly layers: number }

/** `rewrite`: changes the graph after it is made. */
export async function modelFor(options: ModelOptions, rewrite?: (model: ModelProto) => void): Promise<Model> {
  const directory = mkdtempSync(join(tmpdir(), 'aios-stage-model-'))
  const { shape } = makeModel(directory, options)
  if (rewrite !== undefined) {
    const file = join(directory, 'model.onnx')
    const model = decodeModel(readFileSync(file))
    rewrite(model)
    writeFileSync(file, encodeModel(model))
  }
  return { directory, open: await openModel(directory), context: shape.context, vocab: shape.vocab, layers: shape.layers, [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }) }
}

export function stageFileFor({ context, vocab, layers }: Model, io: StageIo, kvTokens: number): StageFile {
  const wide = (tensors: StageIo['receives'] | StageIo['sends']) => tensors.reduce((sum, { dtype, width }) => sum + width * (BYTES[dtype] ?? NaN), 0)
  const spec = {
    first: io.first, end: io.end, layers, vocab, inputBytes: wide(io.receives), outputBytes: wide(io.sends),
    kvBytes: io.caches.reduce((sum, { dtype, heads, headDim }) => sum + heads * headDim * (BYTES[dtype] ?? NaN), 0), contextTokens: context, kvTokens,
  }
  return JSON.parse(JSON.stringify({ model: 'test.model:1.0.0-stable', spec, io })) as StageFile
}

/** The files of a stage of layers [first, end). */
export async function stageParts(model: Model, first: number, end: number, kvTokens: number, more: Partial<Parts> = {}): Promise<Parts> {
  const { skeleton, analysis, open } = model.open
  const graph = stageGraph(skeleton, analysis, { first, end, select: true, greedy: true })
  const files: Record<string, Uint8Array | string> = { 'stage.onnx': graph.onnx, 'stage.json': JSON.stringify(stageFileFor(model, graph.io, kvTokens)) }
  for (const piece of pieces(analysis)) {
    if (!graph.pieces.includes(piece.name)) continue
    const chunks: Uint8Array[] = []
    for await (const bytes of pieceBytes(piece, open)) chunks.push(bytes)
    files[pieceFile(piece.name)] = Buffer.concat(chunks)
  }
  return { files, runtime: { name: 'llm' }, memoryMb: 1_024, ...more }
}

export type Served = AsyncDisposable & { readonly instance: RunningInstance; readonly stage: StageRunner }

export async function startStage(bench: Bench, parts: Parts): Promise<Served> {
  const instance = await bench.backend.start(bench.request(parts), never)
  const { stage } = instance
  if (stage === undefined) throw new Error('the instance has no stage')
  return { instance, stage, [Symbol.asyncDispose]: () => instance[Symbol.asyncDispose]() }
}

export type Asking = Partial<Omit<StageStep, 'session' | 'position' | 'input'>>

/** One step of a stage that takes tokens. */
export function feed(stage: StageRunner, session: string, position: number, tokens: readonly number[], more: Asking = {}, signal: AbortSignal = never): Promise<StageOutput> {
  return stage.step({ session, position, count: tokens.length, input: { tokens }, want: 'greedy', rows: 'last', kv: false, ...more }, signal)
}

/** One step through all stages of a model, as its hosts would pass it on. */
export async function through(stages: readonly StageRunner[], session: string, position: number, tokens: readonly number[], more: Asking = {}): Promise<StageOutput> {
  let input: StageStep['input'] = { tokens }
  for (const stage of stages.slice(0, -1)) {
    const { hidden } = await stage.step({ session, position, count: tokens.length, input, want: 'hidden', rows: 'last', kv: false }, never)
    if (hidden === undefined) throw new Error('no activations')
    input = { hidden }
  }
  return stages.at(-1)!.step({ session, position, count: tokens.length, input, want: 'greedy', rows: 'last', kv: false, ...more }, never)
}

/** Greedy tokens of a session that has nothing yet. */
export async function generate(stages: readonly StageRunner[], session: string, prompt: readonly number[], count: number, from = 0): Promise<readonly number[]> {
  const out: number[] = []
  let next = prompt.slice(from)
  let position = from
  while (out.length < count) {
    const { ids } = await through(stages, session, position, next)
    position += next.length
    out.push(ids![0]!)
    next = [ids![0]!]
  }
  return out
}

export function promptOf(length: number, seed: number, vocab: number): readonly number[] {
  return Array.from({ length }, (_, at) => (at * 7_919 + 13 + seed * 101) % vocab)
}
