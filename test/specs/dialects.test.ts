import assert from 'node:assert/strict'
import { MeshError } from '../../protocols/errors.ts'
import type { ComponentManifest } from '../../protocols/specs.ts'
import { parseAsset } from '../../src/specs/asset.ts'
import { blockComponentUri, blockMode, parseBlock } from '../../src/specs/block.ts'
import { parseComponent } from '../../src/specs/component.ts'
import type { JsonObject } from '../../src/specs/document.ts'
import { unwrap } from '../../src/specs/envelope.ts'
import { parsePolicyRule } from '../../src/specs/policy.ts'
import { parseVdag, vdagMode } from '../../src/specs/vdag.ts'
import { AUTHOR, blockValues, CID, componentValues, envelopes, nestedVdagValues, vdagValues, wrapped } from './samples.ts'

const component = (values: unknown, files?: readonly string[]) => parseComponent(values, { author: AUTHOR, ...(files === undefined ? {} : { files }) })
const manifest: ComponentManifest = { ...component(componentValues), files: [] }
const block = (values: unknown, of: ComponentManifest = manifest) => parseBlock(values, { manifest: of, cid: CID }, { owner: AUTHOR, newId: () => 'a1b2c3d4' })

/** The SPEC_INVALID that `run` throws. */
function refusal(run: () => unknown): MeshError {
  try {
    run()
  } catch (error) {
    assert.ok(error instanceof MeshError && error.code === 'SPEC_INVALID', String(error))
    return error
  }
  return assert.fail('nothing was refused')
}

describe('specs: envelopes', () => {
  for (const [name, wrap] of Object.entries(envelopes)) {
    it(`${name}: component, block and vDAG come out the same`, () => {
      assert.deepEqual(component(wrap(componentValues)), component(componentValues))
      assert.deepEqual(block(wrap(blockValues)), block(blockValues))
      assert.deepEqual(parseVdag(wrap(vdagValues)), parseVdag(vdagValues))
    })
  }

  it('a template of the author is named, with its parameters', () => {
    const { templateUri, parameters, values } = unwrap({ header: { templateUri: 'shop/blocks:1.0-stable', parameters: { size: 2 } }, body: { spec: { values: { a: 1 } } } })
    assert.deepEqual({ templateUri, parameters, values }, { templateUri: 'shop/blocks:1.0-stable', parameters: { size: 2 }, values: { a: 1 } })
    assert.equal(unwrap({ a: 1 }).templateUri, 'Parser/V1')
    for (const parse of [component, block, (document: unknown) => parseVdag(document)]) assert.match(refusal(() => parse({ header: { templateUri: 'shop/blocks:1.0-stable' }, body: { spec: { values: {} } } })).message, /header\.templateUri.*"shop\/blocks:1\.0-stable".*Parser\/V1/)
  })

  it('JSON text is what it says, whole or within its envelope', () => {
    for (const document of [JSON.stringify(blockValues), { body: JSON.stringify({ spec: { values: blockValues } }) }, { body: { spec: JSON.stringify({ values: blockValues }) } }, JSON.stringify({ header: JSON.stringify({ templateUri: 'Parser/V1' }), body: { spec: { values: JSON.stringify(blockValues) } } })]) assert.deepEqual(block(document), block(blockValues))
    for (const text of ['', 'x', '{', '[1]', '"x"']) assert.match(refusal(() => block(text)).message, /is not a JSON object/)
  })

  it('field names are read in snake_case, kebab-case and camelCase', () => {
    const respelt = (mark: string, values: JsonObject): JsonObject => Object.fromEntries(Object.entries(values).map(([key, value]) => [key.replaceAll(/(?<=[a-z])[A-Z]+/g, letters => `${mark}${letters.toLowerCase()}`), value]))
    for (const mark of ['_', '-']) {
      assert.deepEqual(component({ ...respelt(mark, componentValues), component_id: respelt(mark, componentValues['componentId'] as JsonObject) }), component(componentValues))
      assert.deepEqual(block(respelt(mark, blockValues)), block(blockValues))
      const nodes = (vdagValues['nodes'] as readonly JsonObject[]).map(node => respelt(mark, node))
      assert.deepEqual(parseVdag({ ...respelt(mark, vdagValues), nodes }), parseVdag(vdagValues))
    }
  })

  it('a field there is not is refused with what it says and the field that was meant, remarks aside', () => {
    const cases: readonly (readonly [() => unknown, RegExp])[] = [
      [() => component({ ...componentValues, componentParamters: {} }), /componentParamters: there is no such field.*did you mean "componentParameters"/],
      [() => component({ ...componentValues, componentId: { ...componentValues['componentId'] as JsonObject, verison: '3' } }), /componentId\.verison.*"3".*did you mean "version"/],
      [() => block({ ...blockValues, minInstnaces: 7 }), /minInstnaces: there is no such field \(it says 7\); did you mean "minInstances"/],
      [() => block({ ...blockValues, colour: 'red' }), /colour: there is no such field \(it says "red"\); the fields are .*minInstances/],
      [() => parseVdag({ ...vdagValues, nodes: [{ nodeLabel: 'detect', manualBlockId: 'leaf-88', postprocessingPolicyRule: { code: 'x' } }], graph: {} }), /node "detect"\.postprocessingPolicyRule: an object with code .*policyRuleURI.*aios policy publish/],
      [() => parseVdag({ ...vdagValues, node: [] }), /node: there is no such field.*did you mean "nodes"/],
      [() => parseVdag({ ...vdagValues, nodes: [{ nodeLabel: 'detect', manualBlockIds: 'leaf-88' }], graph: {} }), /node "detect"\.manualBlockIds.*did you mean "manualBlockId"/],
      [() => parseVdag({ ...vdagValues, graph: { ...vdagValues['graph'] as JsonObject, conections: [] } }), /graph\.conections.*did you mean "connections"/],
    ]
    for (const [parse, message] of cases) assert.match(refusal(parse).message, message)
    const remarks = { description: 'mine', metadata: { a: 1 }, _note: 'x', $schema: 'y', 'x-team': 'z', createdAt: 1, unset: null }
    assert.deepEqual(component({ ...componentValues, ...remarks }), component(componentValues))
    assert.deepEqual(block({ ...blockValues, ...remarks }), block(blockValues))
    assert.deepEqual(parseVdag({ ...vdagValues, ...remarks }), parseVdag(vdagValues))
  })
})

describe('specs: one thing said twice', () => {
  const cases: readonly (readonly [string, () => unknown, RegExp])[] = [
    ['blockId and block_id', () => block({ ...blockValues, blockId: 'one', block_id: 'two' }), /^block spec: blockId: "one" here and "two" as block_id, .*keep one of them$/],
    ['blockId and id', () => block({ ...blockValues, blockId: 'one', id: 'two' }), /blockId: "one" here and "two" as id/],
    ['minInstances and min_instances', () => block({ ...blockValues, minInstances: 1, min_instances: 2 }), /minInstances: 1 here and 2 as min_instances/],
    ['two spellings, neither of them the name', () => block({ ...blockValues, blockId: null, block_id: 'one', 'block-id': 'two' }), /block_id: "one" here and "two" as block-id/],
    ['two names of the component', () => blockComponentUri({ blockComponentURI: 'node.a:1-x', componentUri: 'node.b:1-x' }), /blockComponentURI: "node\.a:1-x" here and "node\.b:1-x" as componentUri/],
    ['mode and api_mode', () => blockMode({ mode: 'allocate', api_mode: 'dry_run' }), /mode: "allocate" here and "dry_run" as api_mode/],
    ['a vDAG’s mode and apiMode', () => vdagMode({ mode: 'create', apiMode: 'validate' }), /mode: "create" here and "validate" as apiMode/],
    ['a node’s manualBlockId and blockId', () => parseVdag({ ...vdagValues, nodes: [{ nodeLabel: 'a', manualBlockId: 'one', blockId: 'two' }], graph: {} }), /node "a"\.manualBlockId: "one" here and "two" as blockId/],
    ['the rule of a policy', () => block({ ...blockValues, policyRulesSpec: { loadBalancer: { policyRuleURI: 'a:1-x', policy_rule_uri: 'b:1-x' } } }), /policyRulesSpec\.loadBalancer\.policyRuleURI: "a:1-x" here and "b:1-x" as policy_rule_uri/],
    ['a policy', () => block({ ...blockValues, policyRulesSpec: { loadBalancer: 'a:1-x', load_balancer: 'b:1-x' } }), /policyRulesSpec\.loadBalancer: "a:1-x" here and "b:1-x" as load_balancer/],
    ['a policy in a list', () => block({ ...blockValues, policyRulesSpec: [{ name: 'loadBalancer', policyRuleURI: 'a:1-x' }, { name: 'load_balancer', policyRuleURI: 'b:1-x' }] }), /policyRulesSpec\[1\]\.policyRuleURI: "b:1-x".*loadBalancer is "a:1-x" by an earlier item/],
  ]
  for (const [what, parse, message] of cases) {
    it(`${what}: refused when they differ, once, with both values`, () => {
      const { message: said, details } = refusal(parse)
      assert.match(said, message)
      assert.equal(Object(details).problems, 1, said)
    })
  }

  it('is well when it is the same', () => {
    assert.deepEqual(block({ ...blockValues, block_id: blockValues['blockId'], id: blockValues['blockId'], min_instances: String(blockValues['minInstances']), policy_rules_spec: blockValues['policyRulesSpec'] }), block(blockValues))
  })

  it('the rule of a policy is a name, and nothing else', () => {
    for (const policyRuleURI of [7, true, {}, ['a:1-x']]) assert.match(refusal(() => block({ ...blockValues, policyRulesSpec: { loadBalancer: { policyRuleURI } } })).message, /policyRulesSpec\.loadBalancer\.policyRuleURI: .*give /)
    assert.match(refusal(() => parseVdag({ ...vdagValues, nodes: [{ nodeLabel: 'a', manualBlockId: 'one', assignmentPolicyRule: { policyRuleURI: 7 } }], graph: {} })).message, /node "a"\.assignmentPolicyRule\.policyRuleURI: 7 is not usable here; give the name of a published rule/)
  })
})

describe('specs: component', () => {
  it('keeps every field under its one name', () => {
    const parsed = component(componentValues)
    assert.equal(parsed.componentURI, 'model.leaf-detector:2.0.0-stable')
    assert.deepEqual(parsed.componentId, { name: 'leaf-detector', version: '2.0.0', releaseTag: 'stable' })
    assert.deepEqual(parsed.policies, { loadBalancer: { policyRuleURI: 'round:1.0-stable', parameters: { sticky: true }, settings: {} } })
    assert.deepEqual(parsed.componentInputProtocol['roi'], { type: 'object', description: 'where to look', properties: { x: { type: 'number', min: 0, required: true }, y: { type: 'number', min: 0, required: true } } })
    assert.deepEqual(parsed.runtime, { name: 'container' })
    assert.equal(parsed.author, AUTHOR)
  })

  for (const tag of ['releaseTag', 'release-tag', 'release_tag', 'release']) {
    it(`takes the release tag as ${tag}`, () => {
      assert.deepEqual(component({ ...componentValues, componentId: { name: 'leaf-detector', version: '2.0.0', [tag]: 'stable' } }), component(componentValues))
    })
  }

  for (const mode of ['third_party', 'third-party', 'thirdParty']) {
    it(`takes componentMode as ${mode}, and runs it externally`, () => {
      const parsed = component({ ...componentValues, containerRegistryInfo: { containerImage: 'vllm:1', componentMode: mode } })
      assert.equal(parsed.containerRegistryInfo['componentMode'], 'third_party')
      assert.deepEqual(parsed.runtime, { name: 'external' })
    })
  }

  const rule = { policyRuleURI: 'round:1.0-stable', parameters: { sticky: true }, settings: {} }
  const policyForms: Readonly<Record<string, JsonObject>> = {
    'wrapped in values': { policies: { loadBalancer: { values: rule } } },
    'wrapped with @templateType': { policies: { loadBalancer: wrapped({ ...rule, executionMode: 'local' }) } },
    'a policyRulesSpec list': { policies: null, policyRulesSpec: [{ values: { name: 'loadBalancer', ...rule } }] },
    'a flat list': { policies: [{ name: 'loadBalancer', ...rule }] },
  }
  for (const [name, change] of Object.entries(policyForms)) {
    it(`takes policies as ${name}`, () => assert.deepEqual(component({ ...componentValues, ...change }), component(componentValues)))
  }

  it('keeps an affinity hint among the policies without taking it for a rule', () => {
    const parsed = component({ ...componentValues, policies: { resource_affinity: { nodeType: 'gpu', minMemory: '4GB' } } })
    assert.deepEqual(parsed.policies, {})
    assert.deepEqual(parsed.componentMetadata['policyHints'], { resource_affinity: { nodeType: 'gpu', minMemory: '4GB' } })
  })

  const runtimes: readonly (readonly [readonly string[], JsonObject, unknown])[] = [
    [['index.ts', 'words.json'], {}, { name: 'node', entry: 'index.ts' }],
    [['index.js'], {}, { name: 'node', entry: 'index.js' }],
    [['index.ts', 'model.onnx'], {}, { name: 'node', entry: 'index.ts' }],
    [['leaf.onnx', 'README.md'], {}, { name: 'onnx', model: 'leaf.onnx', format: 'onnx' }],
    [['model.json', 'weights.bin'], {}, { name: 'tfjs', model: 'model.json' }],
    [['saved/saved_model.pb'], {}, { name: 'tfjs', model: 'saved/saved_model.pb', format: 'saved-model' }],
    [['index.ts', 'a.onnx', 'b.onnx'], { runtime: { name: 'onnx', model: 'b.onnx' } }, { name: 'onnx', model: 'b.onnx', format: 'onnx' }],
    [['a.onnx'], { runtime: 'onnx' }, { name: 'onnx', model: 'a.onnx', format: 'onnx' }],
    [['start.mjs'], { runtime: { entry: './start.mjs' } }, { name: 'node', entry: 'start.mjs' }],
  ]
  for (const [files, change, expected] of runtimes) {
    it(`runs ${files.join(' + ')}${'runtime' in change ? ` with ${JSON.stringify(change)}` : ''} as ${JSON.stringify(expected)}`, () => {
      const { containerRegistryInfo: _, ...rest } = componentValues
      assert.deepEqual(component({ ...rest, ...change }, files).runtime, expected)
    })
  }

  it('says what to add when nothing tells how to run it', () => {
    const { containerRegistryInfo: _, ...rest } = componentValues
    assert.match(refusal(() => component(rest, ['README.md'])).message, /runtime: cannot tell how to run.*index\.ts.*README\.md/)
  })

  it('refuses paths that leave the bundle and files that are not there', () => {
    for (const model of ['../secret.onnx', '/etc/passwd', 'a//b.onnx', 'a\\b.onnx']) assert.match(refusal(() => component({ ...componentValues, runtime: { name: 'onnx', model } })).message, /runtime\.model: .*inside the component/)
    assert.match(refusal(() => component({ ...componentValues, runtime: { name: 'onnx', model: 'b.onnx' } }, ['a.onnx'])).message, /"b\.onnx".*no such file.*a\.onnx/)
  })

  it('reads needs as people write them', () => {
    assert.deepEqual(component({ ...componentValues, resources: { cpu: '250m', memory: '512Mi', gpus: 1, gpuMemory: '4GB', disk: '1Gi' } }).needs, { cpuMilli: 250, memoryMb: 512, diskMb: 1_024, gpus: 1, gpuMemoryMb: 4_096 })
    assert.deepEqual(component({ ...componentValues, resources: { cpu: 1.5, memory: 300 } }).needs, { cpuMilli: 1_500, memoryMb: 300, diskMb: 0, gpus: 0, gpuMemoryMb: 0 })
    assert.match(refusal(() => component({ ...componentValues, resources: { memory: 'lots' } })).message, /resources\.memory: "lots" is not a size/)
  })

  it('names every bad field with its value and a fix, and counts the rest', () => {
    const error = refusal(() => component({ componentId: { name: 'a b', version: {} }, componentType: 'x.y', tags: 7, componentInitData: [], componentInputProtocol: { a: { type: 'strnig' } }, policies: 3 }))
    assert.match(error.message, /componentId\.name: "a b" .*letters/)
    assert.match(error.message, /componentId\.releaseTag: missing; give one, for example "stable"/)
    assert.match(error.message, /componentType: "x\.y"/)
    assert.match(error.message, /and \d+ more$/)
    assert.ok(Number(error.details['problems']) >= 7)
  })

  it('refuses a componentURI that its own parts contradict', () => {
    assert.match(refusal(() => component({ ...componentValues, componentURI: 'model.other:1-x' })).message, /make model\.leaf-detector:2\.0\.0-stable/)
    component({ ...componentValues, componentURI: 'model.leaf-detector:2.0.0-stable' })
  })
})

describe('specs: block', () => {
  it('inherits what it does not say, whole, and overrides policies by name', () => {
    const parsed = block({ ...blockValues, parameters: { threshold: 0.9 }, policyRulesSpec: [{ values: { name: 'loadBalancer', policyRuleURI: 'mine:1-x' } }] })
    assert.deepEqual(parsed.initData, { weights: 'leaf.onnx' })
    assert.deepEqual(parsed.initSettings, { batch: 4 })
    assert.deepEqual(parsed.parameters, { threshold: 0.9 }, 'replaced whole, not merged')
    assert.deepEqual(parsed.policies, { loadBalancer: { policyRuleURI: 'mine:1-x', parameters: {}, settings: {} } })
    assert.deepEqual([parsed.component, parsed.componentURI, parsed.owner, parsed.revision], [CID, 'model.leaf-detector:2.0.0-stable', AUTHOR, 0])
    assert.deepEqual(Object.keys(block(blockValues).policies).sort(), ['autoscaler', 'loadBalancer'])
  })

  it('allocates unless told otherwise, by any spelling', () => {
    assert.equal(blockMode(blockValues), 'allocate')
    for (const [name, value, mode] of [['mode', 'allocate', 'allocate'], ['apiMode', 'allocate', 'allocate'], ['api_mode', 'dry_run', 'dry_run'], ['mode', 'dryRun', 'dry_run'], ['mode', 'dry-run', 'dry_run'], ['mode', 'select_clusters', 'select_clusters'], ['mode', 'selectClusters', 'select_clusters']] as const) {
      assert.equal(blockMode({ ...blockValues, [name]: value }), mode, value)
    }
    assert.match(refusal(() => blockMode({ ...blockValues, mode: 'maybe' })).message, /mode: "maybe".*allocate, dry_run, select_clusters/)
  })

  it('makes an id when there is none, and explains a bad one', () => {
    const { blockId: _, ...rest } = blockValues
    assert.equal(block(rest).blockId, 'blk-a1b2c3d4')
    for (const blockId of ['Leaf', 'leaf_1', '-leaf', 'leaf-', 'x'.repeat(254)]) assert.match(refusal(() => block({ ...blockValues, blockId })).message, /blockId: .*lower-case/)
  })

  it('holds 0 <= min <= max and max >= 1, and asks for both', () => {
    assert.deepEqual((({ minInstances, maxInstances }) => [minInstances, maxInstances])(block({ ...blockValues, minInstances: 0, maxInstances: '3' })), [0, 3])
    assert.match(refusal(() => block({ ...blockValues, minInstances: 6 })).message, /minInstances: 6 .*maxInstances \(5\)/)
    for (const [name, value] of [['minInstances', -1], ['maxInstances', 0], ['minInstances', 1.5], ['minInstances', 'two'], ['maxInstances', 1e9]] as const) refusal(() => block({ ...blockValues, [name]: value }))
    const { minInstances: _, maxInstances: __, ...rest } = blockValues
    assert.match(refusal(() => block(rest)).message, /minInstances: missing.*maxInstances: missing/)
    assert.deepEqual((({ minInstances, maxInstances }) => [minInstances, maxInstances])(block({ ...rest, blockInitData: { settings: { autoscaler: { minReplicas: 1, maxReplicas: 4 } } } })), [1, 4])
  })

  it('what a component sets itself is held to its own templates when it is published, not when a block inherits it', () => {
    const said = refusal(() => component({ ...componentValues, componentParameters: { threshold: 0.4, top: '10' } }))
    assert.deepEqual([said.details['field'], /componentParameters\.top: "10" must be a number/.test(said.message)], ['componentParameters.top', true])
    component({ ...componentValues, componentInitParametersProtocol: { threshold: { type: 'number', required: true } }, componentParameters: {} })
  })

  it('fields of AIOS\'s older samples that nothing reads are let pass', () => {
    assert.deepEqual(block({ ...blockValues, enabledCustomMetrics: ['instance.metrics.average_dets'], adhocEnabled: true }), block(blockValues))
  })

  it('holds settings and parameters to the templates of the component', () => {
    assert.equal(refusal(() => block({ ...blockValues, parameters: { threshold: 7 } })).details['field'], 'parameters.threshold')
    assert.match(refusal(() => block({ ...blockValues, parameters: { threshold: 7, top: 'ten' }, initSettings: { batch: 64 } })).message, /initSettings\.batch: 64 must be at most 32; parameters\.threshold: 7 must be at most 1; parameters\.top: "ten" must be a number/)
    block({ ...blockValues, parameters: { threshold: 0.5, extra: 'fields the template does not name pass' } })
  })

  it('reads the defaults of unnamed rules, and drops empty ones', () => {
    const parsed = block({ ...blockValues, policyRulesSpec: [
      { values: { name: 'clusterAllocator', rankingPolicyRule: 'default', settings: {}, parameters: { filter: { clusterQuery: {} } } } },
      { values: { name: 'stabilityChecker', policyRuleURI: 'default', settings: { interval: 5 } } },
      { values: { name: 'assetsLoader', policyRuleURI: '', settings: {}, parameters: {} } },
    ] })
    assert.deepEqual(parsed.policies['clusterAllocator'], { policyRuleURI: 'default', parameters: { filter: { clusterQuery: {} } }, settings: {} })
    assert.deepEqual(parsed.policies['stabilityChecker'], { policyRuleURI: 'default', parameters: {}, settings: { interval: 5 } })
    assert.equal(parsed.policies['assetsLoader'], undefined)
  })

  it('knows the policies that are asked by any spelling, and keeps names of an author’s own', () => {
    const rule = { policyRuleURI: 'mine:1-x', parameters: {}, settings: {} }
    const kept = (names: readonly string[], as: (names: readonly string[]) => JsonObject): readonly string[] => Object.entries(block({ ...blockValues, ...as(names) }).policies).filter(([, { policyRuleURI }]) => policyRuleURI === 'mine:1-x').map(([name]) => name).sort()
    const spelled = ['load_balancer', 'CLUSTERALLOCATOR', 'stability-checker', 'preProcessing', 'failure_policy', 'loadBalancerMapper', 'My own']
    const known = ['My own', 'clusterAllocator', 'failurePolicy', 'loadBalancer', 'loadBalancerMapper', 'pre_processing', 'stabilityChecker']
    assert.deepEqual(kept(spelled, names => ({ policyRulesSpec: names.map(name => ({ values: { name, ...rule } })) })), known)
    assert.deepEqual(kept(spelled, names => ({ policyRulesSpec: Object.fromEntries(names.map(name => [name, rule])) })), known)
  })

  it('says which component it wants before it is parsed', () => {
    assert.equal(blockComponentUri({ head: {}, body: { spec: { values: blockValues } } }), 'model.leaf-detector:2.0.0-stable')
    assert.match(refusal(() => blockComponentUri({ blockId: 'x' })).message, /blockComponentURI: missing; name the component/)
    assert.match(refusal(() => block({ ...blockValues, blockComponentURI: 'model.other:1-x' })).message, /blockComponentURI: "model\.other:1-x"/)
  })

  it('takes the registry’s own document as well', () => {
    const { blockId: _, blockComponentURI: __, policyRulesSpec: ___, ...rest } = blockValues
    const registry = { ...rest, id: 'leaf-88', componentUri: 'model.leaf-detector:2.0.0-stable', api_mode: 'allocate', policies: { autoscaler: { policyRuleURI: 'grow:1.0-stable', parameters: { target: 0.7 }, settings: { intervalSeconds: 30 } } } }
    assert.deepEqual(block(registry), block(blockValues))
  })
})

describe('specs: vDAG', () => {
  it('flat and nested nodes, wrapped and bare policies, input(s) and output(s) are one vDAG', () => {
    assert.deepEqual(parseVdag(nestedVdagValues, { author: AUTHOR }), parseVdag(vdagValues, { author: AUTHOR }))
  })

  it('keeps every field under its one name', () => {
    const parsed = parseVdag(vdagValues)
    assert.equal(parsed.vdagURI, 'leaf-tracker:0.0.1-stable')
    assert.deepEqual(parsed.nodes[0], { label: 'detect', type: 'block', blockId: 'leaf-88', modelParameters: { iou: 0.3 }, fallbacks: [] })
    assert.deepEqual(parsed.nodes[1]?.assignmentPolicyRule, { policyRuleURI: 'nearest:1.0-stable', parameters: { most: 3 }, settings: {} })
    assert.deepEqual(parsed.edges, [{ from: 'detect', to: 'track', outputNames: ['leaves'] }])
    assert.deepEqual([parsed.inputs, parsed.outputs], [['detect'], ['track']])
    assert.deepEqual(parsed.controller, vdagValues['controller'])
  })

  it('derives heads and tails when the author names none', () => {
    const parsed = parseVdag({ ...vdagValues, graph: { connections: [{ nodeLabel: 'track', inputs: ['detect'] }] } })
    assert.deepEqual([parsed.inputs, parsed.outputs], [['detect'], ['track']])
  })

  it('reads nested vDAGs, components and fallbacks, and leaves empty ids out', () => {
    const parsed = parseVdag({ ...vdagValues, nodes: [{ nodeLabel: 'detect', nodeType: 'vdag', vdagURI: 'inner:1.0-stable', manualBlockId: '' }, { nodeLabel: 'track', componentURI: 'model.tracker:1.0-stable', fallbacks: ['detect'] }] })
    assert.deepEqual(parsed.nodes, [{ label: 'detect', type: 'vdag', vdagURI: 'inner:1.0-stable', modelParameters: {}, fallbacks: [] }, { label: 'track', type: 'block', componentURI: 'model.tracker:1.0-stable', modelParameters: {}, fallbacks: ['detect'] }])
  })

  for (const version of [{ version: '0.0.1', releaseTag: 'stable' }, { version: '0.0.1', release_tag: 'stable' }, '0.0.1-stable']) {
    it(`takes the version as ${JSON.stringify(version)}`, () => assert.deepEqual(parseVdag({ ...vdagValues, vdagVersion: version }), parseVdag(vdagValues)))
  }

  it('knows every spelling of its modes', () => {
    for (const [mode, expected] of [['create', 'create'], ['validateGraph', 'validate'], ['dryRunAssignment', 'dry_run_assignment'], ['dryRun', 'dry_run'], ['dry-run', 'dry_run'], ['dry_run', 'dry_run']] as const) assert.equal(vdagMode({ ...vdagValues, mode }), expected)
    assert.equal(vdagMode(vdagValues), 'create')
  })

  it('makes one edge of two mentions of a pair', () => {
    const twice = (first: readonly string[], second: readonly string[]) => parseVdag({ ...vdagValues, graph: { connections: [{ nodeLabel: 'track', inputs: [{ nodeLabel: 'detect', outputNames: first }, { nodeLabel: 'detect', outputNames: second }] }] } }).edges
    assert.deepEqual(twice(['a'], ['b', 'a']), [{ from: 'detect', to: 'track', outputNames: ['a', 'b'] }])
    assert.deepEqual(twice(['a'], []), [{ from: 'detect', to: 'track', outputNames: [] }], 'no names means everything')
  })

  it('names the node whose field is wrong', () => {
    assert.match(refusal(() => parseVdag({ ...vdagValues, nodes: [{ nodeLabel: 'detect', manualBlockId: 'Not An Id' }] })).message, /node "detect"\.manualBlockId: "Not An Id"/)
    assert.match(refusal(() => parseVdag({ ...vdagValues, nodes: [{ nodeType: 'block' }] })).message, /nodes\[0\]\.nodeLabel: missing; name the node/)
    assert.match(refusal(() => parseVdag({ ...vdagValues, nodes: [{ nodeLabel: 'a', nodeType: 'lambda' }] })).message, /node "a"\.nodeType: "lambda".*block, vdag/)
    assert.match(refusal(() => parseVdag({ ...vdagValues, nodes: [] })).message, /nodes: /)
    assert.match(refusal(() => parseVdag({ ...vdagValues, graph: { connections: [7] } })).message, /graph\.connections\[0\]: 7/)
  })
})

describe('specs: policy rules and assets', () => {
  it('snake_case and the one form are one rule', () => {
    const snake = { name: 'least-loaded', version: '1.0', release_tag: 'stable', policy_rule_uri: 'least-loaded:1.0-stable', tags: 'balance, load', code: 'http://example/x.zip', code_type: 'zip', policy_settings: { a: 1 }, policy_parameters: { b: 2 }, policy_input_schema: { n: { type: 'int' } }, management_commands_schema: [{ name: 'reset', description: 'forget' }] }
    const camel = { name: 'least-loaded', version: '1.0', releaseTag: 'stable', tags: ['balance', 'load'], settings: { a: 1 }, parameters: { b: 2 }, inputSchema: { n: { type: 'integer' } }, managementCommands: { reset: { description: 'forget' } } }
    const parsed = parsePolicyRule(snake, { author: AUTHOR, code: CID })
    assert.deepEqual(parsed, parsePolicyRule(camel, { author: AUTHOR, code: CID }))
    assert.equal(parsed.policyRuleURI, 'least-loaded:1.0-stable')
    assert.deepEqual([parsed.code, parsed.codeType], [CID, 'js_module_v1'])
  })

  it('takes schemas as JSON Schema, an execution type for a type, and an archive for a code type', () => {
    const quota = {
      name: 'quota-check', version: '1.0', release_tag: 'stable', metadata: { author: 'admin', category: 'access-control' }, tags: 'quota,control,access', code_type: 'tar.xz', type: 'policy',
      policy_input_schema: { type: 'object', properties: { quota_table: { type: 'object' }, quota: { type: 'integer' }, session_id: { type: 'string' } }, required: ['quota_table', 'quota', 'session_id'] },
      policy_output_schema: { type: 'object', properties: { allowed: { type: 'boolean' }, blocks: { type: 'object', additionalProperties: { type: 'object', properties: { healthy: { type: 'boolean' } }, required: ['healthy'] } } }, required: ['allowed'] },
      policy_settings_schema: { type: 'object', properties: {} },
      policy_parameters_schema: { type: 'object', properties: { default_limit: { type: 'integer' }, whitelist: { type: 'array', items: { type: 'string' } } }, required: ['default_limit'] },
      policy_settings: {}, policy_parameters: {}, description: 'Restricts usage by session-level quotas.', functionality_data: { strategy: 'quota-based' }, resource_estimates: {},
    }
    const { inputSchema, outputSchema, parametersSchema, settingsSchema, metadata, functionalityData, tags } = parsePolicyRule(quota, { author: AUTHOR, code: CID })
    assert.deepEqual(inputSchema['quota'], { type: 'integer', required: true })
    assert.deepEqual(outputSchema['allowed'], { type: 'boolean', required: true })
    assert.deepEqual(parametersSchema?.['default_limit'], { type: 'integer', required: true })
    assert.deepEqual([settingsSchema, metadata, functionalityData, tags], [undefined, quota.metadata, quota.functionality_data, ['quota', 'control', 'access']])
    assert.match(refusal(() => parsePolicyRule({ ...quota, policy_parameters: { whitelist: 'everybody' } }, { author: AUTHOR, code: CID })).message, /parameters\.whitelist: "everybody" must be a list/)
  })

  it('explains that Python does not run', () => {
    assert.match(refusal(() => parsePolicyRule({ name: 'a', version: '1', release_tag: 's', code_type: 'python_class_v1' }, { author: AUTHOR, code: CID })).message, /codeType: "python_class_v1".*AIOSv1PolicyRule/)
  })

  it('both spellings of an asset are one record', () => {
    const made = { author: AUTHOR, content: CID, size: 12 }
    const parsed = parseAsset({ asset_name: 'weights', asset_version: { version: '1.0', tag: 'stable' }, asset_metadata: { rank: 1 }, asset_file_info: { file_type: 'application/onnx' }, asset_tags: ['leaf'] }, made)
    assert.deepEqual(parsed, parseAsset({ name: 'weights', version: '1.0', releaseTag: 'stable', metadata: { rank: 1 }, mediaType: 'application/onnx', tags: ['leaf'] }, made))
    assert.equal(parsed.assetURI, 'weights:1.0-stable')
    assert.match(refusal(() => parseAsset({ name: 'two words' }, made)).message, /name: "two words"/)
  })
})
