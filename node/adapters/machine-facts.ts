import { readFileSync, statfsSync } from 'node:fs'
import { createRequire, findPackageJSON } from 'node:module'
import { availableParallelism, cpus, freemem, release, totalmem, type } from 'node:os'
import type { Gpu, Resources, Runtime } from '../../protocols/resources.ts'

const MB = 1_048_576
const require = createRequire(import.meta.url)

/** What the host has, as far as it can be read without starting anything. */
export function readResources(dir: string, gpus: readonly Gpu[]): Resources {
  return { cpuMilli: availableParallelism() * 1_000, memoryMb: Math.floor(memoryBytes() / MB), diskMb: diskFreeMb(dir), gpus: [...gpus] }
}

export function cpuModel(): string {
  return cpus()[0]?.model.trim() ?? 'unknown'
}

export function osName(): string {
  return `${type()} ${release()} ${process.arch}`
}

/** Runtimes whose packages are installed, before any of them was loaded: providers that need no hardware, no speed yet. */
export function installedRuntimes(): readonly Runtime[] {
  const runtimes: Runtime[] = [{ name: 'node', version: process.versions.node, providers: ['v8'], gflops: 0 }]
  const onnx = packageVersion('onnxruntime-node')
  if (onnx !== undefined) runtimes.push({ name: 'onnx', version: onnx, providers: ['cpu'], gflops: 0 })
  const tfjs = packageVersion('@tensorflow/tfjs')
  if (tfjs !== undefined) runtimes.push({ name: 'tfjs', version: tfjs, providers: [packageVersion('@tensorflow/tfjs-backend-wasm') === undefined ? 'cpu' : 'wasm'], gflops: 0 })
  return runtimes
}

/** Where ONNX Runtime is, stages of language models run too, with what it has. */
export function withStages(runtimes: readonly Runtime[]): readonly Runtime[] {
  return runtimes.flatMap(runtime => (runtime.name === 'onnx' ? [runtime, { ...runtime, name: 'llm' }] : [runtime]))
}

export function packageVersion(name: string): string | undefined {
  try {
    const file = findPackageJSON(name, import.meta.url)
    return file === undefined ? undefined : (require(file) as { readonly version: string }).version
  } catch {
    return undefined
  }
}

/** Memory a new instance could have: what the kernel calls available, within a container's limit. */
export function memoryFreeMb(): number {
  const available = /^MemAvailable:\s+(\d+) kB/m.exec(readText('/proc/meminfo') ?? '')?.[1]
  const host = available === undefined ? freemem() : Number(available) * 1_024
  const limit = constrained()
  return Math.floor(Math.min(host, limit === undefined ? Infinity : Math.max(0, limit - usedInContainer())) / MB)
}

export function diskFreeMb(dir: string): number {
  try {
    const { bavail, bsize } = statfsSync(dir)
    return Math.floor((bavail * bsize) / MB)
  } catch {
    return 0
  }
}

/** A container may have less than its host. */
export function memoryBytes(): number {
  return Math.min(totalmem(), constrained() ?? Infinity)
}

function constrained(): number | undefined {
  const bytes = process.constrainedMemory()
  return bytes > 0 && bytes < totalmem() ? bytes : undefined
}

function usedInContainer(): number {
  return Number(readText('/sys/fs/cgroup/memory.current') ?? readText('/sys/fs/cgroup/memory/memory.usage_in_bytes') ?? 0)
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}
