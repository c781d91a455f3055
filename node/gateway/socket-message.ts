import { MeshError } from '../../protocols/errors.ts'
import { mustBeShallow } from '../../src/lib/json.ts'

/** The fields of a message of a WebSocket, which is a JSON object. Throws BAD_INPUT with `example`, what belongs there. */
export function socketMessage(text: string, example: string): Readonly<Record<string, unknown>> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // Said below, with what belongs there.
  }
  mustBeShallow(value, 'the message')
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) return { ...value }
  throw new MeshError('BAD_INPUT', `a message is a JSON object: ${example}`)
}
