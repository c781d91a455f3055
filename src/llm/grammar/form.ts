import { MeshError } from '../../../protocols/errors.ts'
import type { AnswerForm } from '../../../protocols/generation.ts'
import { character } from './characters.ts'
import { literal, one, type Expression } from './expression.ts'
import { schemaExpression } from './json-schema.ts'
import { VALUE } from './json-text.ts'
import { pattern, PatternRefused } from './regex.ts'
import { SchemaRefused } from './schema-merge.ts'

/** The texts that an answer may be. Throws SPEC_INVALID naming what the form asks for that cannot be kept. */
export function formExpression(form: AnswerForm): Expression {
  try {
    switch (form.kind) {
      case 'json': return VALUE
      case 'schema': return schemaExpression(form.schema)
      case 'regex': return pattern(form.pattern, character, false)
      case 'choice': return one(...[...new Set(form.choices)].map(literal))
    }
  } catch (cause) {
    if (cause instanceof SchemaRefused) throw new MeshError('SPEC_INVALID', `the schema of the answer: ${cause.message}`, { cause })
    if (cause instanceof PatternRefused) throw new MeshError('SPEC_INVALID', `the pattern of the answer ${cause.message}`, { cause })
    throw cause
  }
}
