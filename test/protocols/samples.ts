import type { Schema } from '../../protocols/codec.ts'
import { capacityAd, capacityDelta, capacityPull, distances, livenessBody, probe } from '../../protocols/capacity.ts'
import { contentHave } from '../../protocols/content.ts'
import { generationAsk, generationKeep } from '../../protocols/generation-log.ts'
import { capability, genesis, hello, helloBody, invite, membersPull, bearerBody } from '../../protocols/membership.ts'
import { blockControl } from '../../protocols/block-control.ts'
import { ask, askForBid, award, awardBody, bid, contract, lease, leaseBody, stewardBody, stewardMirror } from '../../protocols/placement.ts'
import { clusterGroup, clusterInvite, clusterRecord, clusterTalk, clusterTicket, networkAdmins, networkDocument, nodeRecord } from '../../protocols/cluster.ts'
import { vdagController } from '../../protocols/controller.ts'
import { imageEntry, imageRecord } from '../../protocols/image.ts'
import { keyClaim, keyClaimBody } from '../../protocols/keys.ts'
import { metricsPull } from '../../protocols/metrics.ts'
import { quotaShare } from '../../protocols/quota.ts'
import { modelManifest, servedModel } from '../../protocols/model.ts'
import { reviewRecord } from '../../protocols/reviews.ts'
import { registryDigest, registryLog, registryPage, registryRecord } from '../../protocols/registry.ts'
import { signed } from '../../protocols/signed.ts'
import { keptPlan, stageOpen } from '../../protocols/stage.ts'
import { functionState, functionStateBody, policyCall, policyExecute, policyExecutor, policyFunction, policyGraph, policyJob, policyJobBody, policyResultBody } from '../../protocols/policy.ts'
import { blockRecord, componentManifest, policyRule, vdagSpec, assetRecord } from '../../protocols/specs.ts'
import { annotation, storedSpec, storedTemplate } from '../../protocols/stores.ts'
import { taskRecord } from '../../protocols/tasks.ts'

const A = '12D3KooWAbCdEfGhJkLmNpQrStUvWxYz123456789abcdefghijkm'
const B = '12D3KooWBbCdEfGhJkLmNpQrStUvWxYz123456789abcdefghijkm'
const CID = 'bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy'
const DIGEST = `sha256:${'ab'.repeat(32)}`
const T = 1_700_000_000_000
const seal = (domain: string) => ({ domain, payload: Uint8Array.of(1, 2, 3), signer: A, signature: Uint8Array.of(9, 9) })
const needs = { cpuMilli: 500, memoryMb: 256, diskMb: 0, gpus: 1, gpuMemoryMb: 8_000 }
const resources = { cpuMilli: 8_000, memoryMb: 32_768, diskMb: 100_000, gpus: [{ id: 'gpu-0', name: 'Some GPU', memoryMb: 24_000, freeMb: 23_000, driver: '570.1' }] }
const runtime = { name: 'onnx', version: '1.30.0', providers: ['cuda', 'cpu'], gflops: 812.5 }
const instance = { block: 'classify', instance: 'in-a1b2', contract: 'c-1', component: 'model.c:1.0.0-stable', epoch: 3, steward: A, state: 'ready', inFlight: 1, queued: 0, latencyMs: 4.5 }
const ad = { peer: A, cluster: A, incarnation: 2, sequence: 7, issuedAt: T, ttlMs: 15_000, protocolMajor: 1, labels: { region: 'eu' }, total: resources, free: resources, runtimes: [runtime], memoryGBs: 21.5, cpuLoad: 0.25, instances: [instance], holds: [CID] }
const block = {
  blockId: 'classify', componentURI: 'model.c:1.0.0-stable', component: CID, runtime: { name: 'onnx', model: 'model.onnx', format: 'onnx' }, minInstances: 1, maxInstances: 2, needs, labels: { region: 'eu' },
  initData: {}, initSettings: {}, parameters: { threshold: 0.5 }, inputProtocol: { features: { type: 'array' } }, outputProtocol: {}, policies: { loadBalancer: { policyRuleURI: 'lb:1.0-stable', parameters: {}, settings: {} } }, tags: ['demo'], owner: A, revision: 1,
}

export type Sample = { readonly protocol: string; readonly schema: Schema<unknown>; readonly value: unknown }

/** One typical message of each kind. Values never change: what is wanted differently gets a new name. */
export const samples: Readonly<Record<string, Sample>> = {
  'signed': { protocol: 'signed', schema: signed, value: seal('bid') },
  'capacity ad': { protocol: 'capacity', schema: capacityAd, value: ad },
  'capacity delta': { protocol: 'capacity-delta', schema: capacityDelta, value: { peer: A, incarnation: 2, base: 7, sequence: 8, issuedAt: T, changed: { cpuLoad: 0.5 } } },
  'capacity pull': { protocol: '/aios/capacity-pull/1', schema: capacityPull.request, value: { of: [A, B] } },
  'capacity pull answer': { protocol: '/aios/capacity-pull/1', schema: capacityPull.response, value: { ads: [seal('capacity')] } },
  'capacity pull answer that says how many are known': { protocol: '/aios/capacity-pull/1', schema: capacityPull.response, value: { ads: [seal('capacity')], knows: 200 } },
  'probe': { protocol: '/aios/probe/1', schema: probe.request, value: { of: B, incarnation: 4 } },
  'probe answer': { protocol: '/aios/probe/1', schema: probe.response, value: { alive: true, incarnation: 4 } },
  'liveness': { protocol: 'liveness', schema: livenessBody, value: { rumours: [{ about: B, incarnation: 4, state: 'suspect' }], issuedAt: T } },
  'content have': { protocol: '/aios/content-have/1', schema: contentHave.request, value: { roots: [CID] } },
  'content have answer': { protocol: '/aios/content-have/1', schema: contentHave.response, value: { held: [true] } },
  'genesis': { protocol: 'genesis', schema: genesis, value: { name: 'lab', owner: A, protocolMajor: 1, admission: 'invite', createdAt: T, nonce: Uint8Array.of(5, 6) } },
  'capability': { protocol: 'capability', schema: capability, value: { network: CID, issuer: A, subject: B, rights: ['join', 'host'], notBefore: T, expires: T + 1, nonce: 'n' } },
  'invite': { protocol: 'invite', schema: invite, value: { v: 1, genesis: seal('genesis'), secret: Uint8Array.of(7), addresses: ['/ip4/127.0.0.1/tcp/4001'], chain: [seal('capability')], bearerKey: Uint8Array.of(8) } },
  'bearer': { protocol: 'bearer', schema: bearerBody, value: { network: CID, subject: B, issuedAt: T } },
  'hello body': { protocol: 'hello', schema: helloBody, value: { network: CID, peer: A, to: B, chain: [seal('capability')], issuedAt: T, protocolMajor: 1 } },
  'hello refusal': { protocol: '/aios/hello/1', schema: hello.response, value: { refused: { code: 'FORBIDDEN', because: 'the capability has expired' } } },
  'members': { protocol: '/aios/members/1', schema: membersPull.response, value: { members: [{ peer: B, chain: [seal('capability')] }], next: B } },
  'ask': { protocol: '/aios/ask/1', schema: ask, value: { id: 'ask-1', block, needs, steward: A, epoch: 3, holdMs: 5_000, action: 'allocation', dryRun: false } },
  'bid': { protocol: 'bid', schema: bid, value: { ask: 'ask-1', host: B, hold: 'hold-1', score: 0.75, gpus: ['gpu-0'], holdMs: 5_000, readyInMs: 800, because: 'fits' } },
  'ask refusal': { protocol: '/aios/ask/1', schema: askForBid.response, value: { refusal: { ask: 'ask-1', because: 'no GPU is free', retryable: true } } },
  'award body': { protocol: 'award', schema: awardBody, value: { ask: 'ask-1', hold: 'hold-1', block, instance: 'in-a1b2', epoch: 3, leaseMs: 20_000, issuedAt: T } },
  'award body of an instance with data of its own': { protocol: 'award', schema: awardBody, value: { ask: 'ask-1', hold: 'hold-1', block, instance: 'in-a1b2', epoch: 3, leaseMs: 20_000, issuedAt: T, init: { camera: 3 } } },
  'award answer': { protocol: '/aios/award/1', schema: award.response, value: { contract: seal('contract') } },
  'contract': { protocol: 'contract', schema: contract, value: { id: 'c-1', block: 'classify', instance: 'in-a1b2', component: 'model.c:1.0.0-stable', steward: A, host: B, needs, gpus: ['gpu-0'], epoch: 3, leaseMs: 20_000, issuedAt: T } },
  'contract with terms': { protocol: 'contract', schema: contract, value: { id: 'c-1', block: 'classify', instance: 'in-a1b2', component: 'model.c:1.0.0-stable', steward: A, host: B, needs, gpus: ['gpu-0'], epoch: 3, leaseMs: 20_000, issuedAt: T, terms: '00ff' } },
  'lease body': { protocol: 'lease', schema: leaseBody, value: { do: 'renew', block: 'classify', contract: 'c-1', epoch: 4, leaseMs: 20_000, because: 'took over', issuedAt: T } },
  'lease refusal': { protocol: '/aios/lease/1', schema: lease.response, value: { refusal: { because: 'epoch 5 was seen', retryable: false, highestEpoch: 5 } } },
  'steward body': { protocol: 'steward', schema: stewardBody, value: { block: 'classify', epoch: 4, contracts: [seal('contract')], issuedAt: T } },
  'steward body that tells what was asked for': { protocol: 'steward', schema: stewardBody, value: { block: 'classify', epoch: 4, contracts: [seal('contract')], issuedAt: T, desired: 3, scaledAgoMs: 1_500 } },
  'block control scale': { protocol: '/aios/block-control/1', schema: blockControl.request, value: { block: 'classify', order: { do: 'scale', count: 2, at: [{ host: B, gpus: ['gpu-0'] }] } } },
  'block control scale with data': { protocol: '/aios/block-control/1', schema: blockControl.request, value: { block: 'classify', order: { do: 'scale', count: 2, at: [{ gpus: [], init: { camera: 3 } }, { host: B, gpus: [] }] } } },
  'block control command': { protocol: '/aios/block-control/1', schema: blockControl.request, value: { block: 'classify', order: { do: 'command', service: 'autoscaler', action: 'run', data: null } } },
  'block control answer': { protocol: '/aios/block-control/1', schema: blockControl.response, value: { answer: { operation: 'upscale', instances: 3 } } },
  'steward answer': { protocol: '/aios/steward/1', schema: stewardMirror.response, value: { highestEpoch: 4 } },
  'cluster join': { protocol: '/aios/cluster/1', schema: clusterTalk.request, value: { do: 'join', cluster: 'lab', node: { id: B, memory: 1_000 }, ticket: seal('cluster-ticket') } },
  'cluster manage': { protocol: '/aios/cluster/1', schema: clusterTalk.request, value: { do: 'manage', cluster: 'lab', action: 'relax', data: { by: 2 } } },
  'cluster answer': { protocol: '/aios/cluster/1', schema: clusterTalk.response, value: { data: null } },
  'cluster record': { protocol: 'clusters', schema: clusterRecord, value: { id: 'lab', regionId: 'eu', status: 'live', config: { actionsPolicyMap: { add_block: 'no-gpus:1-stable' } }, tags: ['t'], clusterMetadata: { countries: ['DE'] }, reputation: 4 } },
  'cluster node': { protocol: 'nodes', schema: nodeRecord, value: { id: B, clusterId: 'lab', memory: 1_000, vcpus: { count: 8 }, nodeMetadata: { peer: true } } },
  'cluster group': { protocol: 'groups', schema: clusterGroup, value: { group_id: 'g', group_children_ids: ['lab'] } },
  'cluster ticket': { protocol: 'cluster-ticket', schema: clusterTicket, value: { network: CID, cluster: 'lab', expires: T, nonce: 'n' } },
  'cluster invite': { protocol: 'cluster-invite', schema: clusterInvite, value: { v: 1, owner: A, ticket: seal('cluster-ticket') } },
  'network document': { protocol: 'networks', schema: networkDocument, value: { network_id: CID, network_name: 'mesh', metadata: {}, services_map: {}, policies: { add_node: 'ours-only:1-stable' } } },
  'network admins': { protocol: 'networks', schema: networkAdmins, value: { admins: [B] } },
  'registry record': { protocol: 'registry', schema: registryRecord, value: { registry: 'components', key: 'model.c:1.0.0-stable', value: CID, writer: A, sequence: 0, issuedAt: T } },
  'registry digest answer': { protocol: '/aios/registry-digest/1', schema: registryDigest.response, value: { differing: [0, 255] } },
  'registry page': { protocol: '/aios/registry-page/1', schema: registryPage.request, value: { buckets: [1, 2], limit: 100 } },
  'registry page answer': { protocol: '/aios/registry-page/1', schema: registryPage.response, value: { records: [seal('registry')], next: 'k' } },
  'registry log': { protocol: 'registry-log', schema: registryLog, value: { writer: A, segment: 2, address: '/orbitdb/zdpuA', issuedAt: T } },
  'block record': { protocol: 'blocks', schema: blockRecord, value: block },
  'component manifest': {
    protocol: 'components', schema: componentManifest,
    value: {
      componentURI: 'model.c:1.0.0-stable', componentId: { name: 'c', version: '1.0.0', releaseTag: 'stable' }, componentType: 'model', runtime: { name: 'onnx', model: 'model.onnx', format: 'onnx' },
      files: [{ path: 'model.onnx', cid: CID, size: 10 }], needs, containerRegistryInfo: {}, componentMetadata: {}, componentInitData: {}, componentInitSettings: {}, componentParameters: {}, componentInputProtocol: {}, componentOutputProtocol: {},
      componentInitSettingsProtocol: {}, componentInitParametersProtocol: {}, componentManagementCommandsTemplate: {}, policies: {}, tags: [], author: A,
    },
  },
  'vdag spec': {
    protocol: 'vdags', schema: vdagSpec,
    value: {
      vdagURI: 'v:1.0-stable', vdagName: 'v', vdagVersion: { version: '1.0', releaseTag: 'stable' }, discoveryTags: [],
      nodes: [{ label: 'a', type: 'block', blockId: 'classify', modelParameters: {}, fallbacks: [] }], edges: [{ from: 'a', to: 'a', outputNames: [] }], inputs: ['a'], outputs: ['a'], controller: {},
    },
  },
  'distances': { protocol: '/aios/distances/1', schema: distances.request, value: { of: [B] } },
  'distances answer': { protocol: '/aios/distances/1', schema: distances.response, value: { rttMs: [1.5, null] } },
  'model manifest': {
    protocol: 'layers', schema: modelManifest,
    value: {
      modelURI: 'tiny:1.0.0-stable', modelId: { name: 'tiny', version: '1.0.0', releaseTag: 'stable' },
      facts: { architecture: 'llama', hidden: 64, vocab: 256, contextTokens: 512, heads: 4, kvHeads: 2, headDim: 16, weights: 'float32', activations: 'float32', parameters: 100_000, endTokens: [2], beginToken: 1 },
      skeleton: { path: 'skeleton.onnx', cid: CID, size: 9 }, pieces: [{ path: 'layer-0.bin', cid: CID, size: 40 }],
      layers: [{ weightBytes: 40, readBytes: 40, flops: 80, kvBytes: 256, boundaryBytes: 256, piece: 'layer-0.bin' }],
      embedding: { weightBytes: 65_536, readBytes: 256, flops: 0 }, head: { weightBytes: 65_536, readBytes: 65_536, flops: 131_072 },
      files: [{ path: 'tokenizer.json', cid: CID, size: 7 }], generation: { temperature: 0.7 }, author: A,
    },
  },
  'served model': {
    protocol: 'services', schema: servedModel,
    value: {
      service: 'tiny', modelURI: 'tiny:1.0.0-stable', model: CID, stages: [{ block: 'tiny-s0', first: 0, end: 1, componentURI: 'llm.tiny-l0-1:1.0.0-stable', component: CID }],
      contextTokens: 512, sessions: 4, standbys: 1, owner: A, revision: 0,
    },
  },
  'image': { protocol: 'images', schema: imageRecord, value: { repository: 'team/app', digest: DIGEST, mediaType: 'application/vnd.oci.image.manifest.v1+json', manifest: { cid: CID, size: 9 }, blobs: { [DIGEST]: { cid: CID, size: 5 } }, annotations: {} } },
  'image entry': { protocol: 'images', schema: imageEntry, value: { record: CID, subject: DIGEST } },
  'image tag': { protocol: 'images', schema: imageEntry, value: { digest: DIGEST } },
  'vdag controller': { protocol: 'controllers', schema: vdagController, value: { vdag_controller_id: 'c-1', vdag_uri: 'v:1.0-stable', hosts: [A], config: { replicas: 1 }, search_tags: ['x'], metadata: {} } },
  'quota share': { protocol: '/aios/quota/1', schema: quotaShare.request, value: { quota: 'vdag/v:1.0-stable', transfer: 't-1', want: 50, arrived: ['t-0'] } },
  'quota share answer': { protocol: '/aios/quota/1', schema: quotaShare.response, value: { amount: 25, free: 25 } },
  'stage open': { protocol: '/aios/stage-open/1', schema: stageOpen.request, value: { session: 'gen-ab', epoch: 16_777_220, stage: 1, role: 'standby', block: 'tiny-s1', instance: 'in-a1b2', contractEpoch: 3, reserve: 300, known: 12, prefix: ['00ff'] } },
  'stage open in a trace': { protocol: '/aios/stage-open/1', schema: stageOpen.request, value: { session: 'gen-ab', epoch: 16_777_220, stage: 1, role: 'primary', block: 'tiny-s1', instance: 'in-a1b2', contractEpoch: 3, reserve: 300, known: 12, prefix: [], trace: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' } },
  'stage open with its prompt': { protocol: '/aios/stage-open/1', schema: stageOpen.request, value: { session: 'gen-ab', epoch: 16_777_220, stage: 0, role: 'primary', block: 'tiny-s0', instance: 'in-a1b2', contractEpoch: 3, reserve: 300, known: 2, prefix: [], prompt: Uint8Array.of(7, 0, 0, 0, 1, 2, 0, 0, 9, 0, 0, 0) } },
  'stage open answer': { protocol: '/aios/stage-open/1', schema: stageOpen.response, value: { have: 12, logFrom: 8 } },
  'kept plan': { protocol: 'kept-plan', schema: keptPlan, value: [{ block: 'tiny-s0', first: 0, end: 1, host: A, instance: 'in-a1b2', standby: { host: B, instance: 'in-c3' } }] },
  'generation keep': {
    protocol: '/aios/generation-keep/1', schema: generationKeep.request,
    value: {
      session: 'gen-ab', epoch: 16_777_220, fresh: true, leftMs: 60_000, plan: [], events: Uint8Array.of(),
      request: { model: 'tiny', prompt: [1, 2], maxTokens: 8, sampling: { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, logitBias: {}, seed: 7 }, stop: ['END'], stopTokens: [], ignoreEnd: false, form: { kind: 'json' }, topLogprobs: 2 },
    },
  },
  'generation keep answer': { protocol: '/aios/generation-keep/1', schema: generationKeep.response, value: { origin: A, epoch: 5 } },
  'generation ask': { protocol: '/aios/generation-ask/1', schema: generationAsk.request, value: { session: 'gen-ab', do: 'find' } },
  'generation ask answer': { protocol: '/aios/generation-ask/1', schema: generationAsk.response, value: { known: true, origin: A, epoch: 5, events: 3, ended: false } },
  'metrics pull': { protocol: '/aios/metrics-pull/1', schema: metricsPull.request, value: { node: true, blocks: ['classify'], vdags: false } },
  'metrics pull answer': { protocol: '/aios/metrics-pull/1', schema: metricsPull.response, value: { at: T, node: { nodeId: A, metrics: { resource: { node: { vcpu: { load1m: 0.5 } } } } }, instances: [{ block: 'classify', instance: 'in-a1b2', metrics: { tasks_processed: 3, latency: 0.25 } }], vdags: [{ vdag: 'v:1.0-stable', metrics: { inference_requests_total: 4 } }], left: 0 } },
  'policy rule': { protocol: 'policies', schema: policyRule, value: { policyRuleURI: 'lb:1.0-stable', name: 'lb', version: '1.0', releaseTag: 'stable', description: '', tags: [], code: CID, codeType: 'js_module_v1', settings: {}, parameters: {}, inputSchema: {}, outputSchema: {}, managementCommands: {}, author: A } },
  'policy rule with schemas': { protocol: 'policies', schema: policyRule, value: { policyRuleURI: 'lb:1.0-stable', name: 'lb', version: '1.0', releaseTag: 'stable', description: '', tags: [], code: CID, codeType: 'wasm_v1', settings: {}, parameters: {}, inputSchema: {}, outputSchema: {}, managementCommands: {}, settingsSchema: { api: { type: 'string' } }, parametersSchema: { most: { type: 'integer' } }, metadata: { audience: 'all' }, author: A } },
  'policy executor': { protocol: 'executors', schema: policyExecutor, value: { executorId: 'executor-001', host: A, metadata: { tags: ['amd_64'] }, hardware: {}, resourceEstimator: { policyRuleURI: 'room:1-stable', parameters: {}, settings: {} } } },
  'policy function': { protocol: 'functions', schema: policyFunction, value: { functionId: 'check-ip', policyRuleURI: 'lb:1.0-stable', parameters: { most: 3 }, settings: {}, minReplicas: 1, maxReplicas: 5, targetUtilisation: 0.5, executor: '', nodeSelector: { region: 'eu' }, metadata: {}, tags: ['network'], replicas: [{ replica: 'fr-ab', host: A }] } },
  'policy graph': { protocol: 'graphs', schema: policyGraph, value: { graphURI: 'risk:1-stable', name: 'risk', version: '1', releaseTag: 'stable', functionIds: ['a', 'b'], connections: { a: ['b'] }, searchTags: ['ip'], description: '', metadata: {}, inputSchema: { ip: { type: 'string' } }, outputSchema: {}, author: A } },
  'policy execution': { protocol: '/aios/policy/1', schema: policyExecute.request, value: { policy: 'lb:1.0-stable', parameters: { most: 3 }, settings: { get_metrics: { load: 1 } }, input: { ip: '10.0.0.1' } } },
  'policy execution answer': { protocol: '/aios/policy/1', schema: policyExecute.response, value: { value: { allowed: true }, fuel: 2 } },
  'policy job body': { protocol: 'policy-job', schema: policyJobBody, value: { id: 'job-ab', name: 'nightly', policy: 'lb:1.0-stable', parameters: {}, input: { ip: '10.0.0.1' }, nodeSelector: {}, executor: 'executor-001', submittedAt: T } },
  'policy result body': { protocol: 'policy-result', schema: policyResultBody, value: { job: 'job-ab', epoch: 2, status: 'completed', output: { allowed: true }, startedAt: T, endedAt: T + 5 } },
  'policy job': { protocol: '/aios/policy-job/1', schema: policyJob.request, value: { do: 'keep', state: { job: seal('policy-job'), executor: A, epoch: 2, result: seal('policy-result') } } },
  'policy job answer': { protocol: '/aios/policy-job/1', schema: policyJob.response, value: { known: { job: seal('policy-job'), executor: A, epoch: 2 } } },
  'policy call': { protocol: '/aios/policy-function/1', schema: policyCall.request, value: { do: 'call', function: 'check-ip', replica: 'fr-ab', input: { ip: '10.0.0.1' } } },
  'policy call answer': { protocol: '/aios/policy-function/1', schema: policyCall.response, value: { value: 1, replicas: [{ replica: 'fr-ab', calls: 4, failures: 1, busy: 0.25 }], lines: ['1 fr-ab started'] } },
  'policy function that moved': { protocol: 'functions', schema: policyFunction, value: { functionId: 'f', policyRuleURI: 'lb:1.0-stable', parameters: {}, settings: {}, minReplicas: 1, maxReplicas: 1, executor: '', nodeSelector: {}, metadata: {}, tags: [], replicas: [{ replica: 'fr-ab', host: B, epoch: 2 }], stateless: true } },
  'function state body': { protocol: 'function-state', schema: functionStateBody, value: { function: 'f', replica: 'fr-ab', epoch: 2, version: 9, state: Uint8Array.of(1, 2) } },
  'function state': { protocol: '/aios/function-state/1', schema: functionState.request, value: { do: 'keep', state: seal('function-state') } },
  'function state answer': { protocol: '/aios/function-state/1', schema: functionState.response, value: { state: seal('function-state') } },
  'asset': { protocol: 'assets', schema: assetRecord, value: { assetURI: 'w:1.0-stable', name: 'w', version: '1.0', releaseTag: 'stable', content: CID, size: 5, mediaType: 'text/plain', metadata: {}, tags: [], author: A } },
  'stored spec': { protocol: 'specs', schema: storedSpec, value: { specURI: 's:1.0-stable', specType: 'block', name: 's', version: '1.0', releaseTag: 'stable', description: '', metadata: { team: 'x' }, tags: ['a'], data: { blockComponentURI: 'model.c:1.0.0-stable' }, author: A } },
  'stored template': { protocol: 'templates', schema: storedTemplate, value: { templateURI: 't:1.0-stable', name: 't', version: '1.0', releaseTag: 'stable', description: '', metadata: {}, tags: [], data: { size: { type: 'number' } }, policyRuleURI: 'p:1.0-stable', author: A } },
  'annotation': { protocol: 'annotations', schema: annotation, value: { fields: { tags: ['old'] } } },
  'review': { protocol: 'reviews', schema: reviewRecord, value: { id: 'review-ab', vdag: 'v:1.0-stable', at: T, request: { n: 1 }, response: null, opinion: { review: true }, whole: CID, peer: A, decided: 'approved', decidedBy: B, decidedAt: T + 5 } },
  'key claim body': { protocol: 'key-claim', schema: keyClaimBody, value: { key: 'ab'.repeat(16), holder: A, epoch: 1, what: 'task-1', issuedAt: T } },
  'key claim': { protocol: '/aios/key-claim/1', schema: keyClaim.request, value: { do: 'claim', claim: seal('key-claim') } },
  'key claim answer': { protocol: '/aios/key-claim/1', schema: keyClaim.response, value: { granted: false, held: { holder: B, epoch: 2, what: 'task-2' } } },
  'task': { protocol: 'tasks', schema: taskRecord, value: { task_id: 'task-1', task_type: 'block_allocation', action: 'createBlock', task_status: 'in_progress', task_create_timestamp: T, task_update_timestamp: T, task_status_data: null, task_data: { blockId: 'b' }, progress: { done: 1, total: 2, what: 'registered' }, owner: A, input: CID, subject: 'block b', key: 'k', replays: 'task-0' } },
}
