import { check } from '../../protocols/codec.ts'
import type { Json, PeerId } from '../../protocols/ids.ts'
import { quote } from '../../protocols/refusal.ts'
import { SPEC_TYPES, storedSpec, storedTemplate, type StoredSpec, type StoredTemplate } from '../../protocols/stores.ts'
import { boundedDocument, isObject, type JsonObject } from './document.ts'
import { specValues, unwrap } from './envelope.ts'
import { Fields, plainName } from './fields.ts'
import { Problems } from './problems.ts'
import { looksLikeTemplate, readTemplate } from './template-language.ts'
import { makeUri } from './uri.ts'

const TAGS = ['tag', 'releaseTag', 'release-tag', 'release_tag']

/**
 * What AIOS's spec store takes: a spec with a name, a version and its kind. `specData` is the spec, as an object or as
 * JSON text. Throws SPEC_INVALID that lists what to fix; the spec itself is checked when it is used.
 */
export function parseStoredSpec(document: unknown, author: PeerId): StoredSpec {
  const problems = new Problems('stored spec')
  const whole = boundedDocument(document, 'stored spec')
  const fields = new Fields(Object.hasOwn(whole, 'specName') || Object.hasOwn(whole, 'specData') ? whole : specValues(document, 'stored spec'), '', problems)
  const { name, version, releaseTag } = readName(fields, ['specName', 'name'], ['specVersion', 'version'], ['version'], 'detector-block')
  const spec: StoredSpec = {
    specURI: makeUri({ name, version, releaseTag }),
    specType: readType(fields),
    name, version, releaseTag,
    description: fields.text(['specDescription', 'description'], 4_000) ?? '',
    metadata: { ...fields.object('specMetadata', 'metadata') },
    tags: [...fields.texts(['specTags', 'tags'])],
    data: { ...readData(fields) },
    author,
  }
  readUri(fields, ['specUri', 'specURI'], spec.specURI, problems)
  fields.refuseUnknown()
  problems.settle()
  return check(storedSpec, spec, 'stored spec', 'SPEC_INVALID')
}

/** What AIOS's template store takes. `templateData` may be a template, or whatever describes one to people. Throws SPEC_INVALID that lists what to fix. */
export function parseStoredTemplate(document: unknown, author: PeerId): StoredTemplate {
  const problems = new Problems('template')
  const fields = new Fields(unwrap(document, 'template').values, '', problems)
  const { name, version, releaseTag } = readName(fields, ['templateName', 'name'], ['templateVersion', 'version'], ['templateVersion', 'version'], 'one-gpu-block')
  const rule = fields.text(['templatePolicyRuleUri', 'templatePolicyRuleURI', 'policyRuleURI'])
  const given = fields.find('templateData', 'data')
  const data = parsedText(given)
  const prose = given === undefined || looksLikeTemplate(data) ? undefined : typeof given === 'string' ? given : JSON.stringify(given)
  const template: StoredTemplate = {
    templateURI: makeUri({ name, version, releaseTag }),
    name, version, releaseTag,
    description: fields.text(['templateDescription', 'description'], 4_000) ?? '',
    metadata: { ...fields.object('templateMetadata', 'metadata') },
    tags: [...fields.texts(['templateTags', 'tags'])],
    data: prose === undefined ? readTemplate(data, 'templateData', problems) : {},
    ...(prose === undefined ? {} : { prose }),
    ...(rule === undefined ? {} : { policyRuleURI: rule }),
    author,
  }
  readUri(fields, ['templateUri', 'templateURI'], template.templateURI, problems)
  fields.refuseUnknown()
  problems.settle()
  return check(storedTemplate, template, 'template', 'SPEC_INVALID')
}

/** As AIOS's spec store answers. */
export function aiosSpec(spec: StoredSpec): JsonObject {
  return {
    specUri: spec.specURI, specType: spec.specType, specName: spec.name, specVersion: { version: spec.version, tag: spec.releaseTag }, specDescription: spec.description,
    specMetadata: spec.metadata, specTags: spec.tags, specData: JSON.stringify(spec.data), author: spec.author,
  }
}

/** As AIOS's template store answers. */
export function aiosTemplate(template: StoredTemplate): JsonObject {
  return {
    templateUri: template.templateURI, templatePolicyRuleUri: template.policyRuleURI ?? '', templateMetadata: template.metadata, templateName: template.name, templateDescription: template.description,
    templateVersion: { templateVersion: template.version, tag: template.releaseTag }, templateTags: template.tags, templateData: template.prose ?? JSON.stringify(template.data), author: template.author,
  }
}

type Name = { readonly name: string; readonly version: string; readonly releaseTag: string }

function readName(fields: Fields, names: readonly string[], versions: readonly string[], inner: readonly string[], example: string): Name {
  const name = fields.part(names, example)
  const said = fields.find(...versions)
  if (said === undefined) return { name, version: '0.0.1', releaseTag: 'stable' }
  const flat = typeof said === 'string'
  const parts = flat ? fields : fields.inside(...versions)
  return {
    name,
    version: parts.part(flat ? versions : inner, '1.0.0'),
    releaseTag: parts.find(...TAGS) === undefined ? 'stable' : parts.part(TAGS, 'stable'),
  }
}

/** Kinds that the parser knows, in their own spelling; any other as it is. */
function readType(fields: Fields): string {
  const said = fields.needed(['specType', 'type'], `say what it is a spec of: ${SPEC_TYPES.join(', ')}, or a kind of your own`, 40)
  return SPEC_TYPES.find(type => plainName(type) === plainName(said)) ?? said
}

function readData(fields: Fields): JsonObject {
  const data = parsedText(fields.find('specData', 'data'))
  if (isObject(data)) return boundedDocument(data, 'stored spec')
  fields.wrong('specData', data, 'give the spec, as an object or as JSON text')
  return {}
}

function readUri(fields: Fields, names: readonly string[], made: string, problems: Problems): void {
  const given = fields.text(names)
  if (given !== undefined && given !== made && problems.count === 0) fields.wrong(names[0]!, given, `its name, version and tag make ${quote(made)}: leave it out or write that`)
}

function parsedText(value: Json | undefined): Json | undefined {
  if (typeof value !== 'string') return value
  try {
    const parsed: Json = JSON.parse(value)
    return parsed
  } catch {
    return value
  }
}
