/**
 * How JSON becomes a model's input tensors and its output tensors become JSON, for models that come without code.
 * `sdk/README.md` documents the format for authors.
 */
import { MeshError } from '../protocols/errors.ts'
import type { Json } from '../protocols/ids.ts'
import type { PacketFile } from '../protocols/invoke.ts'
import { kind } from './json.ts'
import { elements, fold, isDtype, nested, pack, values, type Dtype, type Tensor, type TensorInfo } from './tensor.ts'

export type InputMapping = {
  /** Name of the model's input. */
  readonly tensor: string
  readonly dtype: Dtype
  /** Expected shape; text or -1 is a free dimension. */
  readonly shape: readonly (number | string)[]
  /** Reads this tensor's last axis from several fields of the data. */
  readonly fields?: readonly string[]
  /** Used when the field is absent. */
  readonly absent?: Json
  /** Takes the raw bytes of the packet's file at this place. */
  readonly file?: number
}

export type OutputMapping = {
  readonly tensor: string
  readonly pick: 'all' | 'first' | 'argmax' | 'max' | 'label' | 'labelled' | number
  readonly labels?: readonly string[]
}

export type Mapping = {
  readonly inputs: ReadonlyMap<string, InputMapping>
  readonly outputs: ReadonlyMap<string, OutputMapping>
  /** One input and no mapping of its own: data may be the bare value. */
  readonly bare: boolean
}

type ModelShape = { readonly inputs: readonly TensorInfo[]; readonly outputs: readonly TensorInfo[] }
const PICKS = ['all', 'first', 'argmax', 'max', 'label', 'labelled'] as const

/**
 * Joins an author's mapping (`{ inputs, outputs }`, both optional) with what the model file says of itself.
 * Throws SPEC_INVALID naming the field that is wrong.
 */
export function readMapping(initData: Readonly<Record<string, Json>>, model: ModelShape): Mapping {
  const inputs = new Map<string, InputMapping>()
  const outputs = new Map<string, OutputMapping>()
  const given = section(initData, 'inputs')
  if (given === undefined) for (const info of model.inputs) inputs.set(info.name, { tensor: info.name, dtype: info.dtype, shape: info.shape })
  else for (const [field, raw] of Object.entries(given)) inputs.set(field, readInput(field, raw, model))
  const fed = new Set([...inputs.values()].map(input => input.tensor))
  const unfed = model.inputs.find(info => !fed.has(info.name))
  if (unfed !== undefined) throw invalid(`inputs feeds ${listed(fed)}, but the model also needs ${describe(unfed)} "${unfed.name}"`)
  const wanted = section(initData, 'outputs')
  if (wanted === undefined) for (const info of model.outputs) outputs.set(info.name, { tensor: info.name, pick: 'all' })
  else for (const [field, raw] of Object.entries(wanted)) outputs.set(field, readOutput(field, raw, model))
  return { inputs, outputs, bare: given === undefined && model.inputs.length === 1 }
}

/** Feeds for one run. `batched` says that a batch dimension was added and should be taken off the outputs. Throws BAD_INPUT. */
export function toFeeds(mapping: Mapping, data: Json, files: readonly PacketFile[] = []): { readonly feeds: Record<string, Tensor>; readonly batched: boolean } {
  const feeds: Record<string, Tensor> = {}
  let batched = false
  const fields = data !== null && typeof data === 'object' && !Array.isArray(data) ? (data as Readonly<Record<string, Json>>) : undefined
  for (const [field, input] of mapping.inputs) {
    if (input.file !== undefined) {
      feeds[input.tensor] = fromFile(field, input, files[input.file])
      continue
    }
    const value = input.fields === undefined ? fieldValue(mapping, fields, field, data) : gather(field, input, fields, data)
    const fed = fit(field, input, value === undefined ? input.absent : value)
    feeds[input.tensor] = fed.tensor
    batched ||= fed.added
  }
  return { feeds, batched }
}

/** The answer a run's outputs make. Throws COMPONENT_ERROR when the model did not give an output that was asked for. */
export function fromOutputs(mapping: Mapping, outputs: Readonly<Record<string, Tensor>>, batched: boolean): Record<string, Json> {
  const answer: Record<string, Json> = {}
  for (const [field, output] of mapping.outputs) {
    const tensor = outputs[output.tensor]
    if (tensor === undefined) throw new MeshError('COMPONENT_ERROR', `the model gave no output "${output.tensor}"; it gave ${listed(Object.keys(outputs))}`)
    answer[field] = pick(batched && tensor.shape[0] === 1 ? { ...tensor, shape: tensor.shape.slice(1) } : tensor, output)
  }
  return answer
}

/** e.g. `float32[batch,4]`. */
export function describe(info: { readonly dtype: string; readonly shape: readonly (number | string)[] }): string {
  return `${info.dtype}[${info.shape.map(dimension => (free(dimension) && typeof dimension === 'number' ? '?' : dimension)).join(',')}]`
}

function fieldValue(mapping: Mapping, fields: Readonly<Record<string, Json>> | undefined, field: string, data: Json): Json | undefined {
  if (fields !== undefined && Object.hasOwn(fields, field)) return fields[field]
  if (mapping.bare && fields === undefined) return data
  // Clients of a model with one input rarely know what its exporter called it.
  if (mapping.bare && fields !== undefined) for (const name of ['input', 'inputs', 'data', 'features']) if (Object.hasOwn(fields, name)) return fields[name]
  return undefined
}

function gather(field: string, input: InputMapping, fields: Readonly<Record<string, Json>> | undefined, data: Json): Json {
  // A list of records is a batch.
  if (Array.isArray(data)) return data.map(row => gather(field, input, isRecord(row) ? row : undefined, null))
  return (input.fields ?? []).map(name => {
    const value = fields !== undefined && Object.hasOwn(fields, name) ? fields[name] : input.absent
    if (value === undefined) throw bad(`input "${field}" needs the field "${name}"; the data has ${listed(Object.keys(fields ?? {}))}`)
    return value
  })
}

function isRecord(value: Json): value is { readonly [key: string]: Json } {
  return value !== null && typeof value === 'object' && !Array.isArray(value)
}

function fit(field: string, input: InputMapping, value: Json | undefined): { readonly tensor: Tensor; readonly added: boolean } {
  if (value === undefined) throw bad(`input "${field}" is missing; it takes ${describe(input)}`)
  const flat: (number | string | boolean)[] = []
  const shape = flatten(value, flat, field, input)
  const resolved = resolveShape(shape, flat.length, input.shape)
  if (resolved === undefined) throw bad(`input "${field}" takes ${describe(input)}, got shape [${shape.join(',')}] (${flat.length} elements)`)
  try {
    return { tensor: { dtype: input.dtype, shape: resolved.shape, data: pack(input.dtype, flat) }, added: resolved.added }
  } catch (cause) {
    throw bad(`input "${field}" takes ${describe(input)}: ${cause instanceof Error ? cause.message : String(cause)}`)
  }
}

/** The shape to feed: as given, with a batch dimension before it, or refolded when only the flat count agrees. */
function resolveShape(given: readonly number[], count: number, wanted: readonly (number | string)[]): { readonly shape: readonly number[]; readonly added: boolean } | undefined {
  // A file may leave an input's rank open: the runtime judges.
  if (wanted.length === 0 || matches(given, wanted)) return { shape: given, added: false }
  const [batch, ...rest] = wanted
  const takesBatch = batch !== undefined && (free(batch) || batch === 1)
  if (takesBatch && matches(given, rest)) return { shape: [1, ...given], added: true }
  if (given.length > 1) return undefined
  const open = wanted.filter(free).length
  if (open === 0) {
    const shape = wanted.map(Number)
    return elements(shape) === count ? { shape, added: takesBatch && wanted.length > 1 } : undefined
  }
  if (takesBatch && open === 1 && rest.length > 0 && elements(rest.map(Number)) === count) return { shape: [1, ...rest.map(Number)], added: true }
  return undefined
}

function matches(given: readonly number[], wanted: readonly (number | string)[]): boolean {
  return given.length === wanted.length && wanted.every((dimension, axis) => free(dimension) || dimension === given[axis])
}

function free(dimension: number | string): boolean {
  return typeof dimension === 'string' || dimension < 0
}

/** Appends the leaves of `value` to `out`; returns the shape. Throws BAD_INPUT for ragged lists. */
function flatten(value: Json, out: (number | string | boolean)[], field: string, input: InputMapping): readonly number[] {
  if (typeof value === 'number' || typeof value === 'string' || typeof value === 'boolean') {
    out.push(value)
    return []
  }
  if (!Array.isArray(value)) throw bad(`input "${field}" takes ${describe(input)}, got ${kind(value)} inside it`)
  if (value.length === 0) return [0]
  let inner: readonly number[] | undefined
  for (const item of value as readonly Json[]) {
    const shape = flatten(item, out, field, input)
    if (inner !== undefined && (inner.length !== shape.length || inner.some((size, axis) => size !== shape[axis]))) {
      throw bad(`input "${field}" is ragged: one row has shape [${inner.join(',')}], another [${shape.join(',')}]; it takes ${describe(input)}`)
    }
    inner = shape
  }
  return [value.length, ...(inner ?? [])]
}

const SIZES: Readonly<Record<Exclude<Dtype, 'string'>, number>> = { float32: 4, float64: 8, float16: 2, int8: 1, uint8: 1, int16: 2, uint16: 2, int32: 4, uint32: 4, int64: 8, uint64: 8, bool: 1 }

function fromFile(field: string, input: InputMapping, file: PacketFile | undefined): Tensor {
  const bytes = file?.bytes
  if (bytes === undefined) throw bad(`input "${field}" takes its bytes from file ${input.file} of the packet, which has no such file`)
  if (input.dtype === 'string') throw bad(`input "${field}" is text and cannot be read from a file`)
  const count = bytes.byteLength / SIZES[input.dtype]
  const known = input.shape.filter(dimension => !free(dimension)).map(Number)
  const open = input.shape.length - known.length
  const rest = count / elements(known)
  if (!Number.isInteger(rest) || open > 1 || (open === 0 && rest !== 1)) throw bad(`input "${field}" takes ${describe(input)}; the file has ${bytes.byteLength} bytes`)
  const copy = new Uint8Array(bytes).buffer
  const views = {
    float32: Float32Array, float64: Float64Array, float16: Uint16Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array,
    uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array, bool: Uint8Array,
  }
  return { dtype: input.dtype, shape: input.shape.map(dimension => (free(dimension) ? rest : Number(dimension))), data: new views[input.dtype](copy) }
}

function pick(tensor: Tensor, output: OutputMapping): Json {
  if (output.pick === 'all') return nested(tensor)
  const flat = values(tensor)
  if (output.pick === 'first') return flat[0] ?? null
  const width = tensor.shape[tensor.shape.length - 1] ?? 1
  const rows: Json[] = []
  for (let first = 0; first < flat.length; first += width) rows.push(pickRow(flat.slice(first, first + width), output))
  return fold(rows, tensor.shape.slice(0, -1))
}

function pickRow(row: readonly Json[], output: OutputMapping): Json {
  const labels = output.labels ?? []
  if (typeof output.pick === 'number') return row[output.pick < 0 ? row.length + output.pick : output.pick] ?? null
  if (output.pick === 'labelled') return Object.fromEntries(row.map((value, index) => [labels[index] ?? String(index), value]))
  let best = 0
  for (const [index, value] of row.entries()) if (Number(value) > Number(row[best])) best = index
  if (output.pick === 'max') return row[best] ?? null
  if (output.pick === 'argmax') return best
  return labels[best] ?? String(best)
}

function section(initData: Readonly<Record<string, Json>>, name: 'inputs' | 'outputs'): Readonly<Record<string, Json>> | undefined {
  const value = initData[name]
  if (value === undefined || value === null) return undefined
  if (!isRecord(value)) throw invalid(`${name} must be an object of field → mapping, got ${kind(value)}`)
  return Object.keys(value).length === 0 ? undefined : value
}

function readInput(field: string, raw: Json, model: ModelShape): InputMapping {
  const given = typeof raw === 'string' ? { tensor: raw } : raw
  if (!isRecord(given)) throw invalid(`inputs.${field} must be an object or the name of a model input, got ${kind(given)}`)
  const name = given.tensor ?? field
  const info = named(model.inputs, name)
  if (info === undefined) throw invalid(`inputs.${field}.tensor: the model has no input ${JSON.stringify(name)}; it has ${listed(model.inputs.map(input => input.name))}`)
  const dtype = given.dtype ?? info.dtype
  if (!isDtype(dtype)) throw invalid(`inputs.${field}.dtype: ${JSON.stringify(dtype)} is no tensor type`)
  // Declaring another type than the file's own would only fail later, at every call.
  if (dtype !== info.dtype) throw invalid(`inputs.${field}.dtype: the model takes ${info.dtype}, not ${dtype}`)
  const shape = readShape(field, given.shape, info.shape)
  const names = given.fields
  if (names !== undefined && !(Array.isArray(names) && names.every(item => typeof item === 'string'))) throw invalid(`inputs.${field}.fields must be a list of field names`)
  const file = given.file
  if (file !== undefined && !(typeof file === 'number' && Number.isInteger(file) && file >= 0)) throw invalid(`inputs.${field}.file must be the place of a packet file, 0 or more`)
  return {
    tensor: info.name, dtype, shape,
    ...(names === undefined ? {} : { fields: names.map(String) }),
    ...(given.default === undefined ? {} : { absent: given.default }),
    ...(typeof file === 'number' ? { file } : {}),
  }
}

function readShape(field: string, raw: Json | undefined, own: readonly (number | string)[]): readonly (number | string)[] {
  if (raw === undefined || raw === null) return own
  if (!Array.isArray(raw)) throw invalid(`inputs.${field}.shape must be a list, got ${kind(raw)}`)
  const shape = (raw as readonly Json[]).map(dimension => {
    if (dimension === null) return -1
    if (typeof dimension === 'string' || Number.isInteger(dimension)) return dimension as number | string
    throw invalid(`inputs.${field}.shape holds ${kind(dimension)}; dimensions are whole numbers, or text, null or -1 where free`)
  })
  if (own.length > 0 && own.length !== shape.length) throw invalid(`inputs.${field}.shape has ${shape.length} dimensions, the model's ${describe({ dtype: '', shape: own })} has ${own.length}`)
  return shape
}

function readOutput(field: string, raw: Json, model: ModelShape): OutputMapping {
  const given = typeof raw === 'string' ? { tensor: raw } : raw
  if (!isRecord(given)) throw invalid(`outputs.${field} must be an object or the name of a model output, got ${kind(given)}`)
  const name = given.tensor ?? field
  const info = named(model.outputs, name)
  if (info === undefined) {
    throw invalid(`outputs.${field}.tensor: the model has no output ${JSON.stringify(name)}; it has ${listed(model.outputs.map(output => output.name))}`)
  }
  const chosen = given.pick ?? 'all'
  const known = typeof chosen === 'number' && Number.isInteger(chosen) ? chosen : PICKS.find(option => option === chosen)
  if (known === undefined) throw invalid(`outputs.${field}.pick: ${JSON.stringify(chosen)} is not one of ${PICKS.join(', ')} or a place on the last axis`)
  const labels = given.labels
  if (labels !== undefined && !Array.isArray(labels)) throw invalid(`outputs.${field}.labels must be a list`)
  if ((known === 'label' || known === 'labelled') && labels === undefined) throw invalid(`outputs.${field}.pick is ${known}, which needs labels`)
  return { tensor: info.name, pick: known, ...(labels === undefined ? {} : { labels: (labels as readonly Json[]).map(String) }) }
}

/** Exporters add suffixes (`dense_2/Softmax`, `x:0`) that authors leave out; one match is no guess. */
function named(infos: readonly TensorInfo[], name: Json): TensorInfo | undefined {
  const exact = infos.find(info => info.name === name)
  if (exact !== undefined || typeof name !== 'string') return exact
  const close = infos.filter(info => info.name.startsWith(`${name}/`) || info.name.startsWith(`${name}:`))
  return close.length === 1 ? close[0] : undefined
}

function listed(names: Iterable<string>): string {
  const all = [...names].map(name => `"${name}"`)
  return all.length === 0 ? 'none' : all.join(', ')
}

function bad(message: string): MeshError {
  return new MeshError('BAD_INPUT', message)
}

function invalid(message: string): MeshError {
  return new MeshError('SPEC_INVALID', `componentInitData.${message}`)
}
