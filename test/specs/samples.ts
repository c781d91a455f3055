import type { JsonObject } from '../../src/specs/document.ts'

/** Specs in AIOS's shape, written for these tests, and the ways AIOS's documents wrap and spell them. */
export const AUTHOR = '12D3KooWAuthorAuthorAuthor'
export const CID = 'bafyreigaknpexyvxt76zgkitavbwx6ejgfheup5oybpm77f3pxzrvwpfdi'

export const componentValues: JsonObject = {
  componentId: { name: 'leaf-detector', version: '2.0.0', releaseTag: 'stable' },
  componentType: 'model',
  containerRegistryInfo: { containerImage: 'registry.example/leaf:2.0.0', containerRegistryId: 'example', containerImageMetadata: { author: 'plants' }, componentMode: 'aios' },
  componentMetadata: { usecase: 'leaf detection' },
  componentInitData: { weights: 'leaf.onnx' },
  componentInputProtocol: { roi: { type: 'object', description: 'where to look', properties: { x: { type: 'number', min: 0 }, y: { type: 'number', min: 0 } }, required: ['x', 'y'] } },
  componentOutputProtocol: { leaves: { type: 'array', items: { type: 'object', properties: { class: { type: 'string' }, box: { type: 'array', max_length: 4, items: { type: 'number' } } } } }, took_ms: { type: 'number' } },
  componentInitSettingsProtocol: { batch: { type: 'number', min: 1, max: 32 } },
  componentInitParametersProtocol: { threshold: { type: 'number', min: 0, max: 1 }, top: { type: 'number', min: 1, max: 50 } },
  componentInitSettings: { batch: 4 },
  componentParameters: { threshold: 0.4, top: 10 },
  componentManagementCommandsTemplate: { reload: { description: 'read the weights again', args: { path: { type: 'string', required: true } } } },
  policies: { loadBalancer: { policyRuleURI: 'round:1.0-stable', parameters: { sticky: true }, settings: {} } },
  tags: ['vision', 'leaves'],
}

export const blockValues: JsonObject = {
  blockId: 'leaf-88',
  blockComponentURI: 'model.leaf-detector:2.0.0-stable',
  minInstances: 1,
  maxInstances: 5,
  policyRulesSpec: [
    { values: { name: 'autoscaler', policyRuleURI: 'grow:1.0-stable', parameters: { target: 0.7 }, settings: { intervalSeconds: 30 }, executionMode: 'local' } },
  ],
}

const nodes: readonly JsonObject[] = [
  { nodeLabel: 'detect', nodeType: 'block', manualBlockId: 'leaf-88', modelParameters: { iou: 0.3 } },
  { nodeLabel: 'track', nodeType: 'block', assignmentPolicyRule: { policyRuleURI: 'nearest:1.0-stable', parameters: { most: 3 }, settings: {} } },
]

export const vdagValues: JsonObject = {
  vdagName: 'leaf-tracker',
  vdagVersion: { version: '0.0.1', 'release-tag': 'stable' },
  discoveryTags: ['leaves'],
  controller: { initSettings: { replicas: 2 }, inputSources: [{ enabled: true, sourceType: 'adhoc', sourceConfig: { quotaCheckerPolicyRule: { policyRuleURI: 'quota:1-stable', parameters: {}, settings: {} } } }] },
  nodes,
  graph: { connections: [{ nodeLabel: 'track', inputs: [{ nodeLabel: 'detect', outputNames: ['leaves'] }] }], inputs: [{ nodeLabel: 'detect' }], outputs: [{ nodeLabel: 'track' }] },
}

const head = { templateUri: 'Parser/V1', parameters: {} }

/** Every envelope AIOS's documents and samples use. */
export const envelopes: Readonly<Record<string, (values: JsonObject) => JsonObject>> = {
  'header and body.spec.values': values => ({ header: head, body: { spec: { values } } }),
  'head in place of header': values => ({ head, body: { spec: { values } } }),
  'parser_version and body.header.uid': values => ({ parser_version: 'Parser/V1', body: { header: { uid: { id: 'x', version: 'v1', releaseTag: 'stable' } }, spec: { '@templateType': 'template.any:v1', values } } }),
  'no header at all': values => ({ body: { spec: { values } } }),
  'body.values without spec': values => ({ body: { values } }),
  'body.spec without values': values => ({ body: { spec: values } }),
  'spec.values without body': values => ({ spec: { values } }),
  'the bare spec': values => values,
}

export function withValues(values: JsonObject, changes: JsonObject): JsonObject {
  return { ...values, ...changes }
}

/** AIOS's samples wrap policies, nodes and controllers so. */
export function wrapped(values: JsonObject): JsonObject {
  return { '@templateType': 'template.generic:v1', values }
}

/** The vDAG as AIOS's code wants it: nodes in `spec.values` with an IOMap, `input` and `output`, wrapped policies. */
export const nestedVdagValues: JsonObject = {
  ...vdagValues,
  controller: { initSettings: { replicas: 2 }, inputSources: [{ enabled: true, sourceType: 'adhoc', sourceConfig: { quotaCheckerPolicyRule: wrapped({ policyRuleURI: 'quota:1-stable', parameters: {}, settings: {} }) } }] },
  nodes: [
    { spec: wrapped({ ...nodes[0]!, assignmentPolicyRule: { assignmentType: 'automatic', assignmentPolicyRule: { '@templateType': '', value: { assignmentPolicyRule: { policyRuleURI: '', settings: {}, parameters: {} } } } }, preprocessingPolicyRule: wrapped({ executionMode: 'local', policyRuleURI: '', settings: {}, parameters: {} }), inputProtocol: { input_0: 'schemas.object.xyxy' } }), IOMap: [{ inputs: [{ name: 'input_0', reference: 'input_0' }], outputs: [] }] },
    { spec: { values: { ...nodes[1]!, assignmentPolicyRule: { assignmentType: 'automatic', assignmentPolicyRule: wrapped({ policyRuleURI: 'nearest:1.0-stable', parameters: { most: 3 }, settings: {}, executionMode: 'central' }) } } }, IOMap: [] },
  ],
  graph: { connections: [{ nodeLabel: 'track', inputs: [{ nodeLabel: 'detect', outputNames: ['leaves'] }] }], input: [{ nodeLabel: 'detect', inputNames: ['input_0'] }], output: [{ nodeLabel: 'track', outputNames: ['output_0'] }] },
}
