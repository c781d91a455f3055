import type { Ports, RunningInstance, StageRunner } from '../../src/ports.ts'
import { replacing } from './planted.ts'

/** Mistakes made behind a port of every host that the checkers of generations must find. */
export const PLANTED_IN_STAGES = {
  'loses-rows-for-its-standby': ports => withStages(ports, stage => replacing(stage, { readKv: async (session: string, position: number, count: number) => (await stage.readKv(session, position, count)).fill(0, 0, 4) })),
} as const satisfies Record<string, (ports: Ports) => Ports>

export type PlantedInStages = keyof typeof PLANTED_IN_STAGES

export function plantedInStages(name: string | undefined): PlantedInStages | undefined {
  return Object.keys(PLANTED_IN_STAGES).find((known): known is PlantedInStages => known === name)
}

function withStages(ports: Ports, change: (stage: StageRunner) => StageRunner): Ports {
  const { backend } = ports
  const changed = (instance: RunningInstance): RunningInstance => (instance.stage === undefined ? instance : replacing(instance, { stage: change(instance.stage) }))
  return { ...ports, backend: { ...backend, start: async (request, signal) => changed(await backend.start(request, signal)) } }
}
