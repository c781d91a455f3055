import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyGraph } from '../../protocols/policy.ts'
import type { ComponentManifest, PolicyRule, VdagSpec } from '../../protocols/specs.ts'
import type { StoredSpec, StoredTemplate } from '../../protocols/stores.ts'
import type { Actions } from '../actions.ts'
import type { Inventory } from '../inventory.ts'
import { toJson, isJsonObject, type JsonObject } from '../lib/json.ts'
import { layerObjects, type ModelLayerObject } from '../llm/serve/split-job.ts'
import type { Graphs } from '../policies/graphs.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import type { ArtefactCatalogue } from '../registries/catalogue.ts'
import { parseStoredSpec, parseStoredTemplate } from '../specs/stored.ts'
import { BlockShelf } from './block-shelf.ts'
import { FILED, FiledShelf } from './filed-shelf.ts'
import type { Library } from './library.ts'
import type { Shelf } from './shelf.ts'
import { storeShelves } from './store-shelf.ts'
import { VersionedShelf } from './versioned-shelf.ts'

export type Shelves = {
  readonly components: VersionedShelf<ComponentManifest>
  readonly vdags: VersionedShelf<VdagSpec>
  readonly policies: Omit<VersionedShelf<PolicyRule>, 'create'>
  readonly graphs: VersionedShelf<PolicyGraph>
  readonly specs: VersionedShelf<StoredSpec>
  readonly templates: VersionedShelf<StoredTemplate>
  readonly blocks: Shelf
  readonly inferenceServers: Shelf
  readonly splitRunners: Shelf
  readonly layers: Shelf
  readonly assetStores: Shelf
  readonly containerStores: Shelf
}

type Parts = {
  readonly library: Library; readonly view: Pick<MeshView, 'ads'>; readonly actions: Actions; readonly inventory: Inventory; readonly catalogue: ArtefactCatalogue; readonly graphs: Graphs
  /** The published parts of models. */
  readonly stages: () => Promise<Parameters<typeof layerObjects>[0]>
}

/** Every registry of the mesh as AIOS's users know it. */
export function openShelves(ports: Pick<Ports, 'clock' | 'identity' | 'random' | 'registries'>, { library, view, actions, inventory, catalogue, graphs, stages }: Parts): Shelves {
  const { annotations, documents } = library
  const { clock, identity: { peer } } = ports
  return {
    components: new VersionedShelf(peer, clock, annotations, {
      artefacts: library.components, table: documents.components, mutable: ['componentMetadata', 'metadata', 'tags', 'description'],
      create: async document => (await actions.addComponent(document)).componentURI,
    }),
    vdags: new VersionedShelf(peer, clock, annotations, {
      artefacts: library.vdags, table: documents.vdags, mutable: ['discoveryTags', 'metadata', 'description'],
      create: async document => (await actions.createVdag(document)).uri,
    }),
    // A rule comes with its code, which is compiled and tried where it is published.
    policies: new VersionedShelf(peer, clock, annotations, {
      artefacts: library.policies, table: documents.policies, mutable: ['metadata', 'tags', 'description', 'functionality_data', 'resource_estimates'],
      create: async () => {
        throw new MeshError('SPEC_INVALID', 'policy rule: code: missing; a rule is published with its code')
      },
    }),
    graphs: new VersionedShelf(peer, clock, annotations, {
      artefacts: library.graphs, table: documents.graphs, mutable: ['graph_metadata', 'graph_search_tags', 'graph_description'],
      create: async document => (await graphs.create(document)).graph_uri,
    }),
    specs: new VersionedShelf(peer, clock, annotations, {
      artefacts: library.specs, table: documents.specs, mutable: ['specMetadata', 'specTags', 'specDescription'],
      create: async document => (await library.specs.publish(await byFirstAuthor(library.specs, parseStoredSpec(document, peer), ({ specURI }) => specURI))).uri,
    }),
    templates: new VersionedShelf(peer, clock, annotations, {
      artefacts: library.templates, table: documents.templates, mutable: ['templateMetadata', 'templateTags', 'templateDescription'],
      create: async document => (await library.templates.publish(await byFirstAuthor(library.templates, parseStoredTemplate(document, peer), ({ templateURI }) => templateURI))).uri,
    }),
    blocks: new BlockShelf({ actions, catalogue, inventory }),
    inferenceServers: new FiledShelf(ports, FILED.inferenceServers),
    splitRunners: new FiledShelf(ports, FILED.splitRunners),
    ...storeShelves(ports, view),
    layers: withPublished(new FiledShelf(ports, FILED.layers), async () => layerObjects(await stages(), {})),
  }
}

/** The same again is not new, whoever publishes it. */
async function byFirstAuthor<T extends { readonly author: string }>(artefacts: { author(uri: string): Promise<string> }, document: T, uriOf: (document: T) => string): Promise<T> {
  const author = await artefacts.author(uriOf(document)).catch(() => document.author)
  return { ...document, author }
}

/** Layers that somebody registered, and those that the mesh itself cut. */
function withPublished(filed: FiledShelf, published: () => Promise<readonly ModelLayerObject[]>): Shelf {
  const own = async (): Promise<readonly JsonObject[]> => (await published()).map(layer => toJson(layer)).filter(isJsonObject)
  return {
    documents: async () => [...await filed.documents(), ...await own()],
    get: async key => (await own()).find(layer => layer['model_layer_hash'] === key) ?? filed.get(key),
    create: (document: Json) => filed.create(document),
    update: (key, change) => filed.update(key, change),
    remove: key => filed.remove(key),
  }
}
