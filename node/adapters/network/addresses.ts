import type { Connection } from '@libp2p/interface'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { asMeshError, MeshError } from '../../../protocols/errors.ts'
import type { PeerId } from '../../../protocols/ids.ts'

/** Throws BAD_INPUT. */
export function parseAddress(address: string): Multiaddr {
  try {
    return multiaddr(address)
  } catch (cause) {
    throw new MeshError('BAD_INPUT', `${address} is no address like /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…`, { cause })
  }
}

export function isAddress(address: string): boolean {
  try {
    multiaddr(address)
    return true
  } catch {
    return false
  }
}

/** The peer that an address names last: behind a relay, that is not the relay. */
export function peerIn(address: string): PeerId | undefined {
  if (!isAddress(address)) return undefined
  return multiaddr(address).getComponents().findLast(({ name }) => name === 'p2p')?.value
}

/** Where the other end of a connection is, unless a relay stands between. */
export function directHost(connection: Connection | undefined): string | undefined {
  if (connection === undefined || connection.limits !== undefined) return undefined
  const parts = connection.remoteAddr.getComponents()
  if (parts.some(({ name }) => name === 'p2p-circuit')) return undefined
  return parts.find(({ name }) => name === 'ip4' || name === 'ip6' || name.startsWith('dns'))?.value
}

/** What a failed dial means to whoever asked for it. */
export function unreachable(error: unknown, addresses: readonly string[], signal: AbortSignal): MeshError {
  if (error instanceof MeshError) return error
  const causes = allErrors(error)
  const ours = causes.find(cause => cause instanceof MeshError)
  if (causes.some(cause => cause.name === 'EncryptionFailedError' || /noise|handshake/i.test(cause.message))) {
    return new MeshError('NETWORK_REFUSED', `${addresses.join(', ')} answers but does not share our network secret: the invite belongs to another network or was revoked`, { cause: error })
  }
  if (signal.aborted) return signal.reason instanceof MeshError ? signal.reason : new MeshError('CANCELLED', 'the dial was cancelled', { cause: signal.reason })
  if (ours instanceof MeshError) return ours
  return new MeshError('PEER_UNREACHABLE', `nobody answers at ${addresses.join(', ')}: ${causes.at(-1)?.message ?? String(error)}`, { cause: error })
}

/** What keeps libp2p from listening where it was told to, as its user can read it. */
export function unlistenable(error: unknown): MeshError {
  const said = [...String(error instanceof Error ? error.message : error).matchAll(/^\s*(\/\S*): (?:\w*Error: )?(.*)$/gm)].map(([, address, because]) => `${address}: ${because}`)
  if (said.length === 0) return asMeshError(error)
  return new MeshError('BAD_INPUT', `cannot listen on ${said.join('; ')}: give addresses of this host such as /ip4/0.0.0.0/tcp/0, whose ports are free`, { cause: error })
}

function allErrors(error: unknown, depth = 6): Error[] {
  if (!(error instanceof Error) || depth === 0) return []
  const inner: readonly unknown[] = error instanceof AggregateError ? error.errors : 'errors' in error && Array.isArray(error.errors) ? error.errors : []
  return [error, ...inner.flatMap(one => allErrors(one, depth - 1)), ...allErrors(error.cause, depth - 1)]
}
