import { z } from 'zod'
import { blockId, cid, json, peerId } from './ids.ts'
import { needs } from './resources.ts'

/**
 * The one form of every document people write. `src/specs` turns AIOS's dialects into these; nothing else in the
 * system sees a dialect. Names are AIOS's own, in camelCase.
 */
const name = z.string().min(1).max(200)
export const uri = z.string().min(1).max(300)

/** A policy as a spec refers to it. */
export const policyRef = z.object({
  policyRuleURI: uri,
  parameters: z.record(z.string(), json).default({}),
  settings: z.record(z.string(), json).default({}),
})
export type PolicyRef = z.infer<typeof policyRef>
export const policyRefs = z.record(z.string().max(100), policyRef)

/** Field name → protocol template (AIOS's little schema language, normalised by `src/specs/template.ts`). */
export const template = z.record(z.string().max(200), json)
export type Template = z.infer<typeof template>

export const runtimeName = z.enum(['onnx', 'tfjs', 'node', 'llm', 'container', 'external'])
export type RuntimeName = z.infer<typeof runtimeName>

/** How a component runs. `entry`/`model` are paths inside the bundle. */
export const componentRuntime = z.object({
  name: runtimeName,
  entry: z.string().max(300).optional(),
  model: z.string().max(300).optional(),
  /** onnx | graph-model | layers-model | saved-model */
  format: z.enum(['onnx', 'graph-model', 'layers-model', 'saved-model']).optional(),
})

/** A path inside a bundle, which a host writes to its own disk: relative, "/" between parts, nothing that leads out or means a device. */
// oxlint-disable-next-line no-control-regex
export const bundlePath = z.string().min(1).max(300).refine(path => !/[\u0000-\u001f\u007f\\:]/.test(path) && path.isWellFormed() && path.split('/').every(part => part !== '' && part !== '.' && part !== '..' && part.length <= 255), 'is not a path inside a bundle')
export const bundleFile = z.object({ path: bundlePath, cid, size: z.int().nonnegative() })
export type BundleFile = z.infer<typeof bundleFile>

/** A published component, as the DAG-CBOR block its URI names. */
export const componentManifest = z.object({
  componentURI: uri,
  componentId: z.object({ name, version: name, releaseTag: name }),
  componentType: name,
  runtime: componentRuntime,
  files: z.array(bundleFile).max(10_000),
  needs,
  containerRegistryInfo: z.record(z.string(), json).default({}),
  componentMetadata: z.record(z.string(), json).default({}),
  componentInitData: z.record(z.string(), json).default({}),
  componentInitSettings: z.record(z.string(), json).default({}),
  componentParameters: z.record(z.string(), json).default({}),
  componentInputProtocol: template.default({}),
  componentOutputProtocol: template.default({}),
  componentInitSettingsProtocol: template.default({}),
  componentInitParametersProtocol: template.default({}),
  componentManagementCommandsTemplate: z.record(z.string(), json).default({}),
  policies: policyRefs.default({}),
  tags: z.array(z.string().max(100)).max(200).default([]),
  author: peerId,
})
export type ComponentManifest = z.infer<typeof componentManifest>

/** A block: desired state. Component defaults are already inherited, so hosts need nothing but this and the bundle. */
export const blockRecord = z.object({
  blockId,
  componentURI: uri,
  /** CID of the component manifest the block was created from: pinned, so every instance runs the same bytes. */
  component: cid,
  runtime: componentRuntime,
  minInstances: z.int().min(0).max(1_000),
  maxInstances: z.int().min(0).max(1_000),
  needs,
  labels: z.record(z.string(), z.string()).default({}),
  initData: z.record(z.string(), json).default({}),
  initSettings: z.record(z.string(), json).default({}),
  parameters: z.record(z.string(), json).default({}),
  /** Parameters changed while it runs, laid over `parameters`: instances are told, not replaced, and new ones start with them. */
  updates: z.record(z.string(), json).optional(),
  /** False: its answers are not to be streamed. */
  streaming: z.boolean().optional(),
  inputProtocol: template.default({}),
  outputProtocol: template.default({}),
  policies: policyRefs.default({}),
  tags: z.array(z.string()).default([]),
  owner: peerId,
  /** Raised by each change of desired state. */
  revision: z.int().nonnegative(),
})
export type BlockRecord = z.infer<typeof blockRecord>

export const vdagNode = z.object({
  label: z.string().min(1).max(200),
  type: z.enum(['block', 'vdag']),
  vdagURI: uri.optional(),
  blockId: blockId.optional(),
  /** Assign by component when neither a block nor a policy is named. */
  componentURI: uri.optional(),
  assignmentPolicyRule: policyRef.optional(),
  preprocessingPolicyRule: policyRef.optional(),
  postprocessingPolicyRule: policyRef.optional(),
  modelParameters: z.record(z.string(), json).default({}),
  inputProtocol: template.optional(),
  outputProtocol: template.optional(),
  /** Labels of alternatives tried in order when the node fails for good. */
  fallbacks: z.array(z.string().max(200)).default([]),
})
export type VdagNode = z.infer<typeof vdagNode>

export const vdagEdge = z.object({
  from: z.string(),
  to: z.string(),
  outputNames: z.array(z.string()).default([]),
  /** Protocol converter run on this edge. */
  converter: policyRef.optional(),
})
export type VdagEdge = z.infer<typeof vdagEdge>

export const vdagSpec = z.object({
  vdagURI: uri,
  vdagName: name,
  vdagVersion: z.object({ version: name, releaseTag: name }),
  discoveryTags: z.array(z.string()).default([]),
  nodes: z.array(vdagNode).min(1).max(1_000),
  edges: z.array(vdagEdge).max(10_000),
  /** Entry labels in order; derived (no in-edges) when the author names none. */
  inputs: z.array(z.string()),
  outputs: z.array(z.string()),
  controller: z.record(z.string(), json).default({}),
  author: peerId.optional(),
})
export type VdagSpec = z.infer<typeof vdagSpec>

/** A published policy rule: metadata plus its bundled JavaScript module. */
export const policyRule = z.object({
  policyRuleURI: uri,
  name,
  version: name,
  releaseTag: name,
  description: z.string().max(2_000).default(''),
  tags: z.array(z.string()).default([]),
  /** CID of the UTF-8 source (one bundled ES module or AIOS-style class script), or of a WebAssembly module. */
  code: cid,
  codeType: z.enum(['js_module_v1', 'wasm_v1']),
  settings: z.record(z.string(), json).default({}),
  parameters: z.record(z.string(), json).default({}),
  inputSchema: template.default({}),
  outputSchema: template.default({}),
  managementCommands: z.record(z.string(), json).default({}),
  /** Optional, so that what was published before they were known keeps its CID. */
  settingsSchema: template.optional(),
  parametersSchema: template.optional(),
  metadata: z.record(z.string(), json).optional(),
  functionalityData: z.record(z.string(), json).optional(),
  resourceEstimates: z.record(z.string(), json).optional(),
  author: peerId,
})
export type PolicyRule = z.infer<typeof policyRule>

export const assetRecord = z.object({
  assetURI: uri,
  name,
  version: name,
  releaseTag: name,
  content: cid,
  size: z.int().nonnegative(),
  mediaType: z.string().max(200).default('application/octet-stream'),
  metadata: z.record(z.string(), json).default({}),
  tags: z.array(z.string()).default([]),
  author: peerId,
})
export type AssetRecord = z.infer<typeof assetRecord>
