import type { WebSocket } from 'ws'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import { json } from '../../protocols/ids.ts'
import { mustBeShallow } from '../../src/lib/json.ts'
import type { Peer } from '../../src/peer.ts'

export const ALLOCATE_PATH = '/allocate'
const AT_ONCE = 16

/** AIOS's resource allocator over a WebSocket: each message is what `POST /allocate` takes, each answer what it answers, with the message's `id` if it has one. */
export function serveAllocations(connection: WebSocket, { allocator }: Peer): void {
  let pending = 0
  const say = (message: object): void => {
    if (connection.readyState === connection.OPEN) connection.send(JSON.stringify(message))
  }
  connection.on('error', () => connection.terminate())
  connection.on('message', data => {
    let about: object = {}
    const answer = async (): Promise<void> => {
      if (pending >= AT_ONCE) throw new MeshError('OVERLOADED', `${AT_ONCE} requests of this connection are under way: wait for answers`)
      const { id, ...asked } = read(String(data))
      about = id === undefined ? {} : { id }
      pending += 1
      try {
        say({ ...about, success: true, data: await allocator.allocate(json.parse(asked)) })
      } finally {
        pending -= 1
      }
    }
    answer().catch((error: unknown) => {
      const { code, message, retryable } = asMeshError(error)
      say({ ...about, success: false, error: { code, message, retryable } })
    })
  })
}

function read(text: string): Readonly<Record<string, unknown>> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // Said below, with what belongs there.
  }
  mustBeShallow(value, 'the message')
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) return { ...value }
  throw new MeshError('BAD_INPUT', 'a message is a JSON object: { "clusters": [], "inputs": {}, "policy_rule_uri": "" }')
}
