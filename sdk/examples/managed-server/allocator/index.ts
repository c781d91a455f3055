import { definePolicy, list, number, record, text, type Json } from 'aios-mesh/sdk'

/** AIOS's `third_party_allocate`: the healthy node with the most memory. For AIOS's other actions a host answers for itself alone here. */
export default definePolicy({
  eval(_parameters, input): Json {
    const nodes = list(record(input['payload'] ?? {})['healthy_nodes'] ?? [], 'healthy_nodes').map(node => record(node))
    const chosen = [...nodes].sort((a, b) => number(b['memory'], 'memory') - number(a['memory'], 'memory'))[0]
    // Nothing means nowhere.
    if (chosen === undefined) return {}
    const placed = { node_id: text(chosen['node_id'], 'node_id'), gpus: [] }
    return input['action'] === 'dry_run' ? { selection_score_data: { score: 0.5, node_info: placed } } : placed
  },
})
