import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Template } from '../../protocols/specs.ts'
import { fieldsOf, type Field } from './template-language.ts'

/** The field under which a node that merges several inputs receives them: AIOS's muxer. */
export const MUXED_INPUTS = 'inputs'

/**
 * Whether everything an output template promises is something the input template takes: output ⊆ input, per field.
 * Refuses on what the templates declare: a field the input needs and the output lacks, another type, wider bounds or
 * choices. What the output leaves open (`any`, no bound) passes, because each packet is checked on arrival. An input
 * field is needed unless it has a default, says `required: false`, or sits beside fields that say `required` while it
 * does not. An empty template takes and promises anything.
 */
export function compatible(output: Template, input: Template): Verdict<true> {
  const [given, wanted] = [fieldsOf(output), fieldsOf(input)]
  if (Object.keys(given).length === 0) return granted(true)
  return verdict(fitFields(given, wanted, ''))
}

/**
 * As `compatible`, for a node with several in-edges. A template with an `inputs` array takes each source as one element
 * (muxer); any other takes their fields merged, the later source winning. Reasons name the source's label.
 */
export function compatibleFanIn(sources: readonly { readonly label: string; readonly output: Template }[], input: Template): Verdict<true> {
  const wanted = fieldsOf(input)
  const muxed = wanted[MUXED_INPUTS]
  if (muxed?.type === 'array') {
    const allowed = muxed.size ?? muxed.max_length
    if (allowed !== undefined && sources.length > allowed) return refused(`"${MUXED_INPUTS}" takes ${allowed} sources; ${sources.length} are connected: ${sources.map(({ label }) => label).join(', ')}`)
    for (const { label, output } of sources) {
      const given = fieldsOf(output)
      if (muxed.items === undefined || Object.keys(given).length === 0) continue
      const because = fit({ type: 'object', properties: given }, muxed.items, `${MUXED_INPUTS}[${label}]`)
      if (because !== undefined) return refused(`from "${label}": ${because}`)
    }
    return granted(true)
  }
  const merged: Record<string, Field> = {}
  for (const { output } of sources) {
    const given = fieldsOf(output)
    if (Object.keys(given).length === 0) return granted(true)
    Object.assign(merged, given)
  }
  return verdict(fitFields(merged, wanted, ''))
}

function verdict(because: string | undefined): Verdict<true> {
  return because === undefined ? granted(true) : refused(because)
}

function fitFields(given: Readonly<Record<string, Field>>, wanted: Readonly<Record<string, Field>>, path: string): string | undefined {
  const marked = Object.values(wanted).some(field => field.required !== undefined)
  for (const [name, field] of Object.entries(wanted)) {
    const at = path === '' ? name : `${path}.${name}`
    const offered = Object.hasOwn(given, name) ? given[name] : undefined
    if (offered === undefined) {
      if (field.default === undefined && (field.required ?? !marked)) return `the input needs "${at}", which the output does not have (it has ${Object.keys(given).slice(0, 12).join(', ')})`
    } else {
      if (field.required === true && offered.required === false) return `the input needs "${at}", which the output may leave out`
      const because = fit(offered, field, at)
      if (because !== undefined) return because
    }
  }
  return undefined
}

function fit(given: Field, wanted: Field, at: string): string | undefined {
  if (given.schema !== undefined && wanted.schema !== undefined && given.schema !== wanted.schema) return `"${at}" is ${given.schema} in the output and ${wanted.schema} in the input`
  if (wanted.type === 'any' || given.type === 'any') return undefined
  if (given.type !== wanted.type && !(given.type === 'integer' && wanted.type === 'number')) return `"${at}" is ${given.type} in the output and ${wanted.type} in the input`
  if (wanted.choices !== undefined && given.choices !== undefined) {
    const allowed = new Set(wanted.choices.map(choice => JSON.stringify(choice)))
    const extra = given.choices.find(choice => !allowed.has(JSON.stringify(choice)))
    if (extra !== undefined) return `"${at}" may be ${JSON.stringify(extra)} in the output, which the input does not accept`
  }
  const [low, high] = [wanted.min ?? -Infinity, wanted.max ?? Infinity]
  if ((given.min ?? low) < low || (given.min ?? low) > high) return `"${at}" may be ${given.min} in the output; the input takes ${low} to ${high}`
  if ((given.max ?? high) > high || (given.max ?? high) < low) return `"${at}" may be ${given.max} in the output; the input takes ${low} to ${high}`
  if (wanted.length !== undefined && (given.length ?? 0) > wanted.length) return `"${at}" may have ${given.length} characters in the output; the input takes ${wanted.length}`
  if (wanted.size !== undefined && given.size !== undefined && given.size !== wanted.size) return `"${at}" has ${given.size} elements in the output and ${wanted.size} in the input`
  const most = given.size ?? given.max_length
  if (wanted.max_length !== undefined && most !== undefined && most > wanted.max_length) return `"${at}" may have ${most} elements in the output; the input takes ${wanted.max_length}`
  if (given.items !== undefined && wanted.items !== undefined) return fit(given.items, wanted.items, `${at}[]`)
  if (given.properties !== undefined && wanted.properties !== undefined) return fitFields(given.properties, wanted.properties, at)
  return undefined
}
