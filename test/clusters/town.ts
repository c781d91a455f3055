import { MeshError, refused } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { componentManifest, type PolicyRef } from '../../protocols/specs.ts'
import { NOTHING_TO_SEE } from '../../simulations/checkers.ts'
import { keepConnected } from '../../simulations/overlay.ts'
import { SeededRandom } from '../../simulations/random.ts'
import { foundMesh } from '../../simulations/scenarios/mesh.ts'
import { World, type SimPeer } from '../../simulations/world.ts'
import { createPeer, type Peer } from '../../src/peer.ts'
import type { Membership } from '../../src/trust/invitation.ts'

type Citizen = SimPeer & { readonly peer: Peer }

/** A simulated network of whole peers, composed as the daemon does it, and what tests do in it. The first founded it. */
export class Town {
  readonly world: World<Citizen>

  constructor(peers: number, labels: (at: number) => Readonly<Record<string, string>> = () => ({}), seed = 1) {
    let members: readonly Membership[] = []
    this.world = new World<Citizen>({
      seed, peers, weather: { delayMs: [1, 5], loss: 0, duplicate: 0 },
      factory: async (ports, host) => {
        const membership = members[host.index]
        if (membership === undefined) throw new Error(`host ${host.index} is no member`)
        host.rights = { mayWrite: () => refused('the peer is still starting', true) }
        const peer = createPeer(ports, { membership, bearerKey: undefined, onGranted: async () => {}, clusterId: ports.identity.peer, labels: labels(host.index) })
        host.rights = { mayWrite: (...asked) => peer.mayWrite(...asked), mayOperate: (...asked) => peer.mayOperate(...asked) }
        await peer.admission.start()
        keepConnected({ clock: ports.clock, network: ports.network, random: ports.random.fork('overlay') }, { addresses: this.world.hosts.map(({ address }) => address), degree: 4, everyMs: 500 })
        await peer.start()
        return { peer, inspect: () => NOTHING_TO_SEE, stop: () => peer.stop(100) }
      },
    })
    members = foundMesh(this.world.hosts, new SeededRandom('town'), this.world.kernel.clock().unix())
  }

  static async started(peers: number, labels?: (at: number) => Readonly<Record<string, string>>): Promise<Town> {
    const town = new Town(peers, labels)
    await town.world.startAll()
    await town.pass(3_000)
    return town
  }

  peer(at: number): Peer {
    const found = this.world.peers.get(this.id(at))
    if (found === undefined) throw new Error(`host ${at} does not run`)
    return found.peer
  }

  id(at: number): string {
    const host = this.world.hosts[at]
    if (host === undefined) throw new Error(`there is no host ${at}`)
    return host.peer
  }

  pass(ms: number): Promise<void> {
    return this.world.run(this.world.now + ms)
  }

  do<T>(work: Promise<T>, limit = 60_000): Promise<T> {
    return this.world.drive(work, limit)
  }

  async until(what: string, holds: () => boolean, limit = 30_000): Promise<void> {
    const end = this.world.now + limit
    while (!holds()) {
      if (this.world.now > end) throw new Error(`after ${limit} ms of the town's time not yet: ${what}`)
      await this.pass(100)
    }
  }

  /** Publishes a rule, and lets everybody hear of it. */
  async rule(name: string, source: string, parameters: PolicyRef['parameters'] = {}, over: { readonly tags?: string[]; readonly settings?: PolicyRef['settings'] } = {}): Promise<{ readonly policyRuleURI: string; readonly parameters: PolicyRef['parameters'] }> {
    const { catalogue, ports } = this.peer(0)
    const policyRuleURI = `${name}:1-stable`
    await this.do(catalogue.publishPolicy({ policyRuleURI, name, version: '1', releaseTag: 'stable', description: '', tags: [], codeType: 'js_module_v1', settings: {}, ...over, parameters: {}, inputSchema: {}, outputSchema: {}, managementCommands: {}, author: ports.identity.peer }, source))
    await this.pass(1_000)
    return { policyRuleURI, parameters }
  }

  /** A component with nothing to bundle, and a block of it that runs. */
  async component(name = 'sample', over: Readonly<Record<string, Json>> = {}): Promise<string> {
    const { catalogue, ports } = this.peer(0)
    const manifest = componentManifest.parse({ ...over, componentURI: `node.${name}:1-stable`, componentId: { name, version: '1', releaseTag: 'stable' }, componentType: 'node', runtime: { name: 'node' }, files: [], needs: {}, author: ports.identity.peer })
    await this.do(catalogue.publishComponent(manifest))
    await this.pass(1_000)
    return manifest.componentURI
  }

  hostsOf(block: string): readonly string[] {
    return this.peer(0).view.instancesOf(block).filter(({ ad }) => ad.state === 'ready').map(({ host }) => host)
  }
}

/** The error an action ends in. */
export async function refusal(work: Promise<unknown>): Promise<{ readonly code: string; readonly message: string }> {
  try {
    const answer: unknown = await work
    throw new Error(`it was done: ${JSON.stringify(answer)}`)
  } catch (error) {
    if (error instanceof MeshError) return { code: error.code, message: error.message }
    throw error
  }
}

export function at(value: Json | undefined, ...path: readonly (string | number)[]): Json | undefined {
  let found: unknown = value
  for (const step of path) found = found === null || typeof found !== 'object' ? undefined : Reflect.get(found, step)
  return found as Json | undefined
}
