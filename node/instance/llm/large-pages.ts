import { createRequire } from 'node:module'

type Koffi = { load(library: string): { func(definition: string): (...values: readonly number[]) => number } }

const PR_SET_THP_DISABLE = 41

/**
 * From now on memory comes in small pages again; what has large ones keeps them. For once the weights are there: places
 * for keys and values are set aside in full and used in part, and a large page is there as soon as a byte of it is used.
 */
export function keepLargePagesForWeights(): void {
  if (process.env.GLIBC_TUNABLES === undefined || process.platform !== 'linux') return
  try {
    const koffi = createRequire(import.meta.url)('koffi') as Koffi
    const prctl = koffi.load('libc.so.6').func('int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)')
    if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) !== 0) throw new Error('prctl refused')
  } catch (error) {
    // On another C library there were none to begin with.
    console.error(`keys and values may take large pages: ${String(error)}`)
  }
}
