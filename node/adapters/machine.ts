import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { rename, writeFile } from 'node:fs/promises'
import { availableParallelism, loadavg } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { runtime, type Gpu, type Runtime } from '../../protocols/resources.ts'
import type { GpuUsage, Machine, MachineReport, MachineUsage } from '../../src/ports.ts'
import { compiledFolder } from '../compiled.ts'
import { checkFence } from './fence.ts'
import { gpuNotes, listGpus, readGpus, type GpuReading } from './gpu.ts'
import { HostCounter } from './host-counters.ts'
import { makeFolder } from './make-folder.ts'
import { cpuModel, diskFreeMb, installedRuntimes, withStages, memoryFreeMb, osName, packageVersion, readResources } from './machine-facts.ts'
import type { Measured } from './machine-measure.ts'

const SCRIPT = fileURLToPath(new URL('./machine-measure.ts', import.meta.url))
/** A first start of a GPU driver compiles shaders for many seconds. */
const MEASURE_MS = 60_000
const GPU_EVERY_MS = 5_000
const VERSION = 1

const measurements = z.object({ runtimes: z.array(runtime), memoryGBs: z.number(), landlock: z.boolean(), notes: z.array(z.string()) })
type Measurements = z.infer<typeof measurements>

export interface MeasuredMachine extends Machine {
  /** Loads and measures each runtime in processes of their own (1 to 2 s without a GPU), unless this hardware was measured before. */
  refine(): Promise<MachineReport>
  /** A runtime that is no package of ours, as it is found and the operator allows it. */
  offer(runtime: Runtime): void
  note(text: string): void
}

/**
 * This host. `probe` answers in milliseconds with what can be read and what an earlier start measured; `refine` measures
 * and keeps the figures in `dir` until hardware or versions change.
 */
export function createMachine({ dir }: { readonly dir: string }): MeasuredMachine {
  makeFolder(dir)
  const file = join(dir, 'machine.json')
  let gpus: readonly GpuReading[] = listGpus()
  let gpusReadAt = -Infinity
  let known: Measurements | undefined
  let refining: Promise<MachineReport> | undefined
  const counter = new HostCounter(dir)
  const offered: Runtime[] = []
  const notes: string[] = []

  const key = (): string => hardwareKey(gpus)
  const report = (): MachineReport => {
    const measured = known ?? { runtimes: [...installedRuntimes()], memoryGBs: 0, landlock: process.platform === 'linux', notes: ['not measured yet'] }
    return {
      total: readResources(dir, gpus.map(withoutLoad)),
      runtimes: [...withStages(measured.runtimes), ...offered], memoryGBs: measured.memoryGBs, os: osName(), cpuModel: cpuModel(),
      isolation: [...(measured.landlock ? ['L0', 'L1'] : ['L0']), ...(offered.some(({ name }) => name === 'container') ? ['L3'] : [])], notes: [...measured.notes, ...notes],
    }
  }
  const refreshGpus = async (): Promise<void> => {
    gpusReadAt = performance.now()
    gpus = await readGpus()
  }
  return {
    async probe() {
      known ??= readCache(file, key())
      return report()
    },
    refine() {
      refining ??= (async () => {
        await refreshGpus()
        known = readCache(file, key())
        if (known === undefined) {
          known = await measure(gpus)
          await writeFile(`${file}.new`, JSON.stringify({ key: key(), measured: known }))
          await rename(`${file}.new`, file)
        }
        return report()
      })().finally(() => { refining = undefined })
      return refining
    },
    offer: runtime => void offered.push(runtime),
    note: text => void notes.push(text),
    usage(): MachineUsage {
      if (gpus.length > 0 && performance.now() - gpusReadAt > GPU_EVERY_MS) void refreshGpus()
      return {
        cpuLoad: (loadavg()[0] ?? 0) / availableParallelism(),
        memoryFreeMb: memoryFreeMb(),
        diskFreeMb: diskFreeMb(dir),
        gpus: gpus.map(usageOf),
      }
    },
    counters: () => counter.read(),
  }
}

/** Runs one measurement in a process of its own. */
export function measureOne(args: readonly string[]): Promise<{ readonly ok: true; readonly measured: Measured } | { readonly ok: false; readonly because: string }> {
  return new Promise(resolve => {
    execFile(process.execPath, ['--disable-warning=ExperimentalWarning', SCRIPT, ...args], { timeout: MEASURE_MS, killSignal: 'SIGKILL', maxBuffer: 1_048_576, env: { ...process.env, NODE_COMPILE_CACHE: compiledFolder() } }, (error, stdout, stderr) => {
      const line = stdout.trim().split('\n').at(-1) ?? ''
      if (error === null && line.startsWith('{')) resolve({ ok: true, measured: JSON.parse(line) as Measured })
      else resolve({ ok: false, because: error?.killed === true ? `no answer in ${MEASURE_MS / 1_000} s` : (stderr.split('\n').findLast(text => /error/i.test(text)) ?? error?.message ?? 'it printed nothing').trim().slice(0, 300) })
    })
  })
}

/** ONNX Runtime providers worth trying here besides cpu; the others cannot work without their hardware. */
export function candidateProviders(gpus: readonly Gpu[]): readonly string[] {
  const nvidia = gpus.some(gpu => gpu.name.startsWith('NVIDIA'))
  return [...(nvidia ? ['cuda'] : []), ...(gpus.length > 0 ? ['webgpu'] : [])]
}

async function measure(gpus: readonly Gpu[]): Promise<Measurements> {
  const notes: string[] = [...await gpuNotes()]
  const runtimes: Runtime[] = [{ name: 'node', version: process.versions.node, providers: ['v8'], gflops: 0 }]
  // One after another: measured together they would share the cores and all look slow.
  const onnx = packageVersion('onnxruntime-node')
  if (onnx === undefined) notes.push('onnx: onnxruntime-node is not installed')
  else {
    const loaded: Measured[] = []
    for (const provider of [...candidateProviders(gpus), 'cpu']) {
      const result = await measureOne(['onnx', provider, String(availableParallelism())])
      if (result.ok) loaded.push(result.measured)
      else notes.push(`onnx: ${provider} is not used: ${result.because}`)
    }
    loaded.sort((a, b) => b.figure - a.figure)
    if (loaded[0] !== undefined) runtimes.push({ name: 'onnx', version: onnx, providers: loaded.map(({ provider }) => provider), gflops: round(loaded[0].figure) })
  }
  const tfjs = packageVersion('@tensorflow/tfjs')
  const tensorflow = tfjs === undefined ? undefined : await measureOne(['tfjs'])
  if (tensorflow?.ok === true) {
    runtimes.push({ name: 'tfjs', version: tfjs ?? '', providers: [tensorflow.measured.provider], gflops: round(tensorflow.measured.figure) })
    notes.push(...tensorflow.measured.notes.map(note => `tfjs: ${note}`))
  } else notes.push(`tfjs: ${tensorflow?.because ?? '@tensorflow/tfjs is not installed'}`)
  const memory = await measureOne(['memory'])
  if (!memory.ok) notes.push(`memory: not measured: ${memory.because}`)
  const fence = await checkFence()
  if (!fence.ok) notes.push(`isolation: no fence (L1): ${fence.because}`)
  return { runtimes, memoryGBs: memory.ok ? round(memory.measured.figure) : 0, landlock: fence.ok, notes }
}

function readCache(file: string, key: string): Measurements | undefined {
  try {
    const cached = JSON.parse(readFileSync(file, 'utf8')) as { readonly key?: unknown; readonly measured?: unknown }
    return cached.key === key ? measurements.parse(cached.measured) : undefined
  } catch {
    return undefined
  }
}

/** Changes with anything that may change what loads or how fast it is. Memory of GPUs is left out: it is read late. */
function hardwareKey(gpus: readonly Gpu[]): string {
  const facts = [VERSION, osName(), cpuModel(), availableParallelism(), process.versions.node, gpus.map(gpu => [gpu.id, gpu.name, gpu.driver]), ['onnxruntime-node', '@tensorflow/tfjs', '@tensorflow/tfjs-node', '@tensorflow/tfjs-node-gpu', 'koffi'].map(packageVersion)]
  return createHash('sha256').update(JSON.stringify(facts)).digest('hex')
}

/** A GPU as it is advertised: its load is news, not capacity. */
function withoutLoad({ id, name, memoryMb, freeMb, driver }: GpuReading): Gpu {
  return { id, name, memoryMb, freeMb, ...(driver === undefined ? {} : { driver }) }
}

function usageOf({ id, freeMb, utilisation, memoryUtilisation, powerUtilisation, temperature }: GpuReading): GpuUsage {
  return {
    id, freeMb,
    ...(utilisation === undefined ? {} : { utilisation }), ...(memoryUtilisation === undefined ? {} : { memoryUtilisation }),
    ...(powerUtilisation === undefined ? {} : { powerUtilisation }), ...(temperature === undefined ? {} : { temperature }),
  }
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
