import type { Json } from '../../protocols/ids.ts'
import type { JsonObject } from '../lib/json.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { FILED, FiledShelf } from './filed-shelf.ts'
import type { Shelf } from './shelf.ts'

/** AIOS's lists of asset stores and of container registries. Every live peer is one of each; others are filed by whoever knows of them. */
export function storeShelves(ports: Pick<Ports, 'random' | 'registries'>, view: Pick<MeshView, 'ads'>): { readonly assetStores: Shelf; readonly containerStores: Shelf } {
  return {
    assetStores: withPeers(new FiledShelf(ports, FILED.assetStores), 'asset_registry_id', () => view.ads().map(({ peer, http, labels }) => ({
      asset_registry_id: peer, asset_registry_name: 'a peer of the mesh', asset_registry_metadata: { ...labels }, asset_registry_tags: ['peer'], asset_registry_public_url: http ?? '',
    }))),
    containerStores: withPeers(new FiledShelf(ports, FILED.containerStores), 'container_registry_id', () => view.ads().map(({ peer, labels, free, total }) => ({
      container_registry_id: peer, container_registry_name: 'a peer of the mesh', container_registry_metadata: { ...labels }, container_registry_tags: ['peer'], container_registry_public_url: '',
      container_registry_image_prefix: '', container_registry_config: { auth_required: false, mirror_enabled: true }, container_registry_storage_info: { storage_type: 'content store', storage_size: free.diskMb, memory_size: total.memoryMb, registry_type: 'aios' },
    }))),
  }
}

function withPeers(filed: FiledShelf, id: string, peers: () => readonly JsonObject[]): Shelf {
  return {
    documents: async () => [...peers(), ...await filed.documents()],
    get: async key => peers().find(peer => peer[id] === key) ?? filed.get(key),
    create: (document: Json) => filed.create(document),
    update: (key, change) => filed.update(key, change),
    remove: key => filed.remove(key),
  }
}
