import type { Journal } from '../../src/ports.ts'

/** The cells of a journal, in memory. */
export function cells(): Pick<Journal, 'get' | 'set'> & { readonly held: Map<string, Uint8Array> } {
  const held = new Map<string, Uint8Array>()
  return {
    held,
    get: async key => held.get(key),
    async set(key, value) {
      if (value === undefined) held.delete(key)
      else held.set(key, value)
    },
  }
}
