import type { PeerId } from '../../../protocols/ids.ts'
import type { Clock, Identity, Network, Random, RegistryStore, Telemetry } from '../../../src/ports.ts'
import type { MayWrite } from '../../../src/registries/record.ts'
import { RegistryReplica, type ReplicaStatus } from '../../../src/registries/replica.ts'
import { Registries } from '../../../src/registries/store.ts'
import type { LogDoor } from './log-segment.ts'
import { RegistryLogs, type LogStatus } from './logs.ts'
import { openView } from './sqlite-view.ts'

export type RegistryStoreOptions = {
  /** Folder of this peer's registries: the view and, below it, what OrbitDB keeps. */
  readonly dir: string
  readonly networkId: string
  /** With `guardTopic` and `guardProtocol` where it lets only known topics pass. */
  readonly network: Network & Partial<LogDoor>
  readonly identity: Identity
  readonly clock: Clock
  readonly random: Random
  readonly telemetry: Telemetry
  /** May `writer` write this key at all? Its refusal is final unless `retryable`. */
  readonly mayWrite: MayWrite
  /** May `writer` change a key that another peer claimed? Absent: only owners change their keys. */
  readonly mayOperate?: MayWrite
  /** The started Helia whose libp2p has gossipsub as `pubsub`. Absent: no OrbitDB logs, only news, pages and digests. */
  readonly helia?: object
  readonly maxBytes?: number
  /** Entries of one OrbitDB log before the next is begun. */
  readonly segmentEntries?: number
}

export type RegistryStatus = ReplicaStatus & { readonly logs: LogStatus | undefined; readonly writers: readonly PeerId[]; /** Records read from others' logs since the start. */ readonly logRecords: number }

export type RegistryHandle = {
  /** Reads and writes work from the moment this exists; before `start` nothing is exchanged with others. */
  readonly store: RegistryStore
  start(): Promise<void>
  stop(): Promise<void>
  status(): RegistryStatus
}

/** Opens this peer's registries. Throws STORAGE_FULL or STORAGE_FAILED. */
export function createRegistryStore(options: RegistryStoreOptions): RegistryHandle {
  const { dir, networkId, network, identity, clock, telemetry, mayWrite, mayOperate, helia } = options
  const random = options.random.fork('registry')
  const view = openView(dir, { outbox: helia !== undefined, ...(options.maxBytes === undefined ? {} : { maxBytes: options.maxBytes }) })
  const rules = { identity, mayWrite, networkId, ...(mayOperate === undefined ? {} : { mayOperate }) }
  const store = new Registries(view, rules, { clock, telemetry })
  const replica = new RegistryReplica(store, { clock, random, network, telemetry })
  const logs = helia === undefined ? undefined : new RegistryLogs({ dir, networkId, helia, view, store, replica, segmentEntries: options.segmentEntries }, { network, identity, clock, random, telemetry })
  return {
    store,
    async start() {
      replica.start()
      await logs?.start()
    },
    async stop() {
      replica.stop()
      await logs?.stop()
      view[Symbol.dispose]()
    },
    status: () => ({ ...replica.status(), logs: logs?.status(), writers: logs?.writers() ?? [], logRecords: logs?.recordsRead ?? 0 }),
  }
}
