import { refused } from '../protocols/errors.ts'
import type { Millis, PeerId } from '../protocols/ids.ts'
import type { Resources } from '../protocols/resources.ts'
import type { Identity, Ports } from '../src/ports.ts'
import { Registries } from '../src/registries/store.ts'
import { RegistryReplica } from '../src/registries/replica.ts'
import type { RecordRules } from '../src/registries/record.ts'
import { MemoryView } from '../src/registries/view.ts'
import { type BackendWeather, type ExecutionLog, simulatedBackend } from './backend.ts'
import type { ContentWorld } from './content.ts'
import type { KeyRing } from './identity.ts'
import { SimulatedDisk } from './journal.ts'
import type { Kernel, Life } from './kernel.ts'
import { drawMachine, simulatedMachine } from './machine.ts'
import type { Host, SimulatedNetwork } from './network.ts'
import type { SeededRandom } from './random.ts'
import { trustingSandbox } from './sandbox.ts'
import type { TelemetryRecorder } from './telemetry.ts'

/** What all hosts of a world share. */
export type Surroundings = {
  readonly kernel: Kernel
  readonly network: SimulatedNetwork
  readonly content: ContentWorld
  readonly ring: KeyRing
  readonly telemetry: TelemetryRecorder
  readonly executions: ExecutionLog
  readonly backendWeather: () => BackendWeather
}

/** What the peer of a host says about who may write into the registries; it speaks up once it is composed. */
export type WritingRights = Pick<RecordRules, 'mayWrite' | 'mayOperate'>

/** Everybody may write everything: for peers without membership. */
const ANYBODY: WritingRights = { mayWrite: () => ({ ok: true, value: true }) }

/** One machine of the world: its key, disk, registry view and hardware outlive every life of the peer on it. */
export class SimulatedHost {
  readonly index: number
  readonly peer: PeerId
  readonly address: string
  /** The key of this host, for what is arranged before its peer lives. */
  readonly identity: Identity
  readonly disk: SimulatedDisk
  readonly view = new MemoryView()
  rights: WritingRights = ANYBODY
  readonly #around: Surroundings
  readonly #random: SeededRandom
  readonly #secret: Uint8Array
  readonly #host: Host
  readonly #machine: ReturnType<typeof drawMachine>
  readonly #skewMs: Millis
  #life: Life | undefined
  #lives = 0

  constructor(around: Surroundings, index: number, secret?: string) {
    this.#around = around
    this.#random = around.kernel.random.fork(`host ${index}`)
    const key = around.ring.create(this.#random.fork('key'))
    this.index = index
    this.peer = key.peer
    this.#secret = key.secret
    this.identity = around.ring.identity(key.peer, key.secret, this.#random.fork('mint'))
    this.#host = around.network.addHost(key.peer, secret)
    this.address = this.#host.address
    this.disk = new SimulatedDisk(around.kernel, this.#random.fork('disk'))
    this.#machine = drawMachine(this.#random.fork('machine'))
    // Wall clocks of real hosts disagree by some tens of milliseconds even with NTP.
    this.#skewMs = this.#random.fork('skew').below(101) - 50
  }

  /** What the hardware really has, whatever its peer believes. */
  get total(): Resources {
    return this.#machine.total
  }

  get running(): boolean {
    return this.#life !== undefined
  }

  get lives(): number {
    return this.#lives
  }

  /** The eleven ports of a new life. */
  boot(): Ports {
    if (this.#life !== undefined) throw new Error(`host ${this.index} is already running`)
    const life: Life = { alive: true }
    this.#life = life
    this.#lives += 1
    const { kernel, network, content, ring, telemetry, executions, backendWeather } = this.#around
    const random = this.#random.fork(`life ${this.#lives}`)
    const clock = kernel.clock(life, this.#skewMs)
    const identity = ring.identity(this.peer, this.#secret, random.fork('mint'))
    const port = network.connect(this.#host, life)
    const recorder = telemetry.port(this.peer)
    const rules: RecordRules = {
      identity,
      mayWrite: (...asked) => this.rights.mayWrite(...asked),
      mayOperate: (...asked) => this.rights.mayOperate?.(...asked) ?? refused('nobody may change the keys of others'),
    }
    const registries = new Registries(this.view, rules, { clock, telemetry: recorder })
    new RegistryReplica(registries, { clock, random: random.fork('replica'), network: port, telemetry: recorder }).start()
    return {
      clock,
      random: random.fork('peer'),
      identity,
      network: port,
      content: content.store(this.peer, life),
      registries,
      journal: this.disk.journal(life),
      backend: simulatedBackend(kernel, life, random.fork('backend'), executions, backendWeather),
      sandbox: trustingSandbox,
      machine: simulatedMachine(this.#machine),
      telemetry: recorder,
    }
  }

  /** kill -9, or a power cut when `silent`: memory is gone at once, the disk keeps what had reached it. */
  crash(silent = false): void {
    if (this.#life === undefined) return
    this.#life.alive = false
    this.#life = undefined
    this.disk.crash()
    this.#around.network.unplug(this.#host, silent)
  }
}
