import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { RunEvent } from '../../protocols/runs.ts'
import type { Peer } from '../../src/peer.ts'

export type RunView = {
  readonly run: string
  readonly vdag: string
  readonly state: string
  readonly coordinator: string | null
  readonly events: readonly RunEvent[]
  readonly outputs: Readonly<Record<string, Json>> | null
  readonly error: { readonly code: string; readonly message: string } | null
}

/** One run as people see it, from whichever peer holds it. Throws NOT_FOUND. */
export async function runView(peer: Peer, run: string, signal: AbortSignal): Promise<RunView> {
  const status = await peer.runs.status(run, signal)
  if (status === undefined) throw new MeshError('NOT_FOUND', `no live peer knows a run ${run}`)
  const began = status.events.find(event => event.type === 'began')
  const completed = status.events.find(event => event.type === 'completed')
  const aborted = status.events.find(event => event.type === 'aborted')
  const outputs = completed === undefined ? null : Object.fromEntries(Object.entries(await peer.runs.outputs(completed, signal)).map(([label, { data }]) => [label, data]))
  return {
    run, vdag: began?.vdag ?? '', state: status.state, coordinator: status.coordinator ?? null,
    events: status.events, outputs, error: aborted === undefined ? null : { code: aborted.code, message: aborted.message },
  }
}
