import { createHash } from 'node:crypto'
import { mkdirSync, rmSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { MeshError } from '../../protocols/errors.ts'
import type { BlockRecord, RuntimeName } from '../../protocols/specs.ts'
import type { Backend, Clock, ContentStore, InstanceStart, Machine, RunningInstance, Telemetry } from '../../src/ports.ts'
import { compileSooner } from '../instance/compile-sooner.ts'
import type { Hook, InstanceConfig } from '../instance/frames.ts'
import { BundleShelf } from './backend-bundle.ts'
import { instanceCommand, warmCompileCache, type Isolation } from './fence.ts'
import { SupervisedInstance } from './supervisor.ts'

export type BackendOptions = {
  /** The daemon's folder. Instances live in `instances/` below it; what an earlier daemon left there is removed. */
  readonly dir: string
  readonly content: Pick<ContentStore, 'cat'>
  readonly clock: Clock
  readonly telemetry: Telemetry
  readonly machine: Pick<Machine, 'probe'>
  /** L1: behind the fence, or not at all. L0: unfenced, by the operator's choice. */
  readonly isolation: Isolation
  /** Where what V8 compiled of our own code is kept, see `warmCompileCache`; below `dir` by default. */
  readonly compileCache?: string | undefined
  /** Runtimes whose instances are no fenced processes. */
  readonly others?: readonly OtherRuntime[]
}

/** A runtime of its own kind; `start` throws RUNTIME_UNAVAILABLE with the reason where it cannot run. */
export type OtherRuntime = { readonly name: RuntimeName; available(): boolean; start(request: InstanceStart, signal: AbortSignal): Promise<RunningInstance> }

/** Beyond its budget: the runtime's own code and libraries, which every instance maps. */
const RUNTIME_MB = 160
const PACKAGES: readonly (readonly [RuntimeName, string])[] = [['onnx', 'onnxruntime-node'], ['llm', 'onnxruntime-node'], ['tfjs', '@tensorflow/tfjs']]
const HOOKS: readonly Hook[] = ['pre_processing', 'post_processing']

/** Starts instances of the onnx, llm, tfjs and node runtimes as fenced child processes. */
export function createBackend(options: BackendOptions): Backend {
  const { telemetry, isolation, others = [] } = options
  const dir = join(options.dir, 'instances')
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const compileCache = options.compileCache ?? join(options.dir, 'compile-cache')
  warmCompileCache(compileCache)
  const shelf = new BundleShelf(options.content, join(dir, 'files'))
  const require = createRequire(import.meta.url)
  const fenced: readonly RuntimeName[] = ['node', ...PACKAGES.filter(([, name]) => resolves(require, name)).map(([runtime]) => runtime)]
  if (isolation === 'L0') telemetry.event('warn', 'instances_unfenced', { isolation, meaning: 'components run with all of this user’s rights' })
  return {
    runtimes: () => [...fenced, ...others.filter(other => other.available()).map(({ name }) => name)],
    async start(request, signal) {
      const { manifest, instance } = request
      const other = others.find(({ name }) => name === manifest.runtime.name)
      if (other !== undefined) return other.start(request, signal)
      if (!fenced.includes(manifest.runtime.name)) throw new MeshError('RUNTIME_UNAVAILABLE', `this host runs ${fenced.join(', ')}, not ${manifest.runtime.name}`)
      const folder = join(dir, instance)
      const bundle = join(folder, 'bundle')
      const scratch = join(folder, 'scratch')
      const shared = join(dir, 'blocks', sharedName(request.block))
      await rm(folder, { recursive: true, force: true })
      await mkdir(bundle, { recursive: true, mode: 0o700 })
      await mkdir(scratch, { recursive: true, mode: 0o700 })
      await mkdir(shared, { recursive: true, mode: 0o700 })
      const clean = async () => {
        await rm(folder, { recursive: true, force: true, maxRetries: 3 })
        await shelf.release(manifest.files)
      }
      try {
        await shelf.layOut(manifest.files, bundle, signal)
      } catch (error) {
        await rm(folder, { recursive: true, force: true })
        throw error
      }
      const computes = manifest.runtime.name === 'llm'
      // Each token of its sessions takes its way through this process, too.
      if (computes) compileSooner()
      const { needs } = request.block
      const running = new SupervisedInstance({
        ...instanceCommand(isolation, { bundle, scratch, shared, memoryMb: needs.memoryMb, spareMb: spareMb(request), diskMb: needs.diskMb, gpus: request.gpus, cpuSeconds: cpuSeconds(request.block), largePages: computes, compileCache }),
        cwd: scratch,
        limits: { memoryMb: needs.memoryMb + RUNTIME_MB, diskMb: needs.diskMb, folders: [scratch, shared] },
      }, options.clock, hooksFor(options, request))
      void running.exited.then(async ({ because, crashed }) => {
        telemetry.event(crashed ? 'warn' : 'info', 'instance_exited', { instance, block: request.block.blockId, because, crashed })
        await clean()
      })
      return await becomeReady(running, await configOf(request, bundle, needs.diskMb > 0 ? { instance: scratch, block: shared } : undefined, options.machine), signal)
    },
  }
}

async function becomeReady(running: SupervisedInstance, config: InstanceConfig, signal: AbortSignal): Promise<RunningInstance> {
  try {
    await running.loaded(config, signal)
    return running
  } catch (error) {
    await running[Symbol.asyncDispose]()
    throw error
  }
}

/** What an instance is told of itself. */
export async function configOf(request: InstanceStart, bundle: string, folders: InstanceConfig['folders'], machine: Pick<Machine, 'probe'>): Promise<InstanceConfig> {
  const { block, manifest, gpus } = request
  const probed = gpus.length === 0 ? undefined : (await machine.probe()).runtimes.find(runtime => runtime.name === manifest.runtime.name)
  return {
    blockData: { id: block.blockId, componentURI: block.componentURI, inputProtocol: block.inputProtocol, outputProtocol: block.outputProtocol, labels: block.labels, tags: block.tags },
    blockInitData: block.initData,
    blockInitSettings: block.initSettings,
    blockInitParameters: block.parameters,
    allocationInfo: { gpus, node_id: request.peer, cluster_id: request.clusterId, instance_id: request.instance },
    ...(folders === undefined ? {} : { folders }),
    runtime: manifest.runtime,
    bundle,
    files: manifest.files.map(file => file.path),
    // Without a GPU in its contract an instance has no business on one.
    providers: (probed?.providers ?? ['cpu']).filter(provider => provider !== 'cpu'),
    threads: Math.max(1, Math.ceil(block.needs.cpuMilli / 1_000)),
    hooks: HOOKS.filter(hook => block.policies[hook] !== undefined),
  }
}

/** What an instance may ask of its daemon, and tell it. */
export function hooksFor(options: Pick<BackendOptions, 'telemetry'>, request: InstanceStart): ConstructorParameters<typeof SupervisedInstance>[2] {
  const { instance, block } = request
  return {
    event(sideCar, name, data) {
      options.telemetry.event('info', sideCar ? 'block_side_car' : 'block_event', { instance, block: block.blockId, name })
      request.emit?.(sideCar, name, data)
    },
    policy: (hook, packet) => request.packetPolicy(hook, packet),
  }
}

/** A stage sets places for keys and values aside before it fills them, and at times two for the same. V8 does not survive that being refused. */
function spareMb({ manifest, block }: InstanceStart): number {
  return manifest.runtime.name === 'llm' ? block.needs.memoryMb : 0
}

/** Whoever takes a block's name later, or publishes another component under it, finds nothing of it. */
function sharedName({ blockId, owner, component }: BlockRecord): string {
  return createHash('sha256').update(JSON.stringify([blockId, owner, component])).digest('hex').slice(0, 40)
}

/** `initSettings.cpuSeconds`: processor time after which the kernel ends the instance; 0 or absent: no such limit. */
function cpuSeconds(block: BlockRecord): number {
  const value = block.initSettings.cpuSeconds
  return typeof value === 'number' && value > 0 ? value : 0
}

function resolves(require: NodeJS.Require, name: string): boolean {
  try {
    require.resolve(name)
    return true
  } catch {
    return false
  }
}
