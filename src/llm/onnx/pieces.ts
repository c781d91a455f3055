import type { ModelAnalysis } from './analyse.ts'
import type { RandomAccess } from './random-access.ts'
import { isReferenced, tensorBytes, tensorRef, type TensorRef } from './tensor-ref.ts'

/** A page, so that ONNX Runtime can map a tensor straight from the file. */
export const PIECE_ALIGNMENT = 4096

export type PieceName = `layer-${number}` | 'embed' | 'head' | 'tied' | 'shared'
export type PieceEntry = { readonly tensor: TensorRef; readonly offset: number; readonly length: number }
/** One file of weights: its tensors, in the order in which the graph reads them, with zeros between them. */
export type Piece = { readonly name: PieceName; readonly entries: readonly PieceEntry[]; readonly size: number }

/**
 * Every large initializer in exactly one piece: a layer's own in `layer-N`, the embedding's in `embed`, the head's in `head`,
 * what exactly these two share in `tied`, everything else that several read in `shared`. The bytes of a layer's piece depend
 * on that layer alone, not on names, places or the rest of the model: equal layers of two models are equal files.
 */
export function pieces(analysis: ModelAnalysis): readonly Piece[] {
  const { graph, users } = analysis.plan
  const members = new Map<PieceName, string[]>()
  const seen = new Set<string>()
  for (const names of graph.reads) {
    for (const name of names) {
      const tensor = graph.initializers.get(name)
      if (tensor === undefined || seen.has(name) || !isReferenced(tensor)) continue
      seen.add(name)
      const piece = pieceOf(users.get(name) ?? [], analysis.layers)
      if (piece === undefined) continue
      const known = members.get(piece)
      if (known === undefined) members.set(piece, [name])
      else known.push(name)
    }
  }
  const order: readonly PieceName[] = ['shared', 'embed', 'tied', ...Array.from({ length: analysis.layers }, (_, layer): PieceName => `layer-${layer}`), 'head']
  return order.flatMap(name => {
    const names = members.get(name)
    return names === undefined ? [] : [layOut(name, names.map(tensor => tensorRef(graph.initializers.get(tensor)!)))]
  })
}

/** The file name that stage graphs point to. */
export function pieceFile(name: PieceName): string {
  return `${name}.bin`
}

/** A piece's bytes, streamed from the model's files. `open` gives the file a tensor lies in; '' is the model itself. */
export async function * pieceBytes(piece: Piece, open: (location: string) => Promise<RandomAccess>): AsyncGenerator<Uint8Array> {
  let at = 0
  for (const { tensor, offset } of piece.entries) {
    if (offset > at) yield new Uint8Array(offset - at)
    const file = await open(tensor.location)
    for await (const bytes of tensorBytes(tensor, file)) yield bytes
    at = offset + tensor.length
  }
}


function pieceOf(users: readonly number[], layers: number): PieceName | undefined {
  const [only, second] = users
  if (only === undefined) return undefined
  if (second === undefined) return only === 0 ? 'embed' : only === layers + 1 ? 'head' : `layer-${only - 1}`
  return users.length === 2 && only === 0 && second === layers + 1 ? 'tied' : 'shared'
}

function layOut(name: PieceName, tensors: readonly TensorRef[]): Piece {
  const entries: PieceEntry[] = []
  let end = 0
  for (const tensor of tensors) {
    const offset = Math.ceil(end / PIECE_ALIGNMENT) * PIECE_ALIGNMENT
    entries.push({ tensor, offset, length: tensor.length })
    end = offset + tensor.length
  }
  return { name, entries, size: end }
}
