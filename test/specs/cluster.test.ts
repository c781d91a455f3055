import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import { changedCluster, clusterNamed, parseCluster, parseNode, readActions } from '../../src/specs/cluster.ts'
import { envelopes } from './samples.ts'

const ROOM = { gpus: { count: 2, memory: 32_768 }, vcpus: { count: 16 }, memory: 65_536, storage: { disks: 1, size: 1_000 }, network: { interfaces: 1, txBandwidth: 10, rxBandwidth: 10 } }

describe('specs: clusters and nodes', () => {
  it('AIOS\'s shipped sample: nodes by nodeId with a status, room declared of the whole', () => {
    const values = { id: 'cluster-9', regionId: 'eu-1', nodes: { count: 2, nodeData: [{ nodeId: 'n-1', status: 'active' }, { nodeId: 'n-2', status: 'maintenance' }] }, ...ROOM, config: { autoScaling: true, urlMap: {} }, clusterMetadata: { createdBy: 'admin' }, reputation: 4.5 }
    for (const wrap of Object.values(envelopes)) {
      const { id, regionId, reputation, nodes, config } = parseCluster(wrap(values))
      assert.deepEqual({ id, regionId, reputation, config }, { id: 'cluster-9', regionId: 'eu-1', reputation: 4.5, config: { autoScaling: true, urlMap: {} } })
      assert.deepEqual(nodes.nodeData.map(node => [node.id, node.nodeMetadata]), [['n-1', { status: 'active' }], ['n-2', { status: 'maintenance' }]])
    }
  })

  it('in any spelling, numbers as texts, nodes as a list', () => {
    const expected = parseCluster({ id: 'c', regionId: 'r', reputation: 90, clusterMetadata: { vendor: 'v' }, config: { actionsPolicyMap: { add_block: 'rule:1-s' } }, nodes: { nodeData: [{ id: 'n', ...ROOM, gpus: { count: 2, memory: 32_768, modelNames: ['A'] }, nodeMetadata: { rack: 2 } }] } })
    const node = { node_id: 'n', gpus: { count: '2', memory: '32768', model_names: ['A'] }, vcpus: { count: '16' }, memory: '65536', storage: { disks: '1', size: '1000' }, network: { interfaces: 1, tx_bandwidth: '10', rx_bandwidth: 10 }, node_metadata: { rack: 2 } }
    const said = parseCluster({ 'cluster-id': 'c', region_id: 'r', reputation: '90', cluster_metadata: { vendor: 'v' }, config: { actions_policy_map: { add_block: 'rule:1-s' } }, nodes: [node], nobodyReadsThis: 1 })
    assert.deepEqual(said.nodes, expected.nodes)
    assert.deepEqual([said.id, said.regionId, said.reputation, said.clusterMetadata, said.config['actionsPolicyMap']], ['c', 'r', 90, { vendor: 'v' }, { add_block: 'rule:1-s' }])
    const documents: readonly Json[] = [{ clusterId: 'c', ...node }, { cluster_id: 'c', nodeData: node }, { node_data: { clusterId: 'c', ...node } }]
    for (const document of documents) assert.deepEqual(parseNode(document), { clusterId: 'c', node: expected.nodes.nodeData[0] })
  })

  it('what cannot be read is refused with its field, its value and what would be right', () => {
    const refused = (run: () => unknown, message: RegExp): void => void assert.throws(run, { code: 'SPEC_INVALID', message })
    refused(() => parseCluster({ id: 'a b' }), /cluster spec: id: "a b" is not usable here; use a name without spaces and slashes/)
    refused(() => parseCluster({ nodes: [{ memory: 1 }] }), /nodes\.nodeData\.0\.id: missing; give a string/)
    refused(() => parseNode({ clusterId: 'c', id: 'n', memory: 'much' }), /memory: "much" is not usable here; give a number/)
    refused(() => parseNode({ id: 'n' }), /clusterId: missing; give a string/)
    refused(() => parseCluster({ config: { actionsPolicyMap: { add_block: 3 } } }), /config\.actionsPolicyMap\.add_block: 3 is not usable here; give a policy/)
  })

  it('an update sets fields, by dotted paths and by Mongo\'s operators, and leaves the rest', () => {
    const { nodes: _, ...before } = parseCluster({ id: 'c', regionId: 'r', tags: ['a'], reputation: 3, clusterMetadata: { vendor: 'v' } })
    const record = { ...before, id: 'c' }
    assert.deepEqual(changedCluster(record, { region_id: 's', 'clusterMetadata.creator': 'p', tags: ['b'] }), { ...record, regionId: 's', clusterMetadata: { vendor: 'v', creator: 'p' }, tags: ['b'] })
    assert.deepEqual(changedCluster(record, { cluster_id: 'c', $set: { reputation: '97', 'cluster_metadata.vendor': 'w' }, $addToSet: { tags: 'b' } }), { ...record, reputation: 97, clusterMetadata: { vendor: 'w' }, tags: ['a', 'b'] })
    assert.deepEqual(changedCluster(record, { id: 'other', status: 'dead', gpus: { count: 9 } }), record, 'neither its name nor what its nodes add up to')
    assert.throws(() => changedCluster(record, { $put: { tags: [] } }), { code: 'SPEC_INVALID', message: /update: \$put: there is no such operator/ })
    assert.throws(() => changedCluster(record, { $set: { tags: 3 } }), { message: /tags: 3 is not usable here; give an array/ })
    assert.equal(clusterNamed({ cluster_id: 'c', $set: {} }), 'c')
  })

  it('actions that AIOS\'s documentation calls otherwise than its controller are the same', () => {
    const rules = { create_block: 'a:1-s', scale: { policyRuleURI: 'b:1-s' }, onFailure: 'notify-admin' }
    assert.deepEqual(Object.entries(readActions({ actionsPolicyMap: rules })).map(([action, { policyRuleURI }]) => [action, policyRuleURI]), [['add_block', 'a:1-s'], ['scale_block', 'b:1-s'], ['onFailure', 'notify-admin']])
    assert.equal(readActions({ actionsPolicyMap: { create_block: 'a:1-s', add_block: 'c:1-s' } })['add_block']?.policyRuleURI, 'c:1-s')
  })
})
