import { execFile } from 'node:child_process'
import { findEngine } from './containers/engine.ts'
import { checkFence } from './fence.ts'
import { gpuNotes, readGpus } from './gpu.ts'
import { packageVersion } from './machine-facts.ts'
import { candidateProviders, measureOne } from './machine.ts'

/** One row of `aios doctor`. `detail` is the speed or version where it works, the reason where it does not. */
export type Finding = { readonly area: 'runtime' | 'isolation' | 'gpu'; readonly name: string; readonly ok: boolean; readonly detail: string }

/** Tries everything this host could run instances with, and says why not where it cannot. Takes a few seconds. */
export async function diagnose(): Promise<readonly Finding[]> {
  return [...await gpuFindings(), ...await onnxFindings(), ...await tensorflowFindings(), ...await containerFindings(), ...await isolationFindings()]
}

async function gpuFindings(): Promise<readonly Finding[]> {
  const gpus = await readGpus()
  if (gpus.length === 0) return [{ area: 'gpu', name: 'none', ok: false, detail: 'no GPU found through nvidia-smi, /proc/driver/nvidia or /sys/class/drm' }]
  const notes = await gpuNotes()
  return [
    ...gpus.map(gpu => ({ area: 'gpu' as const, name: gpu.name, ok: gpu.memoryMb > 0, detail: `${gpu.memoryMb} MB, ${gpu.freeMb} MB free, driver ${gpu.driver ?? 'unknown'}` })),
    ...notes.map(note => ({ area: 'gpu' as const, name: 'nvidia-smi', ok: false, detail: note })),
  ]
}

async function onnxFindings(): Promise<readonly Finding[]> {
  const version = packageVersion('onnxruntime-node')
  if (version === undefined) return [{ area: 'runtime', name: 'onnx', ok: false, detail: 'onnxruntime-node is not installed' }]
  const worthTrying = candidateProviders(await readGpus())
  const findings: Finding[] = []
  for (const provider of ['cuda', 'webgpu', 'cpu']) {
    if (provider !== 'cpu' && !worthTrying.includes(provider)) {
      findings.push({ area: 'runtime', name: `onnx/${provider}`, ok: false, detail: provider === 'cuda' ? 'no NVIDIA GPU here' : 'no GPU here' })
      continue
    }
    const result = await measureOne(['onnx', provider, '1'])
    findings.push({ area: 'runtime', name: `onnx/${provider}`, ok: result.ok, detail: result.ok ? `onnxruntime-node ${version}, ${Math.round(result.measured.figure)} GFLOP/s` : result.because })
  }
  return findings
}

async function tensorflowFindings(): Promise<readonly Finding[]> {
  const version = packageVersion('@tensorflow/tfjs')
  if (version === undefined) return [{ area: 'runtime', name: 'tfjs', ok: false, detail: '@tensorflow/tfjs is not installed' }]
  const result = await measureOne(['tfjs'])
  if (!result.ok) return [{ area: 'runtime', name: 'tfjs', ok: false, detail: result.because }]
  const passed = result.measured.notes.map(note => {
    const [name, ...because] = note.split(': ')
    return { area: 'runtime' as const, name: `tfjs/${name}`, ok: false, detail: because.join(': ') }
  })
  return [...passed, { area: 'runtime', name: `tfjs/${result.measured.provider}`, ok: true, detail: `tfjs ${version}, ${Math.round(result.measured.figure)} GFLOP/s` }]
}

async function containerFindings(): Promise<readonly Finding[]> {
  const engine = await findEngine()
  return [{ area: 'runtime', name: 'container', ok: engine.ok, detail: engine.ok ? `${engine.value.name} ${engine.value.version}: images pushed to the mesh run (\`aios up --containers\` says what else they may)` : engine.because }]
}

async function isolationFindings(): Promise<readonly Finding[]> {
  const fence = await checkFence()
  const bwrap = await runs('bwrap', ['--ro-bind', '/', '/', 'true'])
  return [
    { area: 'isolation', name: 'L1 fence', ok: fence.ok, detail: fence.ok ? `Landlock ABI ${fence.landlock}, seccomp, limits: the default` : `${fence.because}; instances are refused unless the operator chooses --isolation=L0` },
    { area: 'isolation', name: 'L2 bubblewrap', ok: false, detail: bwrap ? 'bwrap works here, but instances do not use it yet' : 'bwrap is missing or not allowed here; not needed for L1' },
    { area: 'isolation', name: 'L0 bare', ok: true, detail: 'no isolation: only for components you wrote yourself' },
  ]
}

function runs(command: string, args: readonly string[]): Promise<boolean> {
  return new Promise(resolve => {
    execFile(command, args, { timeout: 5_000 }, error => resolve(error === null))
  })
}
