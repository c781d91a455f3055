import { MeshError } from '../../protocols/errors.ts'

/** AIOS names components `{type}.{name}:{version}-{tag}`; everything else versioned is `{name}:{version}-{tag}`. */
export type ComponentUri = { readonly type: string; readonly name: string; readonly version: string; readonly releaseTag: string }
export type VersionedUri = { readonly name: string; readonly version: string; readonly releaseTag: string }

/** Kinds whose URI is `{name}:{version}-{tag}`. */
export type VersionedKind = 'policy' | 'policyGraph' | 'spec' | 'template' | 'asset' | 'vdag'

const VERSIONED = /^([^:\s]{1,200}):([^:\s]{1,100})$/
const COMPONENT_TYPE = /^[A-Za-z0-9_-]+$/

export function makeComponentUri(parts: ComponentUri): string {
  return `${parts.type}.${makeUri(parts)}`
}

export function makeUri(parts: VersionedUri): string {
  return `${parts.name}:${parts.version}-${parts.releaseTag}`
}

/** Throws SPEC_INVALID. The type ends at the first dot; the tag begins after the last hyphen. */
export function parseComponentUri(uri: string): ComponentUri {
  const { name: typed, version, releaseTag } = split(uri, 'component', 'model.object-detector:2.0.0-stable')
  const dot = typed.indexOf('.')
  const type = typed.slice(0, Math.max(dot, 0))
  const name = typed.slice(dot + 1)
  if (!COMPONENT_TYPE.test(type) || name === '') throw invalid(uri, 'component', 'model.object-detector:2.0.0-stable')
  return { type, name, version, releaseTag }
}

/** Throws SPEC_INVALID. The tag begins after the last hyphen. */
export function parseUri(kind: VersionedKind, uri: string): VersionedUri {
  return split(uri, kind, 'triage:1.0.0-stable')
}

function split(uri: string, kind: string, example: string): VersionedUri {
  const [, name, rest] = VERSIONED.exec(uri) ?? []
  const hyphen = rest?.lastIndexOf('-') ?? -1
  if (name === undefined || rest === undefined || hyphen < 1 || hyphen === rest.length - 1) throw invalid(uri, kind, example)
  return { name, version: rest.slice(0, hyphen), releaseTag: rest.slice(hyphen + 1) }
}

function invalid(uri: string, kind: string, example: string): MeshError {
  return new MeshError('SPEC_INVALID', `${JSON.stringify(uri.slice(0, 120))} is not a ${kind} URI; write it like ${JSON.stringify(example)}`, { details: { field: 'uri' } })
}
