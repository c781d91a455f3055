import { check } from '../../protocols/codec.ts'
import type { Json, PeerId } from '../../protocols/ids.ts'
import { componentManifest, type ComponentManifest } from '../../protocols/specs.ts'
import { specValues } from './envelope.ts'
import { Fields } from './fields.ts'
import { parsePolicySet } from './policy-refs.ts'
import { Problems } from './problems.ts'
import { readNeeds, readRuntime } from './runtime.ts'
import { judge } from './template-check.ts'
import { readTemplate } from './template-language.ts'
import { makeComponentUri } from './uri.ts'

/** A manifest before its files have CIDs. */
export type ComponentDraft = Omit<ComponentManifest, 'files'>

const draft = componentManifest.omit({ files: true })
const COMPONENT_TYPE = /^[A-Za-z0-9_-]+$/

/**
 * AIOS's component spec, in any of its dialects, as the one manifest. `files` are the paths of the component's
 * directory: they decide the runtime where the author does not say. Throws SPEC_INVALID that lists what to fix.
 */
export function parseComponent(document: unknown, { author, files }: { readonly author: PeerId; readonly files?: readonly string[] }): ComponentDraft {
  const problems = new Problems('component spec')
  const spec = new Fields(specValues(document, 'component spec'), '', problems)
  const id = spec.inside('componentId')
  if (spec.find('componentId') === undefined) spec.wrong('componentId', undefined, 'give { "name": "object-detector", "version": "2.0.0", "releaseTag": "stable" }')
  const componentId = spec.find('componentId') === undefined ? { name: '', version: '', releaseTag: '' } : {
    name: id.part(['name'], 'object-detector'),
    version: id.part(['version'], '2.0.0'),
    releaseTag: id.part(['releaseTag', 'release-tag', 'release_tag', 'release'], 'stable'),
  }
  id.refuseUnknown()
  const componentType = spec.needed(['componentType'], 'say what it is, for example "model"', 100)
  if (componentType !== '' && !COMPONENT_TYPE.test(componentType)) spec.wrong('componentType', componentType, 'use letters, digits, "_" and "-", for example "model"')
  const componentURI = makeComponentUri({ type: componentType, ...componentId })
  const given = spec.text(['componentURI', 'componentUri'])
  if (given !== undefined && given !== componentURI && problems.count === 0) spec.wrong('componentURI', given, `its type, name, version and tag make ${componentURI}: leave it out or write that`)
  const registry = readRegistryInfo(spec)
  const policies = parsePolicySet(spec, 'policies', 'policyRulesSpec')
  const template = (name: string) => readTemplate(spec.find(name), name, problems)
  const metadata = spec.object('componentMetadata') ?? {}
  const component = {
    componentURI, componentId, componentType,
    runtime: readRuntime(spec, files, registry),
    needs: readNeeds(spec),
    containerRegistryInfo: registry.info,
    componentMetadata: Object.keys(policies.hints).length === 0 ? metadata : { ...metadata, policyHints: policies.hints },
    componentInitData: spec.object('componentInitData') ?? {},
    componentInitSettings: spec.object('componentInitSettings') ?? {},
    componentParameters: spec.object('componentParameters', 'componentInitParameters') ?? {},
    componentInputProtocol: template('componentInputProtocol'),
    componentOutputProtocol: template('componentOutputProtocol'),
    componentInitSettingsProtocol: template('componentInitSettingsProtocol'),
    componentInitParametersProtocol: template('componentInitParametersProtocol'),
    componentManagementCommandsTemplate: spec.object('componentManagementCommandsTemplate') ?? {},
    policies: policies.rules,
    tags: [...spec.texts(['tags'])],
    author,
  }
  for (const [name, value, template] of [['componentInitSettings', component.componentInitSettings, component.componentInitSettingsProtocol], ['componentParameters', component.componentParameters, component.componentInitParametersProtocol]] as const) {
    // What it leaves out each block may say; what it says, every block would inherit.
    judge(Object.fromEntries(Object.entries(template).filter(([field]) => Object.hasOwn(value, field))), value, name, problems)
  }
  spec.refuseUnknown(['author', 'files', 'mode'])
  problems.settle()
  return check(draft, component, 'component spec', 'SPEC_INVALID')
}

/** `componentMode` in one spelling, for the init container as well. */
function readRegistryInfo(spec: Fields): { readonly info: Readonly<Record<string, Json>>; readonly image: string | undefined; readonly thirdParty: boolean } {
  const fields = spec.inside('containerRegistryInfo')
  if (Object.keys(fields.values).length === 0) return { info: {}, image: undefined, thirdParty: false }
  const mode = fields.choice<'aios' | 'third_party'>(['componentMode'], { aios: [], third_party: ['external'] }, 'aios')
  const image = fields.text(['containerImage'])
  return { info: { ...fields.values, componentMode: mode }, image, thirdParty: mode === 'third_party' }
}
