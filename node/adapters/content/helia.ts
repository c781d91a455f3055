import type { Router } from '@helia/interface'
import { withBitswap } from '@helia/bitswap'
import type { HeliaWithLibp2p } from '@helia/libp2p'
import * as dagCbor from '@ipld/dag-cbor'
import type { Libp2p } from '@libp2p/interface'
import type { LevelDatastore } from 'datastore-level'
import { createHeliaLight } from 'helia'
import type { Services } from '../network/options.ts'
import type { BlockFiles } from './block-files.ts'

const BITSWAP_ID = '/ipfs/bitswap/1.2.0'

/**
 * Helia on the libp2p node that already runs: the light variant, so no public bootstrap, gateways or delegated routers, and
 * bitswap for those who ask that way. Start it after the network, stop it before.
 */
export function createHelia(options: { readonly libp2p: Libp2p<Services>; readonly datastore: LevelDatastore; readonly files: BlockFiles; readonly guardProtocol: (protocol: string) => void }): HeliaWithLibp2p<Services> {
  const { libp2p, datastore, files } = options
  options.guardProtocol(BITSWAP_ID)
  const helia = createHeliaLight({ blockstore: files, datastore, codecs: [dagCbor], routers: [new OwnDht(libp2p)] })
  return withBitswap(Object.assign(helia, { libp2p }))
}

/** Provider records go into our own DHT and nowhere else. */
class OwnDht implements Router {
  readonly name = 'libp2p-router'
  readonly #libp2p: Libp2p<Services>

  constructor(libp2p: Libp2p<Services>) {
    this.#libp2p = libp2p
  }

  provide: NonNullable<Router['provide']> = (cid, options) => this.#libp2p.contentRouting.provide(cid, options)

  cancelReprovide: NonNullable<Router['cancelReprovide']> = (cid, options) => this.#libp2p.contentRouting.cancelReprovide(cid, options)

  findProviders: NonNullable<Router['findProviders']> = (cid, options) => this.#find(cid, options)

  async * #find(...[cid, options]: Parameters<NonNullable<Router['findProviders']>>): ReturnType<NonNullable<Router['findProviders']>> {
    for await (const found of this.#libp2p.contentRouting.findProviders(cid, options)) yield { ...found, id: found.id.toCID(), router: this.name, fallback: false }
  }
}
