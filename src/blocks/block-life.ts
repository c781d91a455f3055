import type { Verdict } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import type { BlockGovernance } from '../clusters/block-governance.ts'
import type { ClusterBook } from '../clusters/cluster-book.ts'
import type { NetworkBook } from '../clusters/network-book.ts'
import type { Reviews } from '../controllers/reviews.ts'
import type { Placement } from '../placement/placement.ts'
import type { Policies } from '../policies/calls.ts'
import { FailureExecutor } from '../policies/failures.ts'
import type { Ports } from '../ports.ts'
import type { ArtefactCatalogue } from '../registries/catalogue.ts'
import type { MeshView, MetricsSource } from '../roles.ts'
import type { RunEngine } from '../vdag/engine.ts'
import { BlockActions } from './block-actions.ts'
import { BlockControl } from './control.ts'
import { ExecutorCommands } from './executor-commands.ts'
import { FailureWatch } from './failure-watch.ts'
import type { Instances } from './instances.ts'
import type { BlockInvoker } from './invoker.ts'
import { Sayings, type Outside } from './sayings.ts'
import { Upkeep } from './upkeep.ts'

export type BlockLifeParts = {
  readonly view: MeshView
  readonly catalogue: ArtefactCatalogue
  readonly policies: Policies
  readonly instances: Instances
  readonly invoker: BlockInvoker
  readonly placement: Placement
  readonly metrics: MetricsSource
  readonly governed: BlockGovernance
  readonly clusters: ClusterBook
  readonly network: NetworkBook
  readonly runs: RunEngine
  readonly reviews: Pick<Reviews, 'escalate'>
  readonly may: (peer: PeerId, right: Right) => Verdict<true>
  readonly outside: Outside | undefined
  readonly door: () => string | undefined
}

/** What goes on around the blocks of the mesh, once they are placed. */
export type BlockLife = {
  readonly actions: BlockActions
  readonly control: BlockControl
  readonly failures: FailureExecutor
  start(): void
  stop(): void
}

/** Puts together what goes on around blocks: upkeep by their steward, orders to it, what instances say, and what is done when something fails. */
export function composeBlockLife(ports: Ports, parts: BlockLifeParts): BlockLife {
  const { view, catalogue, policies, instances, invoker, placement, metrics, runs, reviews, may } = parts
  const failures = new FailureExecutor(ports, policies, escalation => reviews.escalate(escalation))
  const watch = new FailureWatch(ports, {
    view, desk: placement, stewarded: () => placement.stewarded(), catalogue, executor: failures,
    clusterConfig: cluster => parts.clusters.get(cluster)?.record.config,
    networkConfig: () => ({ ...parts.network.document().metadata, ...parts.network.document().policies }),
  })
  const upkeep = new Upkeep(ports, { desk: placement, view, invoker, policies, metrics, clusters: parts.clusters, onUnhealthy: (...failed) => watch.unhealthy(...failed), onFailing: (...failed) => watch.failing(...failed) })
  const control = new BlockControl(ports, { upkeep, view, stewardOf: block => placement.stewardOf(block), may })
  const sayings = new Sayings(ports, { policies, invoker, outside: parts.outside })
  const executor = new ExecutorCommands({ view, invoker, policies, door: parts.door, setStreaming: (block, streaming) => catalogue.putBlock({ ...block, streaming, revision: block.revision + 1 }) })
  const actions = new BlockActions(ports, { may: right => may(ports.identity.peer, right), view, catalogue, control, invoker, executor, governed: parts.governed })
  invoker.wakeBy(block => control.wake(block))
  instances.carryBy(said => sayings.take(said))
  policies.reportTo((...failed) => watch.policy(...failed))
  runs.reportTo((...failed) => watch.run(...failed))
  return {
    actions, control, failures,
    start() {
      control.start()
      watch.start()
    },
    stop() {
      watch.stop()
      upkeep.stop()
      sayings.stop()
    },
  }
}
