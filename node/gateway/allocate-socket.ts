import type { WebSocket } from 'ws'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import { json } from '../../protocols/ids.ts'
import type { Peer } from '../../src/peer.ts'
import { socketMessage } from './socket-message.ts'

/** What a message says. */
const EXAMPLE = '{ "clusters": [], "inputs": {}, "policy_rule_uri": "" }'

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
      const { id, ...asked } = socketMessage(String(data), EXAMPLE)
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
