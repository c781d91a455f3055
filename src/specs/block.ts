import { check } from '../../protocols/codec.ts'
import { blockId, type BlockId, type Cid, type Json, type PeerId } from '../../protocols/ids.ts'
import { blockRecord, type BlockRecord, type ComponentManifest, type Template } from '../../protocols/specs.ts'
import { isObject, type JsonObject } from './document.ts'
import { specValues } from './envelope.ts'
import { Fields } from './fields.ts'
import { laidOver, parsePolicySet } from './policy-refs.ts'
import { Problems } from './problems.ts'
import { readNeeds } from './runtime.ts'
import { judge, withDefaults } from './template-check.ts'

export type BlockMode = 'allocate' | 'dry_run' | 'select_clusters'

const COMPONENT_NAMES = ['blockComponentURI', 'componentURI', 'componentUri', 'component_uri']
const MOST_INSTANCES = 1_000
/** Read elsewhere, or written by AIOS's registries into what people copy from them. */
const UNREAD = ['mode', 'apiMode', 'blockUri', 'blockMetadata', 'component', 'cluster', 'clusterId', 'runtime', 'inputProtocol', 'outputProtocol', 'owner', 'resourceAffinity', 'enabledCustomMetrics', 'customMetrics', 'adhocEnabled', 'blockType']

/** Which component a block spec wants, to be fetched before `parseBlock`. Throws SPEC_INVALID. */
export function blockComponentUri(document: unknown): string {
  const problems = new Problems('block spec')
  const spec = new Fields(specValues(document, 'block spec'), '', problems)
  spec.agree(COMPONENT_NAMES)
  const uri = spec.needed(COMPONENT_NAMES, 'name the component, for example "model.object-detector:2.0.0-stable"')
  problems.settle()
  return uri
}

/** What is to be done with the spec. AIOS's code only tries it unless told otherwise; here leaving it out means allocate. */
export function blockMode(document: unknown): BlockMode {
  const problems = new Problems('block spec')
  const spec = new Fields(specValues(document, 'block spec'), '', problems)
  spec.agree(['mode', 'apiMode'])
  const mode = spec.choice<BlockMode>(['mode', 'apiMode', 'api_mode'], { allocate: ['create'], dry_run: [], select_clusters: [] }, 'allocate')
  problems.settle()
  return mode
}

/**
 * A block spec with everything it inherits: init data, settings and parameters whole from the component where the block
 * has none, the component's policies overridden by name. `newId` makes eight random lower-case letters or digits for
 * a block without an id. Throws SPEC_INVALID that lists what to fix.
 */
export function parseBlock(document: unknown, component: { readonly manifest: ComponentManifest; readonly cid: Cid }, { owner, newId }: { readonly owner: PeerId; readonly newId: () => string }): BlockRecord {
  const { manifest, cid } = component
  const problems = new Problems('block spec')
  const spec = new Fields(specValues(document, 'block spec'), '', problems)
  const uri = spec.needed(COMPONENT_NAMES, 'name the component, for example "model.object-detector:2.0.0-stable"')
  if (uri !== '' && uri !== manifest.componentURI) spec.wrong('blockComponentURI', uri, `the component found is ${manifest.componentURI}`)
  const initData = spec.object('blockInitData', 'initData') ?? manifest.componentInitData
  const instances = readInstances(spec, initData)
  const initSettings = spec.object('initSettings') ?? manifest.componentInitSettings
  const parameters = spec.object('parameters') ?? manifest.componentParameters
  for (const [name, value, template] of [['initSettings', initSettings, manifest.componentInitSettingsProtocol], ['parameters', parameters, manifest.componentInitParametersProtocol]] as const) {
    judge(template, value, name, problems)
  }
  const block = {
    blockId: readId(spec, newId),
    componentURI: manifest.componentURI,
    component: cid,
    runtime: manifest.runtime,
    ...instances,
    needs: readNeeds(spec, manifest.needs),
    labels: spec.labels('labels', 'nodeSelector'),
    initData,
    initSettings: filled(initSettings, manifest.componentInitSettingsProtocol),
    parameters: filled(parameters, manifest.componentInitParametersProtocol),
    inputProtocol: manifest.componentInputProtocol,
    outputProtocol: manifest.componentOutputProtocol,
    policies: laidOver(manifest.policies, parsePolicySet(spec, 'policyRulesSpec', 'policies').rules),
    tags: [...new Set([...manifest.tags, ...spec.texts(['tags'])])],
    owner,
    revision: spec.count(['revision'], 0, Number.MAX_SAFE_INTEGER) ?? 0,
  }
  spec.refuseUnknown(UNREAD)
  problems.settle()
  return check(blockRecord, block, 'block spec', 'SPEC_INVALID')
}

function readId(spec: Fields, newId: () => string): BlockId {
  spec.agree(['blockId', 'id'])
  const said = spec.text(['blockId', 'id', 'block_id'], 300)
  const id = said ?? `blk-${newId()}`
  if (!blockId.safeParse(id).success) spec.wrong('blockId', id, 'use at most 253 lower-case letters, digits and inner hyphens, for example "detector-1"')
  return id
}

/** 0 <= min <= max and max >= 1. Older samples say it as the autoscaler's replicas. */
function readInstances(spec: Fields, initData: Readonly<Record<string, Json>>): { readonly minInstances: number; readonly maxInstances: number } {
  const settings = objectIn(objectIn(initData, 'settings'), 'autoscaler')
  const older = new Fields(settings, 'blockInitData.settings.autoscaler', spec.problems)
  const before = spec.problems.count
  const min = spec.count(['minInstances', 'min_instances'], 0, MOST_INSTANCES) ?? older.count(['minReplicas'], 0, MOST_INSTANCES)
  const max = spec.count(['maxInstances', 'max_instances'], 1, MOST_INSTANCES) ?? older.count(['maxReplicas'], 1, MOST_INSTANCES)
  if (spec.problems.count === before) {
    if (min === undefined) spec.wrong('minInstances', undefined, 'say how many instances to keep alive, for example 1')
    if (max === undefined) spec.wrong('maxInstances', undefined, `say how many instances there may be at most, for example ${Math.max(min ?? 1, 1)}`)
    if (min !== undefined && max !== undefined && min > max) spec.wrong('minInstances', min, `it may not exceed maxInstances (${max})`)
  }
  return { minInstances: min ?? 1, maxInstances: max ?? 1 }
}

function objectIn(value: Readonly<Record<string, Json>>, name: string): JsonObject {
  const inner = value[name]
  return isObject(inner) ? inner : {}
}

function filled(value: Readonly<Record<string, Json>>, template: Template): Record<string, Json> {
  return { ...withDefaults(template, value) }
}
