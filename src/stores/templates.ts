import { MeshError, granted, refused } from '../../protocols/errors.ts'
import type { Json, Millis } from '../../protocols/ids.ts'
import type { StoredTemplate } from '../../protocols/stores.ts'
import { isJsonObject, type JsonObject } from '../lib/json.ts'
import type { Clock } from '../ports.ts'
import type { Artefacts } from '../registries/artefacts.ts'
import type { PolicyCalls } from '../roles.ts'
import { BUILT_IN_TEMPLATE, unwrap } from '../specs/envelope.ts'
import { Problems } from '../specs/problems.ts'
import { judge, withDefaults } from '../specs/template.ts'

const FETCH_MS: Millis = 30_000

/** Turns documents that name a template into specs. */
export class Templates {
  readonly #clock: Pick<Clock, 'deadline'>
  readonly #store: Artefacts<StoredTemplate>
  readonly #policies: PolicyCalls

  constructor(clock: Pick<Clock, 'deadline'>, store: Artefacts<StoredTemplate>, policies: PolicyCalls) {
    this.#clock = clock
    this.#store = store
    this.#policies = policies
  }

  /** A document as the built-in parser reads it: itself, unless its header names a template. Throws what `run` throws. */
  async plain(document: Json): Promise<Json> {
    const { templateUri, parameters, values } = unwrap(document)
    return templateUri.trim().toLowerCase() === BUILT_IN_TEMPLATE.toLowerCase() ? document : this.run(templateUri, values, parameters)
  }

  /**
   * The spec that a template makes of values: they are held to its data, then its rule is asked. Throws NOT_FOUND (the template
   * or its rule), SPEC_INVALID naming the field, POLICY_FAILED when the rule throws or returns no spec.
   */
  async run(uri: string, values: JsonObject, parameters: JsonObject): Promise<JsonObject> {
    const { document: template } = await this.#store.get(uri, this.#clock.deadline(FETCH_MS))
    const problems = new Problems(`values of template ${template.templateURI}`)
    judge(template.data, values, 'values', problems)
    problems.settle()
    const filled = withDefaults(template.data, values)
    // AIOS's documentation hands a rule the whole document, its code the document beside the template's data; either finds what it reads.
    const whole = { header: { templateUri: template.templateURI, parameters }, body: { spec: { values: filled } } }
    if (template.policyRuleURI === undefined) return filled
    const { value } = await this.#policies.decide<JsonObject>({
      hook: 'template',
      rule: { policyRuleURI: template.policyRuleURI, parameters: { ...parameters }, settings: {} },
      input: { ...whole, template_data: template.data, spec: { ...filled, ...whole } },
      accept: answer => (isJsonObject(answer) ? granted(answer) : refused('a template rule must return the spec it makes')),
      fallback: failure => {
        throw new MeshError('POLICY_FAILED', `template ${template.templateURI}: ${failure ?? 'its rule gave no answer'}`, { details: { template: template.templateURI } })
      },
    })
    return value
  }
}
