import type { Millis } from '../../protocols/ids.ts'
import type { Clock } from '../ports.ts'

/** What `look` finds, now or within `forMs`: what was made a moment ago on another peer may be known here soon. Throws the signal's reason. */
export async function lookedFor<T>(look: () => Promise<T | undefined>, clock: Pick<Clock, 'monotonic' | 'sleep'>, { forMs, everyMs }: { readonly forMs: Millis; readonly everyMs: Millis }, signal?: AbortSignal): Promise<T | undefined> {
  const ends = clock.monotonic() + forMs
  let found = await look()
  while (found === undefined && clock.monotonic() < ends) {
    await clock.sleep(everyMs, signal)
    found = await look()
  }
  return found
}
