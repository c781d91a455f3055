import { randomBytes } from 'node:crypto'
import { rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import manifest from '../package.json' with { type: 'json' }
import { decode, encode } from '../protocols/codec.ts'
import { MeshError, asMeshError, refused } from '../protocols/errors.ts'
import { bytes, cid } from '../protocols/ids.ts'
import { capabilityChain } from '../protocols/membership.ts'
import { signed } from '../protocols/signed.ts'
import { createPeer, type Peer } from '../src/peer.ts'
import type { Identity, Network, Ports } from '../src/ports.ts'
import { proveChain } from '../src/trust/capability.ts'
import { foundNetwork, networkOf, readGenesis, readInvite, type Membership } from '../src/trust/invitation.ts'
import { createBackend } from './adapters/backend.ts'
import { createContentStore } from './adapters/content-store.ts'
import { FolderLock } from './adapters/folder-lock.ts'
import { openIdentity } from './adapters/identity.ts'
import { openJournal } from './adapters/journal.ts'
import { createLibp2pNetwork } from './adapters/libp2p.ts'
import { createMachine } from './adapters/machine.ts'
import { otlpOptions } from './adapters/otlp.ts'
import { createOutside } from './adapters/side-car-url.ts'
import { QuickjsSandbox } from './adapters/quickjs.ts'
import { createRegistryStore } from './adapters/registry/store.ts'
import { sweepDeadScratch } from './adapters/scratch.ts'
import { SystemClock, SystemRandom } from './adapters/system.ts'
import { createTelemetry } from './adapters/telemetry.ts'
import { createAuthoring } from './authoring/authoring.ts'
import { readDaemonFile, type DaemonFile } from './cli/daemon-client.ts'
import { compiledFolder } from './compiled.ts'
import { openGrpcDoor } from './gateway/grpc-door.ts'
import { openGateway } from './gateway/server.ts'
import { openOciDoor } from './oci/door.ts'
import { openOtherRuntimes, readContainers, readExternal } from './other-runtimes.ts'

const JOIN_MS = 20_000
const DRAIN_MS = 3_000

export type UpOptions = {
  readonly dataDir: string
  readonly listen: readonly string[]
  readonly http: string
  /** HOST:PORT for AIOS's gRPC services. */
  readonly grpc: string
  /** HOST:PORT for container tools. */
  readonly oci: string
  readonly join: string | undefined
  readonly labels: Readonly<Record<string, string>>
  readonly networkName: string
  readonly mdns: boolean
  readonly upnp: boolean
  /** Carry connections of members that nobody can dial. */
  readonly relay: boolean
  readonly isolation: 'L0' | 'L1'
  /** What containers may have here, as `--containers` says it. */
  readonly containers: string
  /** Servers that blocks may have this host call. */
  readonly external: readonly string[]
  readonly json: boolean
  /** Base address of an OpenTelemetry collector, for traces; the standard variables of the environment otherwise. */
  readonly otlp?: string | undefined
}

export type Daemon = {
  readonly peer: string
  readonly network: string
  readonly networkName: string
  readonly http: string
  readonly grpc: string
  readonly oci: string
  readonly addresses: readonly string[]
  readonly joined: boolean
  readonly readyMs: number
  /** Resolves when the daemon has stopped because `signal` asked it to. */
  until(signal: AbortSignal): Promise<void>
}

/** What the registries hear while the peer is still being put together. */
const STARTING = refused('the peer is still starting', true)

const savedMembership = z.object({ network: cid, genesis: signed, secret: bytes, chain: capabilityChain })

/** Starts this host's peer: adapters, the peer itself, its doors. Throws what keeps it from running, and leaves nothing open. `far` stands between the peer and its network, to pretend distances. */
export async function up(options: UpOptions, far: (network: Network) => Network = network => network): Promise<Daemon> {
  const startedAt = Date.now()
  const closers = new Closers()
  closers.add('folder', await hold(options.dataDir))
  try {
    return await assemble(options, startedAt, closers, far)
  } catch (error) {
    await closers.close()
    throw error
  }
}

async function assemble(options: UpOptions, startedAt: number, closers: Closers, far: (network: Network) => Network): Promise<Daemon> {
  const { dataDir } = options
  const identity = openIdentity(join(dataDir, 'peer.key'))
  const otlp = otlpOptions(options.otlp, process.env)
  const telemetry = createTelemetry({ level: process.env['AIOS_LOG'] ?? 'info', destination: join(dataDir, 'daemon.log'), otlp: otlp === undefined ? undefined : { ...otlp, resource: { ...otlp.resource, 'service.instance.id': identity.peer, 'service.version': manifest.version } } })
  closers.add('traces', () => telemetry.stop())
  const clock = new SystemClock()
  const random = new SystemRandom()
  const journal = openJournal(dataDir)
  closers.add('journal', () => journal[Symbol.asyncDispose]())

  const saved = await journal.get('membership')
  const known = saved === undefined ? undefined : decode(savedMembership, saved, 1_048_576, 'membership')
  if (known !== undefined) mustBeOurs(known, identity, clock.unix(), dataDir)
  const invitation = options.join === undefined ? undefined : readInvite(options.join)
  if (known !== undefined && invitation !== undefined && networkOf(invitation.genesis) !== known.network) {
    throw new MeshError('BAD_INPUT', `this folder belongs to another network: use a fresh --data DIR to join this one`)
  }
  const joining = known === undefined && invitation !== undefined
  const membership: Membership = known ?? (invitation === undefined ? foundNetwork(identity, random, options.networkName, clock.unix()) : { network: networkOf(invitation.genesis), genesis: invitation.genesis, secret: invitation.secret, chain: invitation.chain })
  const remember = (granted: Membership): Promise<void> => journal.set('membership', encode(granted))
  if (known === undefined && !joining) await remember(membership)
  const networkName = readGenesis(identity, membership.genesis).name

  const machine = createMachine({ dir: dataDir })
  const sink = telemetry.telemetry
  const mesh = await createLibp2pNetwork({ dir: dataDir, identity, secret: membership.secret, listen: options.listen, mdns: options.mdns, upnp: options.upnp, relay: options.relay, clock, random, telemetry: sink, bootstrap: joining ? invitation.addresses : [] })
  closers.add('network', () => mesh.stop())
  const seen: { peer?: Peer; door?: string } = {}
  const store = createContentStore({ dir: dataDir, network: mesh, clock, telemetry: sink, findHolders: async cid => seen.peer?.view.ads().filter(({ holds }) => holds.includes(cid)).map(({ peer }) => peer) ?? [] })
  const registries = createRegistryStore({
    dir: dataDir, networkId: membership.network, network: mesh.network, identity, clock, random, telemetry: sink, helia: store.helia,
    mayWrite: (writer, registry, key) => seen.peer?.mayWrite(writer, registry, key) ?? STARTING,
    mayOperate: (writer, registry, key) => seen.peer?.mayOperate(writer, registry, key) ?? STARTING,
  })
  const sandbox = new QuickjsSandbox({}, sink)
  closers.add('sandbox', () => sandbox[Symbol.asyncDispose]())
  const token = randomBytes(24).toString('base64url')
  const others = openOtherRuntimes({ dir: dataDir, containers: readContainers(options.containers), external: readExternal(options.external), token, machine, clock, telemetry: sink, ports: { content: store.content, journal, registries: registries.store } })
  const backend = createBackend({ dir: join(dataDir, 'instances'), content: store.content, clock, telemetry: sink, machine, isolation: options.isolation, compileCache: compiledFolder(), others: others.runtimes })
  const ports: Ports = { clock, random, identity, network: far(mesh.network), content: store.content, registries: registries.store, journal, backend, sandbox, machine, telemetry: sink }

  const peer = createPeer(ports, { membership, bearerKey: joining ? invitation.bearerKey : undefined, onGranted: remember, clusterId: identity.peer, labels: options.labels, outside: createOutside(readExternal(options.external)), door: () => seen.door })
  seen.peer = peer
  // Every door is open before anybody can knock.
  await peer.admission.start()
  await mesh.start()
  await store.start()
  closers.add('content', () => store.stop())
  await registries.start()
  closers.add('registries', () => registries.stop())
  if (joining) await enter(peer, invitation.addresses)
  closers.add('peer', () => peer.stop(DRAIN_MS))
  await peer.start()

  const authoring = createAuthoring({ content: store.content, catalogue: peer.catalogue, identity, sandbox, journal })
  const gateway = await openGateway({ peer, authoring, telemetry, token, startedAt }, options.http)
  seen.door = gateway.url
  closers.add('gateway', () => gateway.close())
  const grpc = await openGrpcDoor({ peer, token }, options.grpc)
  closers.add('grpc', () => grpc.close())
  const oci = await openOciDoor({ ports, dir: dataDir, token }, options.oci)
  closers.add('oci', () => oci.close())
  others.doorAt(oci.address)
  await announce(dataDir, { http: gateway.url, grpc: grpc.address, oci: oci.address, token, pid: process.pid, peer: identity.peer })
  closers.add('daemon.json', () => rm(join(dataDir, 'daemon.json'), { force: true }))
  // Measuring takes seconds of every core: after the doors are open, and only when this hardware was not measured before.
  void others.found.then(() => peer.view.measured()).catch(error => sink.event('warn', 'containers.not-offered', { because: asMeshError(error).message }))
  void machine.refine().then(() => peer.view.measured()).catch(error => sink.event('warn', 'machine.not-measured', { because: asMeshError(error).message }))
  // Housekeeping: what it cannot take away stays.
  setImmediate(() => void sweepDeadScratch(clock.unix()).catch(() => undefined))
  process.on('unhandledRejection', error => sink.event('error', 'unhandled', { because: asMeshError(error).message, stack: error instanceof Error ? error.stack : undefined }))

  return {
    peer: identity.peer, network: membership.network, networkName, http: gateway.url, grpc: grpc.address, oci: oci.address, addresses: mesh.network.addresses(), joined: joining, readyMs: Date.now() - startedAt,
    async until(signal) {
      if (!signal.aborted) await new Promise(resolve => signal.addEventListener('abort', resolve, { once: true }))
      await closers.close()
    },
  }
}

async function enter(peer: Peer, addresses: readonly string[]): Promise<void> {
  try {
    await peer.admission.join(addresses, AbortSignal.timeout(JOIN_MS))
  } catch (cause) {
    const error = asMeshError(cause)
    throw new MeshError(error.code === 'INTERNAL' ? 'PEER_UNREACHABLE' : error.code, `could not enter the network: ${error.message}`, { cause })
  }
}

/** A key made anew, where the old one was lost, is no member: nobody would let it in, and nothing here would say so. */
function mustBeOurs({ network, genesis, chain }: Membership, identity: Identity, now: number, dataDir: string): void {
  const proof = proveChain(identity, network, readGenesis(identity, genesis).owner, chain, now)
  if (!proof.ok || proof.value.subject === undefined || proof.value.subject === identity.peer) return
  throw new MeshError('BAD_INPUT', `${dataDir} belongs to ${proof.value.subject}, whose key is no longer there: restore peer.key, or use a fresh --data DIR and an invite`)
}

/** Written whole and renamed: whoever reads it sees a daemon that is ready. */
async function announce(dataDir: string, content: DaemonFile): Promise<void> {
  const path = join(dataDir, 'daemon.json')
  await writeFile(`${path}.part`, `${JSON.stringify(content)}\n`, { mode: 0o600 })
  await rename(`${path}.part`, path)
}

/** Takes the folder for this process; what it gives lets go. Throws ALREADY_EXISTS, BAD_INPUT, STORAGE_FAILED, STORAGE_FULL. */
async function hold(dataDir: string): Promise<() => Promise<void>> {
  const lock = FolderLock.take(dataDir)
  if (lock !== undefined) return async () => lock[Symbol.dispose]()
  const other = await readDaemonFile(dataDir).catch(() => undefined)
  throw new MeshError('ALREADY_EXISTS', `a peer already runs on ${dataDir}${other === undefined ? '' : ` (process ${other.pid})`}: use it, or another --data DIR`)
}

/** Closes what was opened, last first, each within a bound, whatever the others do. */
class Closers {
  readonly #steps: { readonly name: string; readonly close: () => Promise<void> }[] = []
  #closing: Promise<void> | undefined

  add(name: string, close: () => Promise<void>): void {
    this.#steps.push({ name, close })
  }

  close(): Promise<void> {
    this.#closing ??= this.#closeAll()
    return this.#closing
  }

  async #closeAll(): Promise<void> {
    for (const { name, close } of this.#steps.splice(0).reverse()) {
      const slow = new Promise<string>(resolve => setTimeout(() => resolve(`${name} did not stop in time`), 8_000).unref())
      const said = await Promise.race([close().then(() => undefined, (error: unknown) => `${name}: ${asMeshError(error).message}`), slow])
      if (said !== undefined) process.stderr.write(`while stopping: ${said}\n`)
    }
  }
}
