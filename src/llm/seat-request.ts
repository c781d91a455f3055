import { MeshError } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import { stageOpen, type StageOpen } from '../../protocols/stage.ts'
import { abortable } from '../lib/abortable.ts'
import type { Ports } from '../ports.ts'
import type { Holding } from './chain.ts'
import type { StageHost } from './stage-host.ts'

/** A host that does not answer an open by then is as good as gone. */
const OPEN_MS: Millis = 1_500

/** Asks a host, perhaps this one, for a session's seat. Throws what it refuses with, PEER_UNREACHABLE, DEADLINE, the signal's reason. */
export async function askForSeat({ ports: { clock, network }, host }: { readonly ports: Pick<Ports, 'clock' | 'network'>; readonly host: StageHost }, at: PeerId, request: StageOpen, signal: AbortSignal): Promise<Holding> {
  const giveUp = new AbortController()
  const cancel = clock.after(OPEN_MS, () => giveUp.abort(new MeshError('DEADLINE', `${at} did not open stage ${request.stage} within ${OPEN_MS} ms`)))
  const follow = (): void => giveUp.abort(signal.reason)
  signal.addEventListener('abort', follow, { once: true })
  try {
    return await (at === network.self ? abortable(host.open(request, at), giveUp.signal) : network.request(at, stageOpen, request, giveUp.signal))
  } finally {
    cancel()
    signal.removeEventListener('abort', follow)
  }
}
