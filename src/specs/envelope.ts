import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { quote } from '../../protocols/refusal.ts'
import { boundedDocument, isList, isObject, type JsonObject } from './document.ts'

/** The template that means "read by the built-in parser". */
export const BUILT_IN_TEMPLATE = 'Parser/V1'

export type Enveloped = {
  /** Anything but `Parser/V1` names a template whose policy turns the document into a spec. */
  readonly templateUri: string
  readonly parameters: JsonObject
  /** The spec itself, out of whatever wrapped it. */
  readonly values: JsonObject
}

/**
 * Takes a spec out of its envelope: `header` or `head` or `parser_version`, `body.spec.values` or `body.values` or
 * `body.spec` or the bare spec, with or without `@templateType`, any of them as JSON text (a spec store keeps specs so).
 * Throws SPEC_INVALID when the document is not JSON of bounded size.
 */
export function unwrap(document: unknown, what = 'spec'): Enveloped {
  const whole = boundedDocument(parsedText(document), what)
  const body = objectAt(whole, 'body')
  const header = objectAt(whole, 'header') ?? objectAt(whole, 'head') ?? objectAt(body ?? {}, 'header') ?? {}
  const templateUri = textAt(header, 'templateUri') ?? textAt(whole, 'parser_version') ?? BUILT_IN_TEMPLATE
  const holder = body ?? whole
  const spec = objectAt(holder, 'spec') ?? holder
  const values = objectAt(spec, 'values') ?? objectAt(spec, 'spec') ?? spec
  return { templateUri, parameters: objectAt(header, 'parameters') ?? {}, values: withoutWrappers(values) }
}

/** `{"@templateType": …, "values": {…}}` → what it wraps, at every depth. The depth is bounded by `boundedDocument`. */
function withoutWrappers(value: JsonObject): JsonObject {
  const bare = bareOf(value)
  return isObject(bare) ? bare : value
}

function bareOf(value: Json): Json {
  if (isList(value)) return value.map(bareOf)
  if (!isObject(value)) return value
  if (Object.hasOwn(value, '@templateType')) {
    const inner = value['values'] ?? value['value']
    if (isObject(inner)) return bareOf(inner)
  }
  const out: Record<string, Json> = {}
  for (const [key, inner] of Object.entries(value)) if (key !== '@templateType') out[key] = bareOf(inner)
  return out
}

/** As `unwrap`, once templates have been run. Throws SPEC_INVALID for a document that needs one to be read. */
export function specValues(document: unknown, what: string): JsonObject {
  const { templateUri, values } = unwrap(document, what)
  if (plain(templateUri) === plain(BUILT_IN_TEMPLATE)) return values
  throw new MeshError('SPEC_INVALID', `${what}: header.templateUri: ${quote(templateUri)} names a template, which only the parser's actions run: send the document to /api/{action}, or the spec it makes with templateUri "${BUILT_IN_TEMPLATE}" or no header`, { details: { field: 'header.templateUri' } })
}

/** Samples write "parser/v1" and "Parser/V1". */
function plain(uri: string): string {
  return uri.trim().toLowerCase()
}

function objectAt(value: JsonObject, name: string): JsonObject | undefined {
  const own = Object.hasOwn(value, name) ? value[name] : undefined
  const inner = typeof own === 'string' ? bounded(parsedText(own)) : own
  return isObject(inner) ? inner : undefined
}

/** A text that holds a JSON object, as that object; anything else as it is. */
function parsedText(value: unknown): unknown {
  if (typeof value !== 'string' || !/^\s*\{/.test(value)) return value
  try {
    return JSON.parse(value)
  } catch {
    return value
  }
}

function bounded(value: unknown): Json | undefined {
  return typeof value === 'string' ? value : boundedDocument(value, 'spec')
}

function textAt(value: JsonObject, name: string): string | undefined {
  const inner = Object.hasOwn(value, name) ? value[name] : undefined
  return typeof inner === 'string' && inner !== '' ? inner : undefined
}
