import type { Scenario, ScenarioOptions } from './scenario.ts'
import { drawMarket } from './scenarios/market.ts'
import type { SimPeer } from './world.ts'

/** What `run.ts --scenario` can live, by name. */
export const SCENARIOS = {
  market: drawMarket,
} as const satisfies Record<string, (options: ScenarioOptions) => Scenario<SimPeer>>

export type ScenarioName = keyof typeof SCENARIOS

export function drawScenario(name: ScenarioName, options: ScenarioOptions): Scenario<SimPeer> {
  return SCENARIOS[name](options)
}
