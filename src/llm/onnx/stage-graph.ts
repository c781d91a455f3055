import { clone, create } from '@bufbuild/protobuf'
import { MeshError } from '../../../protocols/errors.ts'
import { boundaryTensor, type BoundaryTensor, type CacheShape, type ModelAnalysis } from './analyse.ts'
import { CacheRows, rowsLast, type CacheNames } from './cache-rows.ts'
import { readsShapeOnly, type CachePair } from './caches.ts'
import { choosable, loneNorm } from './chosen-tokens.ts'
import { encodeModel } from './codec.ts'
import { ELEMENT, elementName } from './element.ts'
import { CONTRIB, describe, intAttribute, integerOf, integers, node, readsOf, shapeOf, valueInfo } from './node.ts'
import { GraphProtoSchema, ModelProtoSchema, NodeProtoSchema, OperatorSetIdProtoSchema, TensorProtoSchema, type GraphProto, type ModelProto, type NodeProto, type TensorProto, type ValueInfoProto } from './onnx-pb.js'
import { pieceFile, pieces, type PieceName } from './pieces.ts'
import { inputBehind, type InputRole } from './roles.ts'
import { PREAMBLE } from './segments.ts'
import type { Skeleton } from './skeleton.ts'
import type { NamedType, StageGraph, StageLogits, StageIo } from './stage-io.ts'
import { isReferenced, pointTo } from './tensor-ref.ts'
import { normAlone } from './unfuse.ts'
import { inOrder } from './wired-graph.ts'

export type StageRange = {
  /** Layers [first, end). The first stage has the embedding too, the last one the head. */
  readonly first: number
  readonly end: number
  /** The last stage takes which of the new tokens to give logits of, where that changes no bit of them. Off by default: all. */
  readonly select?: boolean
  /** The last stage also gives the greatest logit's id. */
  readonly greedy?: boolean
}

const SELECT = 'select'
const GREEDY = 'greedy'
const ZERO = '/aios/zero'
const COLUMN = '/aios/column'

/**
 * The graph of layers [first, end): bit for bit what the whole model computes, on the same execution provider. Its caches take
 * the past in and give only new rows out. Throws SPEC_INVALID, naming the node, where such a stage cannot be cut out.
 */
export function stageGraph(skeleton: Skeleton, analysis: ModelAnalysis, range: StageRange): StageGraph {
  return new StageWriter(skeleton, analysis, range).write()
}

class StageWriter {
  readonly #skeleton: Skeleton
  readonly #analysis: ModelAnalysis
  readonly #range: StageRange
  readonly #nodes: NodeProto[] = []
  readonly #constants = new Map<string, TensorProto>()
  readonly #needed = new Set<number>()
  /** What the stage before sends, by the graph's names. */
  readonly #received: readonly string[]
  readonly #caches: readonly OwnCache[]
  readonly #selected: ReadonlySet<string>
  readonly #selectedAlready = new Set<string>()

  constructor(skeleton: Skeleton, analysis: ModelAnalysis, range: StageRange) {
    const { first, end } = range
    if (!Number.isInteger(first) || !Number.isInteger(end) || first < 0 || end > analysis.layers || first >= end) throw new MeshError('BAD_INPUT', `a stage needs layers [first, end) within [0, ${analysis.layers}), not [${first}, ${end})`)
    this.#skeleton = skeleton
    this.#analysis = analysis
    this.#range = range
    this.#received = first === 0 ? [] : analysis.plan.segments.cuts[first]!
    this.#selected = new Set(this.#last && range.select === true ? choosable(analysis) : [])
    const layout = cacheLayout(analysis)
    this.#caches = analysis.plan.chain.layers.slice(first, end).flatMap((layer, place) => layer.caches.map((cache, at) => {
      const shape = analysis.caches[first + place]![at]!
      return { cache, shape, layer: first + place, names: { past: layout === 'heads' ? cache.past : `past.${first + place}.${at}`, rows: `rows.${first + place}.${at}`, layout } }
    }))
  }

  write(): StageGraph {
    const { graph, segments } = this.#analysis.plan
    const sends = this.#last ? [] : segments.cuts[this.#range.end]!
    const sent = sends.filter(name => this.#owns(graph.producer.get(name)!))
    this.#need([...sent, ...this.#caches.map(({ cache }) => cache.present), ...this.#last ? [this.#analysis.logits.name] : []])
    const rows = new CacheRows({ nodes: this.#nodes, constants: this.#constants })
    for (const { cache, shape, names } of this.#caches) rows.takePast(cache, shape, names)
    // ONNX Runtime drops the casts that it makes itself, known by this name, between what it computes wider anyway; so it must this one.
    for (const [of, name] of this.#carried(this.#received)) if (name !== of) this.#nodes.push(node('Cast', [name], [of], [intAttribute('to', this.#typeOf(of))], '', `InsertedPrecisionFreeCast_${of}`))
    for (const at of [...this.#needed].sort((a, b) => a - b)) {
      this.#emit(at, new Set(sent))
      for (const { cache, shape, names } of this.#caches) if (cache.node === at) rows.giveRows(cache, graph.nodes[at]!, shape, names)
    }
    for (const [of, name] of this.#carried(sent)) if (name !== of) this.#nodes.push(node('Cast', [of], [name], [intAttribute('to', ELEMENT.float32)]))
    return this.#finish(sends, sent)
  }

  get #last(): boolean {
    return this.#range.end === this.#analysis.layers
  }

  /** Whether this stage computes the node: its own segments', not the preamble. */
  #owns(at: number): boolean {
    const segment = this.#analysis.plan.segments.of[at]!
    const { first, end } = this.#range
    return segment !== PREAMBLE && segment >= (first === 0 ? 0 : first + 1) && segment <= (this.#last ? end + 1 : end)
  }

  /** Values by the graph's name and by the name that they cross by. */
  #carried(names: readonly string[]): readonly (readonly [of: string, name: string])[] {
    return names.map(name => [name, boundaryTensor(this.#analysis, name).name])
  }

  #typeOf(name: string): number {
    return this.#analysis.plan.values.get(name)?.dataType ?? ELEMENT.float32
  }

  #need(names: readonly string[]): void {
    const { graph, segments } = this.#analysis.plan
    const queue = [...names]
    for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
      const at = graph.producer.get(name)
      if (at === undefined || this.#needed.has(at) || !(this.#owns(at) || segments.of[at] === PREAMBLE)) continue
      this.#needed.add(at)
      queue.push(...graph.reads[at]!)
    }
  }

  #emit(at: number, sent: ReadonlySet<string>): void {
    const { graph, halves } = this.#analysis.plan
    const source = graph.nodes[at]!
    const pair = halves.get(source)
    if (pair === undefined) {
      this.#push(this.#rewired(source, at), at)
      return
    }
    const total = pair.sum.output[0]!
    const other = graph.producer.get(source === pair.sum ? pair.norm.output[0]! : total)!
    if (!this.#needed.has(other) || this.#selected.has(total)) {
      if (source === pair.norm) this.#constants.set(ZERO, create(TensorProtoSchema, { name: ZERO, dataType: ELEMENT.float32, rawData: new Uint8Array(4) }))
      for (const one of source === pair.norm ? normAlone(pair, ZERO) : [source]) this.#push(clone(NodeProtoSchema, one), at)
      return
    }
    if (source === pair.norm) return
    const whole = clone(NodeProtoSchema, pair.whole)
    if ((graph.consumers.get(total) ?? []).length > 1 || sent.has(total)) {
      while (whole.output.length < 4) whole.output.push('')
      whole.output[3] = total
    }
    this.#push(whole, at)
  }

  /** Adds a node, which in the head reads only the selected tokens of what the layers give. */
  #push(copy: NodeProto, at: number): void {
    if (this.#selected.size > 0 && this.#analysis.plan.segments.of[at] === this.#analysis.layers + 1) {
      for (const name of copy.input.filter(input => this.#selected.has(input) && !this.#selectedAlready.has(input))) {
        this.#selectedAlready.add(name)
        this.#constants.set(COLUMN, integers(COLUMN, [0, 0, 1]))
        if (this.#selectedAlready.size === 1) this.#nodes.push(node('Reshape', [SELECT, COLUMN], [`${SELECT}/places`]))
        this.#nodes.push(node('GatherND', [name, `${SELECT}/places`], [`${name}/selected`], [intAttribute('batch_dims', 1)]))
      }
      copy.input = copy.input.map(input => this.#selected.has(input) ? `${input}/selected` : input)
    }
    this.#nodes.push(copy)
  }

  /** A Shape of what is not in this stage asks something of the same shape that is. */
  #rewired(source: NodeProto, at: number): NodeProto {
    const copy = clone(NodeProtoSchema, source)
    const { graph, segments, chain } = this.#analysis.plan
    const name = copy.input[0] ?? ''
    if (segments.of[at] !== PREAMBLE || !readsShapeOnly(source.opType)) return copy
    const by = graph.producer.get(name)
    const owner = chain.layers.findIndex(layer => layer.caches.some(({ past, present }) => past === name || present === name))
    if (owner >= 0) {
      const slot = chain.layers[owner]!.caches.findIndex(({ past, present }) => past === name || present === name)
      const own = this.#caches.find(({ cache }) => cache.past === name || cache.present === name) ?? this.#caches[slot]
      const theirs = this.#analysis.caches[owner]![slot]!
      if (own === undefined || own.shape.rank !== theirs.rank || own.shape.axis !== theirs.axis) throw new MeshError('SPEC_INVALID', `${describe(source)} asks the shape of ${name}, and layer ${this.#range.first} has no cache that is laid out so`)
      copy.input = [by === undefined ? own.cache.past : own.cache.present]
      return own.shape.heads === theirs.heads && own.shape.headDim === theirs.headDim ? copy : this.#shapeLike(copy, theirs)
    }
    const ids = this.#analysis.inputs.get(inputBehind(graph, name) ?? '') === 'ids'
    if (by === undefined ? !ids || this.#range.first === 0 : segments.of[by] === PREAMBLE || this.#owns(by)) return copy
    const carrier = this.#carrier(source)
    const width = this.#analysis.plan.values.get(name)?.width
    if (!ids && width === this.#analysis.plan.values.get(carrier)?.width) {
      copy.input = [carrier]
      return copy
    }
    // The first two dims are the same of all that grows with tokens: token ids are [B, S], states [B, S, width].
    const rank = ids ? 2 : 3
    const place = (attribute: string, otherwise: number): number => {
      const value = integerOf(source, attribute) ?? otherwise
      return Math.max(0, Math.min(rank, value < 0 ? value + rank : value))
    }
    const output = source.output[0]!
    this.#nodes.push(node('Shape', [carrier], [`${output}/full`]))
    const tokens = (to: string, from: number, end: number): NodeProto => node('Slice', [`${output}/full`, this.#number(from), this.#number(end), this.#number(0)], [to])
    const [from, end] = [place('start', 0), place('end', rank)]
    if (end <= 2) return tokens(output, from, end)
    if (from > 1) return node('Slice', [this.#number(width ?? 0), this.#number(from - 2), this.#number(1), this.#number(0)], [output])
    this.#nodes.push(tokens(`${output}/tokens`, from, 2))
    return node('Concat', [`${output}/tokens`, this.#number(width ?? 0)], [output], [intAttribute('axis', 0)])
  }

  /** The shape of a cache with as many tokens as the one that is asked, and heads of its own. */
  #shapeLike(asked: NodeProto, { rank, axis, heads, headDim }: CacheShape): NodeProto {
    const [output = ''] = asked.output
    const rest = rank === 3 ? [heads * headDim] : [heads, headDim]
    this.#nodes.push(node('Shape', asked.input, [`${output}/own`]))
    const dims = Array.from({ length: rank }, (_, dim) => {
      if (dim !== 0 && dim !== axis) return this.#number(rest[dim - (dim > axis ? 2 : 1)] ?? 0)
      this.#nodes.push(node('Slice', [`${output}/own`, this.#number(dim), this.#number(dim + 1), this.#number(0)], [`${output}/dim-${dim}`]))
      return `${output}/dim-${dim}`
    })
    const [from, end] = [integerOf(asked, 'start') ?? 0, integerOf(asked, 'end') ?? rank].map(place => place < 0 ? place + rank : place)
    return node('Concat', dims.slice(from, end), [output], [intAttribute('axis', 0)])
  }

  /** A constant list of one number. */
  #number(value: number): string {
    const constant = `/aios/at-${value}`
    this.#constants.set(constant, integers(constant, [value]))
    return constant
  }

  #carrier(source: NodeProto): string {
    const { values } = this.#analysis.plan
    const widest = this.#received.filter(name => (values.get(name)?.rank ?? 3) === 3).toSorted((a, b) => values.get(b)!.width - values.get(a)!.width)[0]
    if (widest === undefined) throw new MeshError('SPEC_INVALID', `${describe(source)} asks for the number of tokens, which nothing that comes into layer ${this.#range.first} tells`)
    return widest
  }

  #finish(sends: readonly string[], sent: readonly string[]): StageGraph {
    const { first, end } = this.#range
    const { graph } = this.#analysis.plan
    const logits = this.#logits()
    const read = new Set(this.#nodes.flatMap(readsOf))
    const roles = (role: InputRole): NamedType | undefined => {
      const name = [...this.#analysis.inputs].find(([input, as]) => as === role && read.has(input))?.[0]
      return name === undefined ? undefined : { name, dtype: elementName(shapeOf(graph.inputs.get(name))?.dataType ?? ELEMENT.int64) }
    }
    const received = this.#received.map(name => boundaryTensor(this.#analysis, name))
    const io: StageIo = {
      first, end, ids: roles('ids'), mask: roles('mask'), positions: roles('positions'),
      receives: received.map(tensor => ({ ...tensor, used: read.has(tensor.name) })),
      sends: sends.map(name => ({ ...boundaryTensor(this.#analysis, name), from: sent.includes(name) ? 'graph' : 'received' })),
      ragged: raggedness(this.#analysis), oneByOne: this.#analysis.oneByOne,
      caches: this.#caches.map(({ layer, shape, names }) => ({ layer, past: names.past, rows: names.rows, layout: names.layout, dtype: shape.dtype, heads: shape.heads, headDim: shape.headDim, rank: shape.rank })),
      logits,
    }
    const inputs = [
      ...[io.ids, io.mask, io.positions].flatMap(one => one === undefined ? [] : [graph.inputs.get(one.name)!]),
      ...io.receives.filter(({ used }) => used).map(tensor => this.#declared(tensor)),
      ...this.#caches.map(({ shape, names }) => valueInfo(names.past, ELEMENT[shape.dtype], cacheDims(shape, names.layout, names.layout === 'heads' ? 'capacity' : 'past'))),
      ...logits?.select === undefined ? [] : [valueInfo(logits.select, ELEMENT.int64, ['batch', 'selected'])],
    ]
    const outputs = [
      ...io.sends.filter(({ from }) => from === 'graph').map(tensor => this.#declared(tensor)),
      ...this.#caches.map(({ shape, names }) => valueInfo(names.rows, ELEMENT[shape.dtype], cacheDims(shape, names.layout, 'new'))),
      ...logits === undefined ? [] : [valueInfo(logits.name, ELEMENT[logits.dtype], ['batch', 'given', logits.vocab])],
      ...logits?.greedy === undefined ? [] : [valueInfo(logits.greedy, ELEMENT.int64, ['batch', 'given'])],
    ]
    const { initializers, names } = this.#weights(read)
    const given = new Set([...inputs, ...initializers].map(({ name }) => name))
    const onnx = encodeModel(wrap(this.#skeleton.model, create(GraphProtoSchema, {
      name: `layers-${first}-${end}`, node: [...rowsLast(inOrder(this.#nodes, name => given.has(name)), io.caches.filter(({ layout }) => layout === 'heads').map(({ rows }) => rows))], initializer: initializers, input: inputs, output: outputs, valueInfo: this.#told(),
      quantizationAnnotation: this.#skeleton.model.graph?.quantizationAnnotation.filter(({ tensorName }) => read.has(tensorName)) ?? [],
    })))
    return { onnx, pieces: names, io }
  }

  /**
   * The shapes of what a sum before a norm adds, where the model tells them: ONNX Runtime makes one operator of the two where it
   * knows that they are the same, and has to do so here where it does in the whole. More that a model says is not repeated: it may be
   * wrong and do no harm there.
   */
  #told(): ValueInfoProto[] {
    const { declared, graph } = this.#analysis.plan
    const [batch, sequence] = this.#idsDims()
    const added = this.#nodes.filter(({ opType, output }) => opType === 'Add' && loneNorm(graph, output[0] ?? '') !== undefined).flatMap(({ input }) => input)
    return [...new Set(added)].filter(name => graph.producer.has(name) && this.#owns(graph.producer.get(name)!)).flatMap(name => {
      const { dataType = 0, dims = [] } = declared.get(name) ?? {}
      return dims.length === 3 && dims[0] === batch && dims[1] === sequence && typeof dims[2] === 'number' ? [valueInfo(name, dataType, dims)] : []
    })
  }

  /** What the model calls batch and length of its token ids. */
  #idsDims(): readonly string[] {
    const { inputs, plan: { graph } } = this.#analysis
    const ids = shapeOf(graph.inputs.get([...inputs].find(([, role]) => role === 'ids')?.[0] ?? ''))?.dims ?? []
    return ['batch', 'sequence'].map((otherwise, at) => typeof ids[at] === 'string' && ids[at] !== '' ? ids[at] : otherwise)
  }

  /** A boundary's shape, where it is sure: a wrong declaration is an error, none is not. */
  #declared({ name, dtype, rank, width }: BoundaryTensor): ValueInfoProto {
    return valueInfo(name, ELEMENT[dtype], rank === 3 ? [...this.#idsDims(), width] : undefined)
  }

  #logits(): StageLogits | undefined {
    if (!this.#last) return undefined
    const { name, dtype } = this.#analysis.logits
    if (this.#range.greedy === true) {
      const wide = dtype === 'float32' ? name : `${name}/float32`
      if (wide !== name) this.#nodes.push(node('Cast', [name], [wide], [intAttribute('to', ELEMENT.float32)]))
      this.#nodes.push(node('ArgMax', [wide], [GREEDY], [intAttribute('axis', -1), intAttribute('keepdims', 0), intAttribute('select_last_index', 0)]))
    }
    return { name, dtype, vocab: this.#analysis.vocab, select: this.#selected.size > 0 ? SELECT : undefined, greedy: this.#range.greedy === true ? GREEDY : undefined }
  }

  #weights(read: ReadonlySet<string>): { readonly initializers: TensorProto[]; readonly names: readonly PieceName[] } {
    const layout = pieces(this.#analysis)
    const places = new Map(layout.flatMap(piece => piece.entries.map(({ tensor, offset, length }) => [tensor.name, { piece: piece.name, offset, length }] as const)))
    const used = new Set<PieceName>()
    const own = [...this.#analysis.plan.graph.initializers.values()].filter(({ name }) => read.has(name)).map(tensor => {
      if (!isReferenced(tensor)) return tensor
      const place = places.get(tensor.name)!
      const copy = clone(TensorProtoSchema, tensor)
      pointTo(copy, { location: pieceFile(place.piece), offset: place.offset, stored: place.length })
      used.add(place.piece)
      return copy
    })
    return { initializers: [...own, ...[...this.#constants.values()].filter(({ name }) => read.has(name))], names: layout.map(({ name }) => name).filter(name => used.has(name)) }
  }
}

type OwnCache = { readonly cache: CachePair; readonly shape: CacheShape; readonly layer: number; readonly names: CacheNames }

/** A past buffer with room to spare would tell a graph that reads its shape a wrong length. */
function cacheLayout({ ownLengths, plan: { graph, chain } }: ModelAnalysis): CacheNames['layout'] {
  const watched = chain.layers.some(layer => layer.caches.some(({ past, present }) => [past, present].some(name => (graph.consumers.get(name) ?? []).some(at => readsShapeOnly(graph.nodes[at]!.opType)))))
  return ownLengths && !watched ? 'heads' : 'tokens'
}

function raggedness({ coupled, ownLengths, inputs }: ModelAnalysis): StageIo['ragged'] {
  const roles = new Set(inputs.values())
  if (coupled) return 'none'
  if (ownLengths) return 'lengths'
  return roles.has('mask') && roles.has('positions') ? 'mask' : 'none'
}

function cacheDims({ rank, heads, headDim }: CacheShape, layout: CacheNames['layout'], length: string): readonly (number | string)[] {
  if (layout === 'heads') return ['batch', heads, length, headDim]
  return rank === 3 ? [length, 'batch', heads * headDim] : [length, 'batch', heads, headDim]
}

function wrap(model: ModelProto, graph: GraphProto): ModelProto {
  const imports = new Map(model.functions.flatMap(({ opsetImport }) => opsetImport).map(one => [one.domain, one]))
  for (const one of model.opsetImport) imports.set(one.domain, one)
  if (!imports.has(CONTRIB) && graph.node.some(({ domain }) => domain === CONTRIB)) imports.set(CONTRIB, create(OperatorSetIdProtoSchema, { domain: CONTRIB, version: 1n }))
  return create(ModelProtoSchema, { irVersion: model.irVersion, producerName: 'aios-mesh', opsetImport: [...imports.values()], graph })
}
