import { MeshError, refused } from '../protocols/errors.ts'
import type { Clock, ContentStore, Journal, RegistryStore, Telemetry } from '../src/ports.ts'
import type { OtherRuntime } from './adapters/backend.ts'
import { findEngine, hostLabel, sweep } from './adapters/containers/engine.ts'
import type { ImageSource } from './adapters/containers/image.ts'
import { containerRuntime } from './adapters/containers/runtime.ts'
import { externalRuntime } from './adapters/external/runtime.ts'
import type { MeasuredMachine } from './adapters/machine.ts'

const MOST_SERVERS = 15

/** What the operator lets containers have (`--containers`): sources of images, the engine's network, or nothing. */
export type ContainersAllowed = { readonly sources: ReadonlySet<ImageSource>; readonly network: boolean } | 'none'

/** Reads `--containers`. Throws BAD_INPUT. */
export function readContainers(text: string): ContainersAllowed {
  const words = text.split(',').map(word => word.trim()).filter(word => word !== '')
  if (words.length === 1 && words[0] === 'none') return 'none'
  const sources = new Set<ImageSource>()
  let network = false
  for (const word of words) {
    if (word === 'mesh' || word === 'local' || word === 'pull') sources.add(word)
    else if (word === 'network') network = true
    else throw new MeshError('BAD_INPUT', `--containers takes mesh, local, pull and network, by commas, or none; not ${word}`)
  }
  return { sources, network }
}

/** Reads `--external`: origins, or `*`. Throws BAD_INPUT. */
export function readExternal(texts: readonly string[]): readonly string[] {
  if (texts.length > MOST_SERVERS) throw new MeshError('BAD_INPUT', `--external may be given ${MOST_SERVERS} times`)
  return texts.map(text => {
    if (text === '*') return text
    if (!URL.canParse(text) || !/^(?:https?|redis):$/.test(new URL(text).protocol)) throw new MeshError('BAD_INPUT', `--external takes a server such as http://127.0.0.1:8000, or *; not ${text}`)
    const { protocol, host } = new URL(text)
    return `${protocol}//${host}`
  })
}

export type OtherRuntimes = {
  readonly runtimes: readonly OtherRuntime[]
  /** Told once the door for container tools is open. */
  doorAt(address: string): void
  /** Resolves once it is known what runs here; `machine` says so. */
  readonly found: Promise<void>
}

/** Containers and external servers: what this host may run that is no process of ours. The engine is looked for in the background. */
export function openOtherRuntimes(parts: {
  readonly dir: string
  readonly containers: ContainersAllowed
  readonly external: readonly string[]
  readonly token: string
  readonly machine: MeasuredMachine
  readonly clock: Clock
  readonly telemetry: Telemetry
  readonly ports: { readonly content: ContentStore; readonly journal: Journal; readonly registries: RegistryStore }
}): OtherRuntimes {
  const { containers, external, machine, clock, telemetry, token } = parts
  const label = hostLabel(parts.dir)
  let door: { readonly address: string; readonly loopback: boolean; readonly token: string } | undefined
  const engine = containers === 'none' ? Promise.resolve(refused('the operator of this host runs no containers (--containers none)')) : findEngine().then(async found => {
    if (found.ok) await sweep(found.value, label).catch(() => 0)
    return found
  })
  const found = engine.then(result => {
    if (!result.ok) return machine.note(`containers: ${result.because}`)
    const { sources, network } = containers === 'none' ? { sources: new Set<ImageSource>(), network: false } : containers
    machine.offer({ name: 'container', version: `${result.value.name} ${result.value.version}`.slice(0, 40), providers: [result.value.name, ...sources, ...(network ? ['network'] : [])], gflops: 0 })
  })
  if (external.length > 0) machine.offer({ name: 'external', version: '1', providers: [...external], gflops: 0 })
  const images = async () => new (await import('./oci/images.ts')).Images(parts.ports)
  let opened: ReturnType<typeof images> | undefined
  return {
    found,
    doorAt: address => { door = { address, loopback: /^(?:127\.|localhost|\[::1\])/.test(address), token } },
    runtimes: [
      containerRuntime({
        engine, label, clock, telemetry, machine,
        sources: containers === 'none' ? new Set() : containers.sources, network: containers !== 'none' && containers.network,
        images: { door: () => door, digest: async (repository, reference) => (await (await (opened ??= images())).manifest(repository, reference))?.digest },
      }),
      externalRuntime({ clock, allowed: external, key: process.env['AIOS_EXTERNAL_KEY'] }),
    ],
  }
}
