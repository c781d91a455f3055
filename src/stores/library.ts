import { policyGraph, type PolicyGraph } from '../../protocols/policy.ts'
import { componentManifest, policyRule, vdagSpec, type ComponentManifest, type PolicyRule, type VdagSpec } from '../../protocols/specs.ts'
import { storedSpec, storedTemplate, type StoredSpec, type StoredTemplate } from '../../protocols/stores.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { graphDocument, ruleDocument } from '../policies/documents.ts'
import type { Ports } from '../ports.ts'
import { Annotations } from '../registries/annotations.ts'
import { Artefacts, type Artefact } from '../registries/artefacts.ts'
import { DocumentTable } from '../search/document-table.ts'
import { aiosSpec, aiosTemplate } from '../specs/stored.ts'

/** Everything published under a URI: the artefacts, what their authors say of them later, and their documents in AIOS's spelling. */
export class Library {
  readonly annotations: Annotations
  readonly components: Artefacts<ComponentManifest>
  readonly vdags: Artefacts<VdagSpec>
  readonly policies: Artefacts<PolicyRule>
  readonly graphs: Artefacts<PolicyGraph>
  readonly specs: Artefacts<StoredSpec>
  readonly templates: Artefacts<StoredTemplate>
  readonly documents: {
    readonly components: DocumentTable<ComponentManifest>
    readonly vdags: DocumentTable<VdagSpec>
    readonly policies: DocumentTable<PolicyRule>
    readonly graphs: DocumentTable<PolicyGraph>
    readonly specs: DocumentTable<StoredSpec>
    readonly templates: DocumentTable<StoredTemplate>
  }

  constructor(ports: Pick<Ports, 'clock' | 'registries' | 'content'>) {
    const { clock } = ports
    this.annotations = new Annotations(ports.registries)
    this.components = new Artefacts(ports, this.annotations, { registry: 'components', what: 'component', schema: componentManifest, uriOf: ({ componentURI }) => componentURI })
    this.vdags = new Artefacts(ports, this.annotations, { registry: 'vdags', what: 'vDAG', schema: vdagSpec, uriOf: ({ vdagURI }) => vdagURI })
    this.policies = new Artefacts(ports, this.annotations, { registry: 'policies', what: 'policy', schema: policyRule, uriOf: ({ policyRuleURI }) => policyRuleURI })
    this.graphs = new Artefacts(ports, this.annotations, { registry: 'graphs', what: 'policy graph', schema: policyGraph, uriOf: ({ graphURI }) => graphURI })
    this.specs = new Artefacts(ports, this.annotations, { registry: 'specs', what: 'stored spec', schema: storedSpec, uriOf: ({ specURI }) => specURI })
    this.templates = new Artefacts(ports, this.annotations, { registry: 'templates', what: 'template', schema: storedTemplate, uriOf: ({ templateURI }) => templateURI })
    this.documents = {
      components: new DocumentTable(clock, this.components, { whole: aiosComponent, bare: componentURI => ({ componentURI }) }),
      vdags: new DocumentTable(clock, this.vdags, { whole: aiosVdag, bare: vdagURI => ({ vdagURI }) }),
      policies: new DocumentTable(clock, this.policies, { whole: ({ document }) => ({ ...asObject(document), ...ruleDocument(document) }), bare: policyRuleURI => ({ policyRuleURI, policy_rule_uri: policyRuleURI }) }),
      graphs: new DocumentTable(clock, this.graphs, { whole: ({ document }) => graphDocument(document), bare: graph_uri => ({ graph_uri }) }),
      specs: new DocumentTable(clock, this.specs, { whole: ({ document }) => aiosSpec(document), bare: specUri => ({ specUri }) }),
      templates: new DocumentTable(clock, this.templates, { whole: ({ document }) => aiosTemplate(document), bare: templateUri => ({ templateUri }) }),
    }
  }
}

function aiosComponent({ document, cid, issuedAt }: Artefact<ComponentManifest>): JsonObject {
  return { ...asObject({ ...document, files: undefined }), cid, createdAt: issuedAt }
}

/** AIOS's mix of spellings, its graph as its specs write it, beside the one form. */
function aiosVdag({ document, cid, issuedAt }: Artefact<VdagSpec>): JsonObject {
  const { vdagName, vdagVersion, edges, inputs, outputs } = document
  const into = Map.groupBy(edges, ({ to }) => to)
  const connections = [...into].map(([nodeLabel, from]) => ({ nodeLabel, inputs: from.map(edge => ({ nodeLabel: edge.from, outputNames: edge.outputNames })) }))
  return {
    ...asObject(document), cid, createdAt: issuedAt, status: 'active',
    vdag_name: vdagName, vdag_version: { version: vdagVersion.version, 'release-tag': vdagVersion.releaseTag },
    graph: { connections, inputs: inputs.map(nodeLabel => ({ nodeLabel })), outputs: outputs.map(nodeLabel => ({ nodeLabel })) },
  }
}

function asObject(value: unknown): JsonObject {
  const made = toJson(value)
  return isJsonObject(made) ? made : {}
}
