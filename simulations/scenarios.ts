import type { Scenario, ScenarioOptions } from './scenario.ts'
import type { SimPeer } from './world.ts'

type Draw = (options: ScenarioOptions) => Scenario<SimPeer>

/** What `run.ts --scenario` can live, by name; loaded when asked for. */
export const SCENARIOS = {
  /** The peer itself, as the daemon composes it. */
  mesh: async (): Promise<Draw> => (await import('./scenarios/mesh.ts')).drawMesh,
  /** The same, serving a language model that is split over its hosts. */
  llm: async (): Promise<Draw> => (await import('./scenarios/llm.ts')).drawLlm,
  /** One death in each generation, and how long its client waits for the next token. */
  'llm-kill': async (): Promise<Draw> => (await import('./scenarios/llm-kill.ts')).drawLlmKill,
  /** A toy peer over the same ports: what the machinery itself costs, and planted mistakes to be found. */
  market: async (): Promise<Draw> => (await import('./scenarios/market.ts')).drawMarket,
} as const

export type ScenarioName = keyof typeof SCENARIOS

export async function drawScenario(name: ScenarioName, options: ScenarioOptions): Promise<Scenario<SimPeer>> {
  return (await SCENARIOS[name]())(options)
}
