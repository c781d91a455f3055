import type { Json } from '../../protocols/ids.ts'
import type { HookName } from '../roles.ts'
import { isJsonObject } from '../lib/json.ts'

/** One place where the mesh asks a policy rule. The texts are what `aios policy` and the documentation show. */
export type Hook = {
  /** AIOS's names for it, as specs and configuration write them. */
  readonly names: readonly string[]
  /** Who asks, and when. */
  readonly asked: string
  /** What `input_data` holds. */
  readonly input: string
  /** What `eval` must return. */
  readonly answer: string
  /** Members of `settings` that the platform fills in. */
  readonly settings: readonly string[]
  /**
   * When a configured rule throws, overruns, or answers what its hook cannot use: `default` asks the built-in rule, `deny` and `healthy` are
   * AIOS's documented answers, `unchanged` passes the packet on, `ignored` goes on as if nothing was said, `refuse` fails what was asked for.
   */
  readonly onFailure: 'default' | 'deny' | 'healthy' | 'unchanged' | 'ignored' | 'refuse'
}

const PRECHECKS = ['add_node', 'remove_node', 'add_cluster', 'remove_cluster', 'add_block', 'remove_block', 'update_cluster', 'scale_block', 'block_mgmt', 'cluster_mgmt', 'add_vdag_controller', 'remove_vdag_controller']
const ALLOCATION = ['dry_run', 'allocation', 'scale', 'reassignment', 'third_party_allocate']

/** Every hook of the mesh. Two of AIOS's lists of hooks disagree with its code; these are the forms its code uses. */
export const HOOKS: Readonly<Record<HookName, Hook>> = {
  template: {
    names: ['templatePolicyRuleUri'],
    asked: 'when a document names a template other than Parser/V1',
    input: '{ header, body: { spec: { values } } } as it was sent, with template_data and spec: the values, and the document once more',
    answer: 'the spec in its plain form',
    settings: [],
    onFailure: 'refuse',
  },
  precheck: {
    names: PRECHECKS,
    asked: 'by the network, then by the cluster, before the action of that name; about placing, by the host too',
    input: 'the node, cluster or block it is about, as AIOS shows it; *_mgmt carry { input: { action, payload } }, scale_block its payload as input',
    answer: '{ allowed, input_data }: input_data may be rewritten, and is the reason when not allowed',
    settings: ['get_metrics', 'get_block_by_id', 'query_blocks'],
    onFailure: 'deny',
  },
  clusterAllocator: {
    names: ['clusterAllocator'],
    asked: 'by the buyer of a placement, to choose whom to ask and then which bid to take',
    input: '{ action: "selection", filter_result[], block_data } · { action: "post_dry_run", clusters: [{ id, cluster, score_data, block_data }] }',
    answer: 'selection: { clusters: [] }; post_dry_run: one of the clusters',
    settings: [],
    onFailure: 'default',
  },
  resourceAllocator: {
    names: ['resourceAllocator'],
    asked: 'by the host that was asked to run an instance',
    input: `{ action: ${ALLOCATION.map(action => `"${action}"`).join(' | ')}, payload: { block, cluster, cluster_metrics, healthy_nodes, … } }`,
    answer: 'dry_run: { selection_score_data: { score 0..1, node_info: { node_id, gpus[] } } }; the others: { node_id, gpus[] }',
    settings: ['get_metrics'],
    onFailure: 'default',
  },
  adhocAllocator: {
    names: ['policy_rule_uri'],
    asked: 'when somebody asks where something would fit, and names a rule that is to choose',
    input: '{ cluster_data: { cluster: { data, metrics, cluster_metrics } }, inputs }',
    answer: '{ cluster_id, node_id?, gpus? }',
    settings: ['cluster_client', 'cluster_metrics_client'],
    onFailure: 'default',
  },
  loadBalancer: {
    names: ['loadBalancer'],
    asked: 'by the caller, for each packet that no session binds to an instance',
    input: '{ mode: "load_balance", packet, instances[] }; also modes estimate, check_execute { inputs }, health_check',
    answer: 'load_balance: { instance_id }; the other modes: what whoever asked is told',
    settings: ['get_metrics', 'block_data', 'cluster_data'],
    onFailure: 'default',
  },
  autoscaler: {
    names: ['autoscaler'],
    asked: 'by the steward of the block, every settings.intervalSeconds (30), first after 60 s',
    input: '{ block_data, cluster_data, current_instances[] }',
    answer: '{ skip: true } · { skip: false, operation: "upscale", instances_count, allocation_data? } · { skip: false, operation: "downscale", instances_list[] }',
    settings: ['get_metrics'],
    onFailure: 'ignored',
  },
  stabilityChecker: {
    names: ['stabilityChecker'],
    asked: 'by the steward of the block, after each round of health checks (settings.health_check_interval, 30 s)',
    input: '{ block_data, cluster_data, health_check_data: { instance: boolean }, instances }',
    answer: 'anything: read only where it names instances to replace',
    settings: ['block_data', 'cluster_data', 'get_metrics'],
    onFailure: 'ignored',
  },
  preprocessing: {
    names: ['pre_processing', 'preprocessingPolicyRule'],
    asked: 'by the host of an instance, before a packet enters it; on a vDAG node once more, for that node',
    input: '{ packet } with block_data for a block',
    answer: '{ packet } or the packet',
    settings: ['vdag', 'modelParameters', 'block', 'block_id', 'node_label', 'node', 'graph', 'connections', 'assignment_info', 'rev_mapping'],
    onFailure: 'unchanged',
  },
  postprocessing: {
    names: ['post_processing', 'postprocessingPolicyRule'],
    asked: 'by the host of an instance, on what it answered; on a vDAG node once more: the place for conditional routing',
    input: '{ packet } with block_data for a block',
    answer: '{ packet } or the packet',
    settings: ['vdag', 'modelParameters', 'block', 'block_id', 'node_label', 'node', 'graph', 'connections', 'assignment_info', 'rev_mapping'],
    onFailure: 'unchanged',
  },
  assignment: {
    names: ['assignmentPolicyRule'],
    asked: 'when a vDAG is created, for each node that names no block',
    input: 'a list of the blocks that fit',
    answer: 'exactly one block; none or several fail the node',
    settings: ['block_metrics_api', 'cluster_metrics_api'],
    onFailure: 'refuse',
  },
  quotaChecker: {
    names: ['quotaChecker'],
    asked: 'for each request to a vDAG, after it was counted',
    input: '{ quota_table, input, quota, session_id }: quota counts this request',
    answer: '{ allowed }',
    settings: [],
    onFailure: 'deny',
  },
  qualityChecker: {
    names: ['qualityChecker'],
    asked: 'for every framesInterval-th response of a vDAG, afterwards',
    input: '{ vdag_info, input_data: { request, response } }',
    answer: 'anything: kept for the audit, never read',
    settings: [],
    onFailure: 'ignored',
  },
  healthChecker: {
    names: ['healthChecker'],
    asked: 'every interval, and with mode "fast_check" for each request to a vDAG',
    input: '{ mode, vdag, health_check_data: { block: { healthy, instances } | { error } } }',
    answer: 'fast_check: { overall_healthy }',
    settings: [],
    onFailure: 'healthy',
  },
  clusterStability: {
    names: ['cluster.config.stabilityChecker'],
    asked: 'every 60 s by each host of the cluster, and on demand',
    input: '{ cluster, cluster_data, nodes_data: [{ node_id, status, cpu_utilization_percent, memory, disk, gpus? }] }',
    answer: '{ is_stable, stability_check_data }',
    settings: [],
    onFailure: 'default',
  },
  blockEvent: {
    names: ['blockInitData.events'],
    asked: 'when a block raises the event of that name, afterwards',
    input: '{ block_id, event_name, event_data }',
    answer: 'anything: never read',
    settings: [],
    onFailure: 'ignored',
  },
  failure: {
    names: ['failure_policy_id'],
    asked: 'when somebody reports a failure and names a policy for it',
    input: 'what the reporter sent',
    answer: '{ success, data }',
    settings: [],
    onFailure: 'default',
  },
  ranking: {
    names: ['rankingPolicyRule'],
    asked: 'on the results of a search',
    input: 'the list of documents found',
    answer: 'the list to show',
    settings: ['block_metrics_api', 'cluster_metrics_api'],
    onFailure: 'unchanged',
  },
  converter: {
    names: ['converter'],
    asked: 'for each packet that crosses a vDAG edge whose ends do not fit',
    input: '{ packet }',
    answer: '{ packet } or the packet, as the next node takes it',
    settings: [],
    onFailure: 'refuse',
  },
  splitPlacement: {
    names: ['/splits/create-with-policy'],
    asked: 'when a split model is placed',
    input: '{ selected_clusters, extra_input }',
    answer: 'which peer takes which rank',
    settings: ['get_cluster_metrics', 'query_cluster_metrics'],
    onFailure: 'default',
  },
  resourceEstimator: {
    names: ['resourceEstimator'],
    asked: 'before an executor takes a job or a function "with estimate"',
    input: '{ policy, type_: "job" | "function" }',
    answer: '{ allowed, node_id }',
    settings: ['get_metrics'],
    onFailure: 'deny',
  },
  executorAllocator: {
    names: ['alloc.resource_allocator_policy_uri'],
    asked: 'when a job or a function names no executor but a policy that chooses one',
    input: '{ cluster_data: { executor: { data, metrics } }, inputs: { policy_rule_uri, type_ } }',
    answer: '{ executor_id | node_id, replicas? }',
    settings: [],
    onFailure: 'default',
  },
}

/** The answer AIOS documents for a rule that failed, where the hook has one; the caller's own fallback stands in elsewhere. */
export function answerOnFailure(hook: HookName, input: Json, because: string): Json | undefined {
  switch (HOOKS[hook].onFailure) {
    case 'deny': return { allowed: false, input_data: because }
    case 'healthy': return isJsonObject(input) && input['mode'] === 'fast_check' ? { overall_healthy: true } : undefined
    default: return undefined
  }
}
