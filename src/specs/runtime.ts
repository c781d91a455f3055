import type { Json } from '../../protocols/ids.ts'
import { quote } from '../../protocols/refusal.ts'
import { needs, type Needs } from '../../protocols/resources.ts'
import { runtimeName, type ComponentManifest, type RuntimeName } from '../../protocols/specs.ts'
import { isObject } from './document.ts'
import { Fields } from './fields.ts'
import type { Problems } from './problems.ts'

export type ComponentRuntime = ComponentManifest['runtime']
type ModelFormat = NonNullable<ComponentRuntime['format']>

const ENTRIES = ['index.ts', 'index.js', 'index.mjs', 'main.ts', 'main.js', 'main.mjs', 'src/index.ts', 'src/index.js']
const FORMATS: readonly ModelFormat[] = ['onnx', 'graph-model', 'layers-model', 'saved-model']

/**
 * How a component runs. What its author wrote (`runtime: { name, entry, model, format }` or just the name) stands;
 * the rest comes from the files of its directory: an entry module means node, one `.onnx` file onnx, a `model.json`
 * or `saved_model.pb` tfjs. With none of these, a container image means container and third-party mode external.
 */
export function readRuntime(spec: Fields, files: readonly string[] | undefined, registry: { readonly image: string | undefined; readonly thirdParty: boolean }): ComponentRuntime {
  const said = spec.find('runtime')
  const fields = new Fields(isObject(said) ? said : {}, spec.path('runtime'), spec.problems)
  const named = typeof said === 'string' ? said : fields.text(['name', 'type'])
  const name = readName(spec, named)
  const entry = readPath(fields, 'entry', files)
  const model = readPath(fields, 'model', files)
  const format = fields.find('format')
  if (said !== undefined && typeof said !== 'string' && !isObject(said)) spec.wrong('runtime', said, 'give { "name": "onnx", "model": "model.onnx" } or the like')
  if (format !== undefined && !isFormat(format)) fields.wrong('format', format, `use one of ${FORMATS.join(', ')}`)
  const explicit = { ...(entry === undefined ? {} : { entry }), ...(model === undefined ? {} : { model }), ...(isFormat(format) ? { format } : {}) }
  if (name === 'container' || name === 'external') return { name, ...explicit }
  const found = inferFromFiles(files ?? [])
  const inferred = name === undefined ? found.find(one => (model === undefined || one.model !== undefined) && (entry === undefined || one.entry !== undefined)) : found.find(one => one.name === name)
  if (name === undefined && inferred === undefined) return fallback(spec, explicit, files, registry)
  const runtime = { ...inferred, ...explicit, name: name ?? inferred?.name ?? 'node' }
  const isModel = runtime.name !== 'node'
  const complete = isModel ? { ...runtime, ...(runtime.format === undefined ? formatOf(runtime) : {}) } : runtime
  if (files !== undefined && complete.name === 'node' && complete.entry === undefined) fields.wrong('entry', undefined, `name the module to run, or add ${ENTRIES.slice(0, 2).join(' or ')}`)
  if (files !== undefined && isModel && complete.model === undefined) fields.wrong('model', undefined, `name the model file, for example ${complete.name === 'onnx' ? '"model.onnx"' : '"model.json"'}`)
  return complete
}

function fallback(spec: Fields, explicit: Omit<ComponentRuntime, 'name'>, files: readonly string[] | undefined, registry: { readonly image: string | undefined; readonly thirdParty: boolean }): ComponentRuntime {
  if (explicit.model !== undefined) return { name: explicit.model.endsWith('.onnx') ? 'onnx' : 'tfjs', ...explicit, ...formatOf(explicit) }
  if (explicit.entry !== undefined) return { name: 'node', ...explicit }
  if (registry.thirdParty) return { name: 'external' }
  if (registry.image !== undefined) return { name: 'container' }
  if (files !== undefined) spec.problems.add('runtime', `cannot tell how to run this component: add ${ENTRIES[0]} (code), a .onnx file, a model.json or a saved_model.pb, or a containerRegistryInfo.containerImage; the directory has ${files.slice(0, 8).join(', ') || 'no files'}`)
  return { name: 'node' }
}

/** Everything the files could be run as, code first: a module beside a model loads that model itself. */
function inferFromFiles(files: readonly string[]): readonly ComponentRuntime[] {
  const found: ComponentRuntime[] = []
  const entry = ENTRIES.find(path => files.includes(path))
  if (entry !== undefined) found.push({ name: 'node', entry })
  const shallow = [...files].sort((a, b) => a.split('/').length - b.split('/').length || (a < b ? -1 : 1))
  const onnx = shallow.find(path => path.endsWith('model.onnx')) ?? shallow.find(path => path.endsWith('.onnx'))
  if (onnx !== undefined) found.push({ name: 'onnx', model: onnx, format: 'onnx' })
  const json = shallow.find(path => path === 'model.json' || path.endsWith('/model.json'))
  // Only the file's own `format` tells graph from layers; the tfjs runner reads it where the author does not say.
  if (json !== undefined) found.push({ name: 'tfjs', model: json })
  const saved = shallow.find(path => path === 'saved_model.pb' || path.endsWith('/saved_model.pb'))
  if (saved !== undefined) found.push({ name: 'tfjs', model: saved, format: 'saved-model' })
  return found
}

function formatOf({ model }: { readonly model?: string | undefined }): { readonly format?: ModelFormat } {
  if (model?.endsWith('.onnx') === true) return { format: 'onnx' }
  return model?.endsWith('saved_model.pb') === true ? { format: 'saved-model' } : {}
}

function readName(spec: Fields, named: string | undefined): RuntimeName | undefined {
  if (named === undefined) return undefined
  const parsed = runtimeName.safeParse(ALIASES[named.toLowerCase()] ?? named.toLowerCase())
  if (parsed.success) return parsed.data
  spec.wrong('runtime.name', named, `use one of ${runtimeName.options.join(', ')}`)
  return undefined
}

const ALIASES: Readonly<Record<string, RuntimeName>> = { onnxruntime: 'onnx', tensorflow: 'tfjs', tf: 'tfjs', javascript: 'node', typescript: 'node', js: 'node', ts: 'node', docker: 'container', oci: 'container', http: 'external' }

/** A path inside the bundle: relative, with no way out, and present where the files are known. */
function readPath(fields: Fields, name: 'entry' | 'model', files: readonly string[] | undefined): string | undefined {
  const said = fields.text([name], 300)?.replace(/^\.\//, '')
  if (said === undefined) return undefined
  // TensorFlow calls the folder the SavedModel.
  const inside = `${said.replace(/\/$/, '')}/saved_model.pb`
  const path = name === 'model' && files?.includes(inside) === true ? inside : said
  if (path.startsWith('/') || path.includes('\\') || path.includes('\0') || path.split('/').some(part => part === '..' || part === '' || part === '.')) {
    fields.wrong(name, path, 'give a path inside the component directory, with "/" and without ".."')
    return undefined
  }
  if (files !== undefined && !files.includes(path)) fields.wrong(name, path, `no such file; the directory has ${files.slice(0, 8).join(', ') || 'no files'}`)
  return path
}

function isFormat(value: Json | undefined): value is ModelFormat {
  return typeof value === 'string' && FORMATS.some(format => format === value)
}

/**
 * What an instance needs: `needs` in the one form, or `resources` as people write them (`cpu: 0.5` or `"500m"`,
 * `memory: "512Mi"` or MiB, `disk`, `gpus`, `gpuMemory`). `otherwise` fills what is not said.
 */
export function readNeeds(spec: Fields, otherwise: Partial<Needs> = {}): Needs {
  const canonical = spec.inside('needs')
  const written = spec.inside('resources')
  const { problems } = spec
  const size = (name: string, ...names: readonly string[]): number | undefined => megabytes(written.find(name, ...names), written.path(name), problems)
  return needs.parse(defined({
    cpuMilli: canonical.count(['cpuMilli'], 0, 10_000_000) ?? milliCores(written.find('cpu', 'cpus', 'vcpus'), written.path('cpu'), problems) ?? otherwise.cpuMilli,
    memoryMb: canonical.count(['memoryMb'], 0, 1_000_000_000) ?? size('memory', 'memoryMb', 'ram') ?? otherwise.memoryMb,
    diskMb: canonical.count(['diskMb'], 0, 1_000_000_000) ?? size('disk', 'storage', 'diskMb') ?? otherwise.diskMb,
    gpus: canonical.count(['gpus'], 0, 64) ?? written.count(['gpus', 'gpu'], 0, 64) ?? otherwise.gpus,
    gpuMemoryMb: canonical.count(['gpuMemoryMb'], 0, 1_000_000_000) ?? size('gpuMemory', 'gpuMemoryMb') ?? otherwise.gpuMemoryMb,
  }))
}

function milliCores(value: Json | undefined, field: string, problems: Problems): number | undefined {
  if (value === undefined) return undefined
  const text = String(value)
  const [, amount, unit] = /^(\d{1,7}(?:\.\d{1,3})?)(m?)$/.exec(text) ?? []
  if (typeof value === 'object' || amount === undefined) {
    problems.add(field, `${quote(value)} is not an amount of CPU; give cores (0.5) or thousandths ("500m")`)
    return undefined
  }
  return Math.round(Number(amount) * (unit === 'm' ? 1 : 1_000))
}

const UNITS: Readonly<Record<string, number>> = { '': 1, m: 1, mb: 1, mi: 1, mib: 1, g: 1_024, gb: 1_024, gi: 1_024, gib: 1_024, t: 1_048_576, tb: 1_048_576, ti: 1_048_576, tib: 1_048_576, k: 1 / 1_024, kb: 1 / 1_024, ki: 1 / 1_024, kib: 1 / 1_024 }

function megabytes(value: Json | undefined, field: string, problems: Problems): number | undefined {
  if (value === undefined) return undefined
  const [, amount, unit] = /^(\d{1,9}(?:\.\d{1,6})?)\s*([a-zA-Z]{0,3})$/.exec(typeof value === 'object' ? '' : String(value)) ?? []
  const factor = UNITS[unit?.toLowerCase() ?? '?']
  if (amount === undefined || factor === undefined) {
    problems.add(field, `${quote(value)} is not a size; give MiB (512) or a text with its unit ("512Mi", "4GB")`)
    return undefined
  }
  return Math.ceil(Number(amount) * factor)
}

function defined<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const out: { [K in keyof T]?: Exclude<T[K], undefined> } = {}
  for (const key in value) if (value[key] !== undefined) Object.assign(out, { [key]: value[key] })
  return out
}
