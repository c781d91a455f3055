import type { z } from 'zod'

const SHOWN = 5
const QUOTED = 60

/** A value as an error message may show it: short, on one line. */
export function quote(value: unknown): string {
  if (value === undefined) return 'missing'
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (value instanceof Uint8Array) return `${value.byteLength} bytes`
  if (value !== null && typeof value === 'object') return `an object with ${Object.keys(value).slice(0, 4).map(key => key.slice(0, 24)).join(', ') || 'no fields'}`
  const text = typeof value === 'string' ? JSON.stringify(value.slice(0, QUOTED + 1)) : String(value)
  return text.length > QUOTED ? `${text.slice(0, QUOTED)}…` : text
}

/** What a schema refuses in `value`, in a person's words: the field, what it says and what would be right; the first five of them. */
export function refusalOf(error: z.ZodError, value: unknown): string {
  return error.issues.slice(0, SHOWN).map(issue => {
    const field = issue.path.map(String).join('.')
    const said = issue.path.reduce<unknown>((holder, key) => (holder !== null && typeof holder === 'object' ? Reflect.get(holder, key) : undefined), value)
    return `${field === '' ? '' : `${field}: `}${said === undefined ? 'missing' : `${quote(said)} is not usable here`}; ${fixOf(issue)}`
  }).join('; ')
}

/** Messages of our schemas say what to do; zod's own say what it expected. */
function fixOf(issue: z.core.$ZodIssue): string {
  if (!/^(?:Invalid|Too|Unrecognized)/.test(issue.message)) return issue.message
  switch (issue.code) {
    case 'invalid_type': return `give ${/^[aeiou]/.test(issue.expected) ? 'an' : 'a'} ${issue.expected}`
    case 'invalid_value': return `use ${issue.values.length === 1 ? '' : 'one of '}${issue.values.map(String).join(', ')}`
    case 'unrecognized_keys': return `leave out ${issue.keys.map(key => key.slice(0, 40)).join(', ')}`
    case 'too_small': return `give at least ${String(issue.minimum)}${measure(issue.origin)}`
    case 'too_big': return `give at most ${String(issue.maximum)}${measure(issue.origin)}`
    default: return issue.message
  }
}

function measure(origin: string): string {
  return origin === 'string' ? ' characters' : origin === 'array' || origin === 'set' ? ' items' : origin === 'object' || origin === 'record' ? ' fields' : ''
}
