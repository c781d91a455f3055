import { z } from 'zod'
import { json, peerId } from './ids.ts'
import { template, uri } from './specs.ts'

const name = z.string().min(1).max(200)
const remarks = {
  description: z.string().max(4_000).default(''),
  metadata: z.record(z.string().max(200), json).default({}),
  tags: z.array(z.string().max(100)).max(200).default([]),
}

/** The kinds that actions of the parser take. A store keeps specs of any kind: others are for whoever reads them. */
export const SPEC_TYPES = ['block', 'vdag', 'cluster', 'node', 'component', 'search', 'filter', 'mgmtCommand'] as const
export type SpecType = (typeof SPEC_TYPES)[number]

/** A spec kept under a URI, to be used again: the document that `specs` names. */
export const storedSpec = z.object({ specURI: uri, specType: z.string().min(1).max(40), name, version: name, releaseTag: name, ...remarks, /** The spec as its author wrote it, any dialect. */ data: z.record(z.string(), json), author: peerId })
export type StoredSpec = z.infer<typeof storedSpec>

/** How documents that name it in their header become specs: the document that `templates` names. */
export const storedTemplate = z.object({
  templateURI: uri, name, version: name, releaseTag: name, ...remarks,
  /** What the values of such a document must be. */
  data: template,
  /** What its author wrote as `templateData` where that is no template: for people to read, and held against nothing. */
  prose: z.string().max(65_536).optional(),
  /** Makes the spec of the values. Absent: the values are the spec. */
  policyRuleURI: uri.optional(),
  author: peerId,
})
export type StoredTemplate = z.infer<typeof storedTemplate>

/** Registry `annotations`, key `author/registry/URI`: what an author says of what he published, after he published it. */
export const annotation = z.object({
  /** Over the fields of the same name of the artefact's document, as AIOS spells them. */
  fields: z.record(z.string().max(100), json).default({}),
})
export type Annotation = z.infer<typeof annotation>

/** Registry `records`, key `kind/id`: AIOS's smaller registries, each record as AIOS spells it. */
export const filed = z.record(z.string().max(200), json)
export type Filed = z.infer<typeof filed>
