import { probe } from '../../protocols/capacity.ts'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import { hedgeWithin } from '../lib/hedge.ts'
import type { Ports } from '../ports.ts'

export type ProbeRequest = { of?: PeerId; incarnation: number; believed?: 'suspect' | 'dead' }
export type ProbeAnswer = { readonly alive: boolean; readonly incarnation: number; readonly sequence?: number | undefined }

/** A question is asked again this long after it was, at the earliest: answers take their time. */
const AGAIN_MS: Millis = 60

/**
 * Probes a peer for `windowMs`. Loss must not look like death: a question without an answer is asked again, at most
 * `times` in all, each when an answer could have come. Throws what `Network.request` throws.
 */
export function reach(ports: Pick<Ports, 'clock' | 'network'>, peer: PeerId, request: ProbeRequest, windowMs: Millis, times: number): Promise<ProbeAnswer> {
  const { clock, network } = ports
  const evenly = Math.floor(windowMs / times)
  const againMs = Math.min(evenly, Math.max(AGAIN_MS, 2 * (network.rtt(peer) ?? evenly)))
  return hedgeWithin(clock, { againMs, times, windowMs }, leftMs => network.request(peer, probe, request, leftMs))
}

/**
 * The same for who asks very many at once and keeps the time for all of them: nothing but the question is made for one. Tells one of the
 * two, once; calling the function asks again while there was no answer.
 */
export function inquire(ports: Pick<Ports, 'clock' | 'network'>, peer: PeerId, request: ProbeRequest, windowMs: Millis, heard: (answer: ProbeAnswer) => void, failed: (verdict: 'refused' | 'silent') => void): () => void {
  const { clock, network } = ports
  const until = clock.monotonic() + windowMs
  let open = true
  const close = (): boolean => {
    const was = open
    open = false
    return was
  }
  const ask = (): void => void network.request(peer, probe, request, Math.max(1, until - clock.monotonic())).then(answer => close() && heard(answer), error => close() && failed(verdictOf(error)))
  ask()
  return () => {
    if (open) ask()
  }
}

/** Is nobody there, or is nothing to be heard? */
export function verdictOf(error: unknown): 'refused' | 'silent' {
  return asMeshError(error).code === 'PEER_UNREACHABLE' ? 'refused' : 'silent'
}

/** Asks a relay about another peer. `absent`: the relay itself is gone and says nothing about it. */
export async function reachThrough(ports: Pick<Ports, 'clock' | 'network'>, relay: PeerId, of: PeerId, incarnation: number, windowMs: Millis): Promise<'alive' | 'refused' | 'silent' | 'absent'> {
  try {
    const answer = await ports.network.request(relay, probe, { of, incarnation }, windowMs)
    return answer.alive ? 'alive' : 'refused'
  } catch (error) {
    return verdictOf(error) === 'refused' ? 'absent' : 'silent'
  }
}

/** What a relay says of a peer that was silent. */
export function unheard(peer: PeerId): MeshError {
  return new MeshError('DEADLINE', `${peer} did not answer`)
}
