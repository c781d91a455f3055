import type { CapacityAd } from '../../protocols/capacity.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyExecutor, PolicyFunction, PolicyGraph } from '../../protocols/policy.ts'
import type { PolicyRule } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { clusterDocument, clusterMetrics } from '../placement/cluster-document.ts'
import type { Job } from './job-state.ts'

/** A rule as AIOS's registry shows it. */
export function ruleDocument(rule: PolicyRule): JsonObject {
  return {
    policy_rule_uri: rule.policyRuleURI, name: rule.name, version: rule.version, release_tag: rule.releaseTag, metadata: toJson(rule.metadata ?? {}), tags: rule.tags.join(','),
    code: rule.code, code_type: rule.codeType, type: rule.codeType,
    policy_input_schema: toJson(rule.inputSchema), policy_output_schema: toJson(rule.outputSchema), policy_settings_schema: toJson(rule.settingsSchema ?? {}), policy_parameters_schema: toJson(rule.parametersSchema ?? {}),
    policy_settings: toJson(rule.settings), policy_parameters: toJson(rule.parameters),
    management_commands_schema: Object.entries(rule.managementCommands).map(([name, command]) => ({ ...(isJsonObject(command) ? command : {}), name })),
    description: rule.description, functionality_data: toJson(rule.functionalityData ?? {}), resource_estimates: toJson(rule.resourceEstimates ?? {}), author: rule.author,
  }
}

/** An executor as AIOS's registry shows it, with what its host says of itself where nobody said otherwise. */
export function executorDocument({ executorId, host, metadata, hardware, resourceEstimator }: PolicyExecutor, ad: CapacityAd | undefined, alive: boolean): JsonObject {
  return {
    executor_id: executorId, executor_host_uri: `aios://${host}`, executor_metadata: toJson(metadata),
    executor_hardware_info: Object.keys(hardware).length > 0 || ad === undefined ? toJson(hardware) : hardwareOf(ad),
    executor_status: alive ? (ad !== undefined && ad.cpuLoad >= 0.95 ? 'busy' : 'healthy') : 'unreachable',
    node_id: host, ...(resourceEstimator === undefined ? {} : { resource_estimator: toJson(resourceEstimator) }),
  }
}

/** What AIOS's allocators are shown of an executor: its data and its metrics. */
export function executorFacts(document: JsonObject, ad: CapacityAd | undefined): Json {
  return { data: document, metrics: ad === undefined ? {} : clusterMetrics([ad]), cluster_metrics: ad === undefined ? {} : clusterMetrics([ad]) }
}

export function functionDocument(fn: PolicyFunction, rule: PolicyRule | undefined): JsonObject {
  const { replicas, targetUtilisation, minReplicas, maxReplicas } = fn
  return {
    function_id: fn.functionId, function_executor_id: fn.executor, function_executor_uri: [...new Set(replicas.map(({ host }) => `aios://${host}`))].join(','),
    function_metadata: toJson(fn.metadata), function_tags: [...fn.tags], function_policy_rule_uri: fn.policyRuleURI, function_policy_data: rule === undefined ? {} : ruleDocument(rule),
    policy_rule_parameters: toJson(fn.parameters), replicas: toJson(replicas),
    autoscaling: { enabled: targetUtilisation !== undefined, min_replicas: minReplicas, max_replicas: maxReplicas, ...(targetUtilisation === undefined ? {} : { target_cpu_utilization_percentage: Math.round(targetUtilisation * 100) }) },
  }
}

export function graphDocument(graph: PolicyGraph): JsonObject {
  return {
    graph_uri: graph.graphURI, graph_name: graph.name, graph_version: graph.version, graph_release_tag: graph.releaseTag, graph_metadata: toJson(graph.metadata),
    graph_function_ids: [...graph.functionIds], graph_connection_data: toJson(graph.connections), graph_search_tags: [...graph.searchTags], graph_description: graph.description,
    graph_input_schema: toJson(graph.inputSchema), graph_output_schema: toJson(graph.outputSchema), author: graph.author,
  }
}

/** AIOS's `PolicyJobs`, with what was asked for, so that queries can be about that, too. */
export function jobDocument({ body, submitter, executor, epoch, result }: Job): JsonObject {
  return {
    job_id: body.id, job_status: result?.status ?? 'in_progress', job_output_data: result?.output ?? null, node_id: executor, job_policy_rule_uri: body.policy,
    name: body.name, policy_rule_uri: body.policy, policy_rule_parameters: toJson(body.parameters), inputs: body.input, executor_id: body.executor === '' ? executor : body.executor, submitter, attempt: epoch,
    submitted_at: body.submittedAt, started_at: result?.startedAt ?? null, ended_at: result?.endedAt ?? null,
  }
}

function hardwareOf(ad: CapacityAd): Json {
  const { metrics: _, ...hardware } = clusterDocument([ad])
  return hardware
}
