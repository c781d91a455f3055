import { randomBytes } from 'node:crypto'
import { z } from 'zod'
import { MeshError, type Verdict } from '../../../protocols/errors.ts'
import { ociDigest } from '../../../protocols/image.ts'
import { refusalOf } from '../../../protocols/refusal.ts'
import type { Clock, InstanceStart, Machine, RunningInstance, Telemetry } from '../../../src/ports.ts'
import { configOf, hooksFor, type OtherRuntime } from '../backend.ts'
import { SupervisedInstance } from '../supervisor.ts'
import { containerCommand } from './command.ts'
import type { Engine } from './engine.ts'
import { HttpContainer } from './http-container.ts'
import { bringImage, readImage, type ImageSource, type MeshImages } from './image.ts'

export type ContainerOptions = {
  readonly engine: Promise<Verdict<Engine>>
  /** Where images may come from. */
  readonly sources: ReadonlySet<ImageSource>
  /** May components that ask for it have the engine's network? */
  readonly network: boolean
  readonly images: MeshImages
  /** Marks this daemon's containers. */
  readonly label: string
  readonly clock: Clock
  readonly telemetry: Telemetry
  readonly machine: Pick<Machine, 'probe'>
}

const registryInfo = z.looseObject({
  containerImage: z.string('names no image').min(1).max(500),
  /** What its tag stood for when the component was published. */
  containerImageDigest: ociDigest.optional(),
  network: z.union([z.boolean(), z.string().transform(text => text !== 'none')]).default(false),
  /** `frames`: made on our base image. `http`: AIOS's HTTP of an instance, on `port`. */
  protocol: z.enum(['frames', 'http']).default('frames'),
  port: z.int().min(1).max(65_535).default(18_001),
})

/** Instances that are containers: the author's image, run by podman or docker where one works, and as the operator allows. */
export function containerRuntime(options: ContainerOptions): OtherRuntime {
  let known: Engine | undefined
  void options.engine.then(found => { if (found.ok) known = found.value })
  return {
    name: 'container',
    available: () => known !== undefined,
    async start(request, signal) {
      const found = await options.engine
      if (!found.ok) throw new MeshError('RUNTIME_UNAVAILABLE', found.because)
      return start(options, found.value, request, signal)
    },
  }
}

async function start(options: ContainerOptions, engine: Engine, request: InstanceStart, signal: AbortSignal): Promise<RunningInstance> {
  const { clock, telemetry, label } = options
  const { block, instance, manifest } = request
  const info = registryInfo.safeParse(manifest.containerRegistryInfo)
  if (!info.success) throw new MeshError('SPEC_INVALID', `containerRegistryInfo: ${refusalOf(info.error, manifest.containerRegistryInfo)}`)
  const { containerImage, containerImageDigest: digest, network, protocol, port } = info.data
  if ((network || protocol === 'http') && !options.network) throw new MeshError('RUNTIME_UNAVAILABLE', `${manifest.componentURI} asks for a network, which this host gives to no container: its operator may allow it with --containers mesh,network`)
  const image = await bringImage(engine, digest === undefined ? containerImage : `${readImage(containerImage).repository}@${digest}`, options.sources, options.images, signal)
  const name = `aios-${instance}-${randomBytes(4).toString('hex')}`
  const kill = (): void => void engine.run(['rm', '--force', name]).catch(() => undefined)
  const args = containerCommand({
    engine: engine.name, name, image, needs: block.needs, gpus: request.gpus, network: network || protocol === 'http' ? { port } : 'none', labels: [label, `ai.aios.block=${block.blockId}`, `ai.aios.instance=${instance}`],
    env: {
      BLOCK_ID: block.blockId, INSTANCE_ID: instance, NVIDIA_VISIBLE_DEVICES: request.gpus.join(','), CUDA_VISIBLE_DEVICES: request.gpus.join(','),
      ...(protocol === 'frames' ? { AIOS_FRAMES: 'stdio' } : { CUSTOM_INIT_DATA: JSON.stringify({ init_data: block.initData, init_settings: block.initSettings, parameters: block.parameters }) }),
    },
  })
  const launch = { command: engine.name, args, env: clientEnvironment(), cwd: '/' }
  if (protocol === 'http') return HttpContainer.start({ ...launch, kill, address: async () => (await engine.run(['port', name, `${port}/tcp`])).trim().split('\n')[0] ?? '' }, clock, signal)
  const running = new SupervisedInstance({ ...launch, container: { kill, pid: () => pidOf(engine, name) } }, clock, hooksFor(options, request))
  void running.exited.then(({ because, crashed }) => telemetry.event(crashed ? 'warn' : 'info', 'instance_exited', { instance, block: block.blockId, because, crashed }))
  try {
    await running.loaded(await configOf(request, '/block', undefined, options.machine), signal)
    return running
  } catch (error) {
    await running[Symbol.asyncDispose]()
    throw error
  }
}

/** The engine's client finds its configuration, and nothing of ours. */
function clientEnvironment(): Readonly<Record<string, string>> {
  const names = ['PATH', 'HOME', 'USER', 'XDG_RUNTIME_DIR', 'XDG_CONFIG_HOME', 'XDG_DATA_HOME', 'CONTAINERS_CONF', 'CONTAINERS_STORAGE_CONF', 'CONTAINER_HOST', 'DOCKER_HOST', 'DOCKER_CONFIG', 'DBUS_SESSION_BUS_ADDRESS']
  return Object.fromEntries(names.flatMap(name => {
    const value = process.env[name]
    return value === undefined ? [] : [[name, value]]
  }))
}

async function pidOf(engine: Engine, name: string): Promise<number | undefined> {
  const pid = Number(await engine.run(['inspect', '--format', '{{.State.Pid}}', name]).catch(() => ''))
  return Number.isInteger(pid) && pid > 0 ? pid : undefined
}
