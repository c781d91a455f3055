/** What an instance is fenced into, decided before it starts. `fence-launch.ts` builds it, from inside the new process. */
import { execFile, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, realpathSync } from 'node:fs'
import { findPackageJSON } from 'node:module'
import { join, sep } from 'node:path'
import { fileURLToPath } from 'node:url'

export type Isolation = 'L0' | 'L1'

/** Exit code of a launcher that could not build the fence. */
export const FENCE_FAILED = 96

export type FenceOrder = {
  /** Only report what this kernel offers. */
  readonly check?: boolean
  readonly read: readonly string[]
  /** Files that may be executed: the runtime and its loader, nothing else. */
  readonly execute: readonly string[]
  readonly write: readonly string[]
  readonly devices: readonly string[]
  readonly gpus: boolean
  /** Descriptors that survive into the instance. */
  readonly keep: readonly number[]
  readonly limits: { readonly dataBytes: number; readonly files: number; readonly fileBytes: number; readonly threads: number; readonly cpuSeconds: number }
  readonly command: readonly string[]
  readonly env: Readonly<Record<string, string>>
}

export type FenceRequest = {
  readonly bundle: string
  readonly scratch: string
  /** Folder that the block's instances share. */
  readonly shared: string
  readonly memoryMb: number
  /** Memory that may be set aside beyond that, as long as it is not used. */
  readonly spareMb?: number
  /** 0: the instance may write nothing at all. */
  readonly diskMb: number
  readonly gpus: readonly string[]
  readonly cpuSeconds: number
  /** It reads much of its memory at every step: large pages spare the processor looking up where each small one lies. */
  readonly largePages?: boolean
  /** Our own code as V8 compiled it, see `warmCompileCache`: an instance reads it and cannot write it. */
  readonly compileCache: string
}

/** What Node and V8 map before the first byte of a block's own: measured 560 MB on Node 24. */
const RUNTIME_DATA_MB = 600
/** Where the C library looks whether the kernel has large pages for those who ask, before it asks. */
const LARGE_PAGES = '/sys/kernel/mm/transparent_hugepage'
/** CUDA contexts keep host copies of what they load. */
const GPU_DATA_MB = 8_192
const MB = 1_048_576

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const LAUNCHER = fileURLToPath(new URL('./fence-launch.ts', import.meta.url))
const INSTANCE = fileURLToPath(new URL('../instance/main.ts', import.meta.url))
const PACKAGES = ['@ipld/dag-cbor', 'onnxruntime-node', '@tensorflow/tfjs', 'koffi']

/** The command line and environment that start an instance, behind the fence or (L0) without one. */
export function instanceCommand(isolation: Isolation, request: FenceRequest): { readonly command: string; readonly args: readonly string[]; readonly env: Readonly<Record<string, string>> } {
  const env = environment(request)
  const heapMb = Math.max(64, request.memoryMb)
  const instance = ['--disable-warning=ExperimentalWarning', '--disable-warning=MODULE_TYPELESS_PACKAGE_JSON', `--max-old-space-size=${heapMb}`, INSTANCE]
  if (isolation === 'L0') return { command: process.execPath, args: instance, env }
  const order: FenceOrder = { ...paths(request), ...limits(request), gpus: request.gpus.length > 0, keep: [3], command: [process.execPath, ...instance], env }
  return { command: process.execPath, args: ['--disable-warning=ExperimentalWarning', LAUNCHER, JSON.stringify(order)], env: { NODE_COMPILE_CACHE: request.compileCache } }
}

/**
 * Compiles what every instance loads, once: it takes loading from about 230 ms to 50. Runs our own code only,
 * with nobody's block, in a process that ends when its pipe does.
 */
export function warmCompileCache(folder: string): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  // The launcher becomes the instance before it could keep what it compiled, so it too is warmed apart.
  for (const script of [[INSTANCE], [LAUNCHER, JSON.stringify({ check: true })]]) {
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', ...script], { stdio: ['ignore', 'ignore', 'ignore', 'pipe'], env: { NODE_COMPILE_CACHE: folder }, cwd: folder })
    // Without it instances start as well, only later.
    child.on('error', () => undefined)
    child.stdio[3]?.destroy()
    child.unref()
  }
}

/** Whether this host can fence, asked in a process of its own because it calls into the kernel. */
export function checkFence(): Promise<{ readonly ok: true; readonly landlock: number } | { readonly ok: false; readonly because: string }> {
  if (process.platform !== 'linux') return Promise.resolve({ ok: false, because: `the fence needs Linux; this is ${process.platform}` })
  return new Promise(resolve => {
    execFile(process.execPath, [LAUNCHER, JSON.stringify({ check: true })], { timeout: 10_000, env: {} }, (error, stdout, stderr) => {
      if (error === null) resolve({ ok: true, landlock: (JSON.parse(stdout) as { readonly landlock: number }).landlock })
      else resolve({ ok: false, because: stderr.split('\n').find(line => line.startsWith('fence: '))?.slice(7) ?? error.message.split('\n')[0]! })
    })
  })
}

function environment({ scratch, gpus, compileCache, largePages = false }: FenceRequest): Readonly<Record<string, string>> {
  const libraries = gpus.length > 0 ? process.env.LD_LIBRARY_PATH : undefined
  return {
    HOME: scratch, TMPDIR: scratch, LANG: 'C.UTF-8', TZ: 'UTC', OPENSSL_CONF: '/dev/null', NODE_COMPILE_CACHE: compileCache, ORT_DISABLE_TELEMETRY: '1',
    CUDA_VISIBLE_DEVICES: gpus.join(','), NVIDIA_VISIBLE_DEVICES: gpus.join(','),
    ...(libraries === undefined ? {} : { LD_LIBRARY_PATH: libraries }),
    ...(largePages ? { GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1' } : {}),
  }
}

function paths({ bundle, scratch, shared, diskMb, gpus, compileCache, largePages = false }: FenceRequest): Pick<FenceOrder, 'read' | 'execute' | 'write' | 'devices'> {
  const withGpus = gpus.length > 0
  return {
    read: [
      bundle, scratch, shared, compileCache, ...runtimeCode(), ...libraries(),
      '/dev/zero', '/dev/urandom', '/proc/cpuinfo', '/proc/meminfo', '/proc/self/stat', '/proc/self/statm', '/sys/devices/system/cpu', '/usr/share/zoneinfo',
      ...(largePages ? [LARGE_PAGES] : []),
      ...(withGpus ? ['/proc/driver/nvidia', '/proc/devices', '/proc/self', '/sys/bus/pci', '/sys/devices', '/sys/class/drm', '/sys/module/nvidia', '/usr/share/vulkan', '/etc/vulkan', '/usr/local/cuda', '/usr/local/nvidia'] : []),
    ],
    execute: [process.execPath, ...loaders()],
    write: diskMb > 0 ? [scratch, shared] : [],
    devices: ['/dev/null', ...(withGpus ? ['/dev/nvidiactl', '/dev/nvidia-uvm', '/dev/nvidia-uvm-tools', '/dev/nvidia-caps', '/dev/dri', '/dev/kfd', ...nvidiaDevices()] : [])],
  }
}

function limits({ memoryMb, spareMb = 0, diskMb, gpus, cpuSeconds }: FenceRequest): Pick<FenceOrder, 'limits'> {
  return {
    limits: {
      dataBytes: (RUNTIME_DATA_MB + memoryMb + spareMb + (gpus.length > 0 ? GPU_DATA_MB : 0)) * MB,
      files: 256,
      fileBytes: diskMb * MB,
      threads: threadsNow() + 256,
      cpuSeconds,
    },
  }
}

/** The limit on threads counts everything its user runs, so it is set above what runs now. */
function threadsNow(): number {
  try {
    return Number(readFileSync('/proc/loadavg', 'utf8').split(/[ /]/)[4]) || 1_024
  } catch {
    return 1_024
  }
}

/** Our own code that runs inside an instance, and the packages it loads. */
function runtimeCode(): readonly string[] {
  const modules = new Set<string>()
  for (const name of PACKAGES) {
    const found = findPackage(name)
    if (found !== undefined) modules.add(found.slice(0, found.lastIndexOf(`${sep}node_modules${sep}`) + `${sep}node_modules`.length))
  }
  return [...['package.json', 'sdk', 'protocols', 'src', 'node/instance'].map(path => join(ROOT, path)), ...modules]
}

function findPackage(name: string): string | undefined {
  try {
    return findPackageJSON(name, import.meta.url)
  } catch {
    return undefined
  }
}

function libraries(): readonly string[] {
  return ['/lib', '/lib64', '/usr/lib', '/usr/lib64', '/usr/local/lib', '/etc/ld.so.cache', '/nix/store'].filter(existsSync)
}

/** The dynamic loader is what the kernel really executes. */
function loaders(): readonly string[] {
  return ['/lib64/ld-linux-x86-64.so.2', '/lib/ld-linux-aarch64.so.1', '/lib/ld-musl-x86_64.so.1', '/lib/ld-musl-aarch64.so.1'].filter(existsSync).map(path => realpathSync(path))
}

function nvidiaDevices(): readonly string[] {
  return Array.from({ length: 16 }, (_, index) => `/dev/nvidia${index}`).filter(existsSync)
}
