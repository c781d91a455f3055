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
  return error.issues.slice(0, SHOWN).map(narrowed).map(issue => {
    const field = issue.path.map(String).join('.')
    const said = issue.path.reduce<unknown>((holder, key) => (holder !== null && typeof holder === 'object' ? Reflect.get(holder, key) : undefined), value)
    return `${field === '' ? '' : `${field}: `}${said === undefined ? 'missing' : `${quote(said)} is not usable here`}; ${fixOf(issue)}`
  }).join('; ')
}

/** Of a choice that took nothing, what its most promising alternative says of the place where it went wrong. */
function narrowed(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union') return issue
  const deeper = issue.errors.flat().map(narrowed).reduce<z.core.$ZodIssue | undefined>((best, one) => (one.path.length > (best?.path.length ?? 0) ? one : best), undefined)
  return deeper === undefined ? issue : { ...deeper, path: [...issue.path, ...deeper.path] }
}

/** Messages of our schemas say what to do; zod's own say what it expected. */
function fixOf(issue: z.core.$ZodIssue): string {
  if (!/^(?:Invalid|Too|Unrecognized)/.test(issue.message)) return issue.message
  switch (issue.code) {
    case 'invalid_type': return `give ${/^[aeiou]/.test(issue.expected) ? 'an' : 'a'} ${issue.expected}`
    case 'invalid_value': return `use ${issue.values.length === 1 ? '' : 'one of '}${issue.values.map(String).join(', ')}`
    case 'unrecognized_keys': return `leave out ${issue.keys.map(key => key.slice(0, 40)).join(', ')}`
    case 'invalid_union': return `give ${alternatives(issue.errors.flat()) || 'another value'}`
    case 'too_small': return `give ${issue.inclusive === false ? 'more than' : 'at least'} ${String(issue.minimum)}${measure(issue.origin)}`
    case 'too_big': return `give ${issue.inclusive === false ? 'less than' : 'at most'} ${String(issue.maximum)}${measure(issue.origin)}`
    default: return issue.message
  }
}

function alternatives(issues: readonly z.core.$ZodIssue[]): string {
  const expected = [...new Set(issues.flatMap(issue => (issue.code === 'invalid_type' ? [issue.expected] : issue.code === 'invalid_value' ? issue.values.map(String) : [])))]
  return expected.length < 2 ? expected.join('') : `${expected.slice(0, -1).join(', ')} or ${expected[expected.length - 1]}`
}

function measure(origin: string): string {
  return origin === 'string' ? ' characters' : origin === 'array' || origin === 'set' ? ' items' : origin === 'object' || origin === 'record' ? ' fields' : ''
}
