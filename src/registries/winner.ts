import { assert } from '../lib/assert.ts'
import type { HeldRecord } from './record.ts'

/**
 * Orders two records of one key; below zero when `a` wins. A total order that reads nothing but the two records, so that
 * taking the winner is commutative, associative and idempotent: replicas that hold the same records agree, whatever the
 * order they came in.
 *
 * The earliest claim of a key wins (write-once: the record is its claim), then the lower claimant. Within one claim the
 * highest sequence wins. What is left is decided by writer and record CID.
 */
export function compareRecords(a: HeldRecord, b: HeldRecord): number {
  assert(a.registry === b.registry && a.key === b.key, 'only records of one key compete')
  return a.since - b.since || text(a.owner, b.owner) || b.sequence - a.sequence || text(a.cid, b.cid)
}

/** The record of a key that every replica keeps. */
export function winner(a: HeldRecord, b: HeldRecord): HeldRecord {
  return compareRecords(a, b) <= 0 ? a : b
}

function text(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
