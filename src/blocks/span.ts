import { MeshError } from '../../protocols/errors.ts'
import type { Millis } from '../../protocols/ids.ts'
import type { Clock } from '../ports.ts'

/** How long some work may last. Disposing of it takes its timer and its listeners away. */
export type Span = Disposable & {
  /** Its reason is always a MeshError. */
  readonly signal: AbortSignal
  /** Ends it before its time. */
  readonly fail: (because: MeshError) => void
}

/**
 * Work that ends when one of `parents` does, or after `limit`. `AbortSignal.any` and a bare deadline would outlive the
 * work: its parents live as long as an instance or a connection, and a deadline of an hour as long as an hour.
 */
export function span(parents: readonly (AbortSignal | undefined)[], limit?: { readonly clock: Pick<Clock, 'after'>; readonly ms: Millis }): Span {
  const over = new AbortController()
  const unlink: (() => void)[] = []
  const fail = (because: MeshError): void => {
    for (const cut of unlink.splice(0)) cut()
    over.abort(because)
  }
  for (const parent of parents) {
    if (parent === undefined) continue
    const follow = (): void => fail(reasonOf(parent))
    if (parent.aborted) follow()
    else {
      parent.addEventListener('abort', follow, { once: true })
      unlink.push(() => parent.removeEventListener('abort', follow))
    }
  }
  if (limit !== undefined && !over.signal.aborted) unlink.push(limit.clock.after(limit.ms, () => fail(new MeshError('DEADLINE', `not done within ${limit.ms} ms`))))
  return {
    signal: over.signal,
    fail,
    [Symbol.dispose]: () => fail(new MeshError('CANCELLED', 'the work is over')),
  }
}

/** The result of `work`, or the signal's reason when that comes first. */
export function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  if (signal.aborted) {
    // Nobody waits for the work any more; it will fail for the same reason, and that is no bug.
    work.catch(() => undefined)
    return Promise.reject(reasonOf(signal))
  }
  const { promise, resolve, reject } = Promise.withResolvers<T>()
  const abort = (): void => reject(reasonOf(signal))
  signal.addEventListener('abort', abort, { once: true })
  work.then(resolve, reject)
  return promise.finally(() => signal.removeEventListener('abort', abort))
}

/** Why a signal was aborted; platform signals say it in exceptions of their own. */
export function reasonOf({ reason }: AbortSignal): MeshError {
  if (reason instanceof MeshError) return reason
  const late = reason instanceof Error && reason.name === 'TimeoutError'
  return late ? new MeshError('DEADLINE', reason.message, { cause: reason }) : new MeshError('CANCELLED', 'the caller no longer waits', { cause: reason })
}
