import { generationStream, type FollowFrame } from '../../protocols/generation-log.ts'
import type { Ports, RunningInstance, StageRunner, StageStep, Stream } from '../../src/ports.ts'
import { replacing } from './planted.ts'

/** Mistakes made behind a port of every host that the checkers of generations must find. */
export const PLANTED_IN_STAGES = {
  'gives-its-standby-other-rows': ports => withStages(ports, stage => replacing(stage, { readKv: async (session: string, position: number, count: number) => (await stage.readKv(session, position, count)).fill(0, 0, 4) })),
  'keeps-rows-it-should-overwrite': ports => withStages(ports, keepOld),
  'computes-otherwise-now-and-then': ports => withStages(ports, miscompute(ports)),
  'never-closes-a-session': ports => withStages(ports, stage => replacing(stage, { close: () => undefined })),
  'swallows-an-event': swallow,
} as const satisfies Record<string, (ports: Ports) => Ports>

export type PlantedInStages = keyof typeof PLANTED_IN_STAGES

export function plantedInStages(name: string | undefined): PlantedInStages | undefined {
  return Object.keys(PLANTED_IN_STAGES).find((known): known is PlantedInStages => known === name)
}

/** Changes every stage of a host. */
export function withStages(ports: Ports, change: (stage: StageRunner) => StageRunner): Ports {
  const { backend } = ports
  const changed = (instance: RunningInstance): RunningInstance => (instance.stage === undefined ? instance : replacing(instance, { stage: change(instance.stage) }))
  return { ...ports, backend: { ...backend, start: async (request, signal) => changed(await backend.start(request, signal)) } }
}

/** Says that it holds rows which it was given, and has written none of them. */
function keepOld(stage: StageRunner): StageRunner {
  return replacing(stage, { writeKv: async (session: string, position: number, count: number, rows: Uint8Array) => stage.writeKv(session, position, count, new Uint8Array(rows.byteLength)) })
}

/** One step in two hundred comes out wrong. */
function miscompute(ports: Ports): (stage: StageRunner) => StageRunner {
  const chance = ports.random.fork('miscompute')
  return stage => replacing(stage, {
    step: async (step: StageStep, signal: AbortSignal) => {
      const out = await stage.step(step, signal)
      if (out.hidden !== undefined && chance.float() < 0.005) out.hidden.fill(1, 0, 1)
      return out
    },
  })
}

/** Leaves out the first event of every answer that is read over the network. */
function swallow(ports: Ports): Ports {
  const { network } = ports
  const served = (stream: Stream<FollowFrame>): Stream<FollowFrame> => {
    let first = true
    return replacing(stream, {
      send: async (frame: FollowFrame) => {
        if (frame.kind !== 'events' || !first) return stream.send(frame)
        first = false
      },
      [Symbol.asyncIterator]: () => stream[Symbol.asyncIterator](),
    })
  }
  return {
    ...ports,
    network: replacing(network, {
      accept: (...[protocol, serve]: Parameters<typeof network.accept<FollowFrame>>) => network.accept(protocol, protocol.id === generationStream.id ? (stream, from) => serve(served(stream), from) : serve),
    }),
  }
}
