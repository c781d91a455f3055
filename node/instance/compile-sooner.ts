import { setFlagsFromString } from 'node:v8'

/** V8 optimises what has run 400 times, and 500 times since it last saw something new. Flags that another V8 does not know it passes over. */
const SOONER = ['--invocation-count-for-feedback-allocation=2', '--invocation-count-for-maglev=100', '--minimum-invocations-after-ic-update=100']

/**
 * Has this process compile sooner what runs often. What takes part in a token runs once a token, and would be interpreted for
 * the first thousand of them: the steps of a small model took half as long again until then.
 */
export function compileSooner(): void {
  for (const flag of SOONER) setFlagsFromString(flag)
}
