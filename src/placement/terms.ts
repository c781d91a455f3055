import { digest, encode, hex } from '../../protocols/codec.ts'
import type { BlockRecord } from '../../protocols/specs.ts'

const known = new WeakMap<BlockRecord, string>()

/**
 * A fingerprint of what an instance of this block is started with. Records that differ in it need other instances;
 * those that differ in counts, tags, revision or the rules of steward and callers do not.
 */
export function termsOf(block: BlockRecord): string {
  const before = known.get(block)
  if (before !== undefined) return before
  const { component, runtime, needs, labels, initData, initSettings, parameters, policies } = block
  const terms = hex(digest(encode([component, runtime, needs, labels, initData, initSettings, parameters, policies['pre_processing'] ?? null, policies['post_processing'] ?? null]))).slice(0, 32)
  known.set(block, terms)
  return terms
}
