import { capacityPull, capacityTopic, livenessTopic } from '../../protocols/capacity.ts'
import { decode } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import { runMirror, runMirrorBody, type RunEvent } from '../../protocols/runs.ts'
import type { Ports, RunningInstance } from '../../src/ports.ts'
import { seal } from '../../src/trust/seal.ts'

/** Mistakes, each made behind one port of one host or all, that the checkers of the mesh must find. */
export const PLANTED = {
  'believes-in-more-hardware': believeInMore,
  'forgets-whom-it-obeys': forgetFences,
  'forgets-ended-runs': forgetEnds,
  'never-starts-an-instance': neverStart,
  'keeps-quiet': keepQuiet,
  'tells-another-result': tellAnotherResult,
  'runs-done-nodes-again': runAgain,
  'floods-its-disk': floodDisk,
} as const satisfies Record<string, (ports: Ports) => Ports>

export type Planted = keyof typeof PLANTED

export function plantedBug(name: string | undefined): Planted | undefined {
  return Object.keys(PLANTED).find((known): known is Planted => known === name)
}

function believeInMore(ports: Ports): Ports {
  const { machine } = ports
  return {
    ...ports,
    machine: {
      ...machine,
      probe: async () => {
        const report = await machine.probe()
        return { ...report, total: { ...report.total, cpuMilli: report.total.cpuMilli * 100, memoryMb: report.total.memoryMb * 100 } }
      },
    },
  }
}

function forgetFences(ports: Ports): Ports {
  return { ...ports, journal: { ...ports.journal, set: async (key, value) => (key.startsWith('placement/fence/') ? undefined : ports.journal.set(key, value)), keys: async prefix => (prefix.startsWith('placement/contract/') ? [] : ports.journal.keys(prefix)) } }
}

function forgetEnds(ports: Ports): Ports {
  return { ...ports, journal: { ...ports.journal, keys: async prefix => (prefix.startsWith('run-head/') ? [] : ports.journal.keys(prefix)) } }
}

function neverStart(ports: Ports): Ports {
  return { ...ports, backend: { ...ports.backend, start: async () => Promise.reject(new MeshError('INSTANCE_FAILED', 'this host starts nothing')) } }
}

/** Hears everybody and tells nobody: neither gossip, nor who it is when asked. */
function keepQuiet(ports: Ports): Ports {
  const { network } = ports
  const quiet = replacing(network, {
    publish: async (...[topic, message]: Parameters<typeof network.publish>) => (topic.id === capacityTopic.id || topic.id === livenessTopic.id ? undefined : network.publish(topic, message)),
    handle: (...[protocol, answer]: Parameters<typeof network.handle>) => network.handle(protocol, async (request, from, signal) => (protocol.id === capacityPull.id ? { ads: [] } : answer(request, from, signal))),
  })
  return { ...ports, network: quiet }
}

/** A coordinator that signs one result for itself and another for its mirrors. */
function tellAnotherResult(ports: Ports): Ports {
  const { network, identity } = ports
  const forged = (event: RunEvent): RunEvent => (event.type === 'completed' ? { ...event, outputs: Object.fromEntries(Object.entries(event.outputs).map(([label]) => [label, 'bafyreigdmqpykrgxyaxtlafqpqhzrb7qy2rh75nldvfd4ocn2vfohkiznm'])) } : event)
  const lying = replacing(network, {
    request: (...[to, protocol, request, signal]: Parameters<typeof network.request>) => {
      if (protocol.id !== runMirror.id) return network.request(to, protocol, request, signal)
      const body = decode(runMirrorBody, runMirror.request.parse(request).payload, 1_048_576, 'our own mirror')
      return network.request(to, runMirror, seal(identity, 'run-mirror', { ...body, events: body.events.map(forged) }), signal)
    },
  })
  return { ...ports, network: lying }
}

function runAgain(ports: Ports): Ports {
  const { backend, clock } = ports
  return { ...ports, backend: { ...backend, start: async (request, signal) => again(await backend.start(request, signal), clock) } }
}

function again(instance: RunningInstance, clock: Ports['clock']): RunningInstance {
  const infer = async function * (packet: Packet, signal: AbortSignal, vdag?: Json): AsyncIterable<Packet> {
    yield * instance.infer(packet, signal, vdag)
    clock.after(1_500, () => void drain(instance.infer(packet, clock.deadline(1_000), vdag)).catch(() => undefined))
  }
  return replacing(instance, { infer })
}

async function drain(packets: AsyncIterable<Packet>): Promise<void> {
  for await (const _ of packets);
}

function floodDisk(ports: Ports): Ports {
  const { journal } = ports
  return {
    ...ports,
    journal: {
      ...journal,
      set: async (key, value) => {
        for (let copies = 0; copies < 20_000; copies += 1) void journal.set(`junk/${copies % 8}`, Uint8Array.of(1))
        return journal.set(key, value)
      },
    },
  }
}

/** An object like `inner` but for some of its methods. Not by inheritance: private fields have one owner. */
export function replacing<T extends object>(inner: T, methods: Readonly<Record<string, unknown>>): T {
  return new Proxy(inner, {
    get: (target, key): unknown => {
      if (typeof key === 'string' && key in methods) return methods[key]
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}
