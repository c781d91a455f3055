import type { Json } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import type { MetricsAbout, MetricsSource } from '../roles.ts'

/** Documents that a rule is lent at most. */
const DOCUMENTS = 1_000

export type Lenders = { readonly metrics: MetricsSource & { knownBlock(id: string): JsonObject; knownClusters(): readonly JsonObject[] }; readonly blocks: () => Promise<readonly BlockRecord[]>; /** AIOS's document of a cluster, of what is known of its hosts. */ readonly cluster: (id: string) => JsonObject }

/**
 * What AIOS's live callables answer to a rule, of what is known of the mesh at this moment: those of `wanted` that whoever asks
 * the rule did not fill in itself. A rule gets a member by its id, or all of them.
 */
export async function ruleSettings(wanted: readonly string[], input: Json, given: Readonly<Record<string, Json>>, { metrics, blocks, cluster }: Lenders): Promise<Readonly<Record<string, Json>>> {
  const lent: Record<string, Json> = {}
  const about = aboutOf(input, given)
  const records = wanted.some(name => name === 'get_block_by_id' || name === 'query_blocks') ? (await blocks()).slice(0, DOCUMENTS).map(record => ({ ...fieldsOf(toJson(record)), id: record.blockId })) : []
  for (const name of wanted) {
    const value = lend(name)
    if (value !== undefined) lent[name] = value
  }
  return lent

  function lend(name: string): Json | undefined {
    switch (name) {
      case 'get_metrics':
        return { ...metrics.known(about) }
      case 'cluster_data':
        return cluster(String(metrics.known(about).cluster_metrics['clusterId'] ?? ''))
      case 'get_block_by_id':
        return byId(records, 'id')
      case 'query_blocks':
        return records
      case 'block_metrics_api': {
        const found = (Array.isArray(input) ? input : []).slice(0, DOCUMENTS).flatMap(document => (isJsonObject(document) && typeof document['blockId'] === 'string' ? [metrics.knownBlock(document['blockId'])] : []))
        return { get: byId(found, 'blockId'), get_block_metrics: byId(found, 'blockId'), query: found }
      }
      case 'cluster_metrics_api':
      case 'cluster_metrics_client':
        return { get: clusters(), get_cluster_metrics: clusters(), query: [...metrics.knownClusters()].slice(0, DOCUMENTS) }
      case 'get_cluster_metrics':
        return clusters()
      case 'query_cluster_metrics':
        return [...metrics.knownClusters()].slice(0, DOCUMENTS)
      default:
        return undefined
    }
  }

  function clusters(): JsonObject {
    return byId(metrics.knownClusters().slice(0, DOCUMENTS), 'clusterId')
  }
}

/** The block and the cluster that the question is about. */
function aboutOf(input: Json, given: Readonly<Record<string, Json>>): MetricsAbout {
  const fields = fieldsOf(input)
  const payload = fieldsOf(fields['payload'])
  const block = [fields['block_data'], payload['block'], given['block_data']].map(document => idIn(document, ['blockId', 'id'])).find(id => id !== undefined) ?? (typeof fields['block_id'] === 'string' ? fields['block_id'] : undefined)
  const cluster = [fields['cluster_data'], fields['cluster'], payload['cluster'], given['cluster_data']].map(document => idIn(document, ['id', 'clusterId'])).find(id => id !== undefined)
  return { ...(block === undefined ? {} : { block }), ...(cluster === undefined ? {} : { cluster }) }
}

function idIn(document: Json | undefined, names: readonly string[]): string | undefined {
  const fields = fieldsOf(document)
  return names.flatMap(name => (typeof fields[name] === 'string' && fields[name] !== '' ? [fields[name]] : []))[0]
}

function byId(documents: readonly JsonObject[], key: string): JsonObject {
  return Object.fromEntries(documents.map(document => [String(document[key]), document]))
}

function fieldsOf(value: Json | undefined): JsonObject {
  return isJsonObject(value) ? value : {}
}
