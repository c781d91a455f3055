import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Millis } from '../../protocols/ids.ts'
import type { Gpu, Needs, Resources } from '../../protocols/resources.ts'

/** Something this host has given its word for. A hold ends by itself; a contract when somebody releases it. */
export type LedgerPromise = { readonly key: string; readonly needs: Needs; readonly gpus: readonly string[]; readonly until: Millis | undefined }

/** What a host has, and what it has promised of it. A value: every change makes another. */
export type Ledger = { readonly total: Resources; readonly promises: ReadonlyMap<string, LedgerPromise> }

/** Promises of one host at a time: an ad can tell of 512 instances. */
const PROMISES_BOUND = 512

export function openLedger(total: Resources): Ledger {
  return { total, promises: new Map() }
}

/**
 * Reserves until `until` (local monotonic ms). A GPU asked for without an amount of memory is taken whole; with one,
 * it is shared by memory. `wanted` names GPUs to take; otherwise the fullest that fit are taken, so that whole ones
 * stay whole. A key that is already promised answers what it was promised.
 */
export function hold(ledger: Ledger, key: string, needs: Needs, until: Millis, wanted?: readonly string[]): Verdict<{ readonly ledger: Ledger; readonly gpus: readonly string[] }> {
  const known = ledger.promises.get(key)
  if (known !== undefined) return granted({ ledger, gpus: known.gpus })
  return promise(ledger, key, needs, until, wanted)
}

/** Turns a hold into a contract that does not end by itself. Refuses one that was never made or has expired. */
export function award(ledger: Ledger, holdKey: string, contractKey: string): Verdict<Ledger> {
  const held = ledger.promises.get(holdKey)
  if (held === undefined) return refused('the reservation is unknown or has expired: ask again', true)
  const promises = new Map(ledger.promises)
  promises.delete(holdKey)
  promises.set(contractKey, { ...held, key: contractKey, until: undefined })
  return granted({ ...ledger, promises })
}

/** Takes a contract read back from the journal. Refuses what the host can no longer keep (hardware that left). */
export function restore(ledger: Ledger, key: string, needs: Needs, gpus: readonly string[]): Verdict<Ledger> {
  if (ledger.promises.has(key)) return granted(ledger)
  const verdict = promise(ledger, key, needs, undefined, gpus)
  return verdict.ok ? granted(verdict.value.ledger) : verdict
}

/** Ends a promise; unknown keys change nothing. */
export function release(ledger: Ledger, key: string): Ledger {
  if (!ledger.promises.has(key)) return ledger
  const promises = new Map(ledger.promises)
  promises.delete(key)
  return { ...ledger, promises }
}

/** Ends the holds whose time has passed. */
export function expire(ledger: Ledger, now: Millis): Ledger {
  const over = [...ledger.promises.values()].filter(({ until }) => until !== undefined && until <= now)
  if (over.length === 0) return ledger
  const promises = new Map(ledger.promises)
  for (const { key } of over) promises.delete(key)
  return { ...ledger, promises }
}

/** What is promised to nobody, or is only held until its asker decides (`holds` false). A GPU that is taken whole has nothing free. */
export function free({ total, promises }: Ledger, holds = true): Resources {
  let { cpuMilli, memoryMb, diskMb } = total
  const gpus = new Map(total.gpus.map(gpu => [gpu.id, gpu]))
  for (const { needs, gpus: taken, until } of promises.values()) {
    if (until !== undefined && !holds) continue
    cpuMilli -= needs.cpuMilli
    memoryMb -= needs.memoryMb
    diskMb -= needs.diskMb
    for (const id of taken) {
      const gpu = gpus.get(id)
      if (gpu !== undefined) gpus.set(id, { ...gpu, freeMb: needs.gpuMemoryMb === 0 ? 0 : gpu.freeMb - needs.gpuMemoryMb })
    }
  }
  return { cpuMilli, memoryMb, diskMb, gpus: [...gpus.values()] }
}

/** Would `needs` fit into `free`? Says what is short. */
export function fits(needs: Needs, free: Resources, exclusive: ReadonlySet<string> = new Set()): Verdict<readonly Gpu[]> {
  if (needs.cpuMilli > free.cpuMilli) return refused(`needs ${needs.cpuMilli} milli-CPUs, ${free.cpuMilli} are free`, true)
  if (needs.memoryMb > free.memoryMb) return refused(`needs ${needs.memoryMb} MiB of memory, ${free.memoryMb} are free`, true)
  if (needs.diskMb > free.diskMb) return refused(`needs ${needs.diskMb} MiB of disk, ${free.diskMb} are free`, true)
  if (needs.gpus === 0) return granted([])
  const suited = free.gpus
    .filter(gpu => (needs.gpuMemoryMb === 0 ? !exclusive.has(gpu.id) : gpu.freeMb >= needs.gpuMemoryMb))
    .sort((a, b) => a.freeMb - b.freeMb || (a.id < b.id ? -1 : 1))
  if (suited.length < needs.gpus) return refused(`needs ${needs.gpus} GPUs${needs.gpuMemoryMb === 0 ? '' : ` with ${needs.gpuMemoryMb} MiB free`}, ${suited.length} of ${free.gpus.length} have that`, true)
  return granted(suited)
}

function promise(ledger: Ledger, key: string, needs: Needs, until: Millis | undefined, wanted: readonly string[] | undefined): Verdict<{ readonly ledger: Ledger; readonly gpus: readonly string[] }> {
  if (ledger.promises.size >= PROMISES_BOUND) return refused(`this host has made ${PROMISES_BOUND} promises, as many as it makes`, true)
  const verdict = fits(needs, free(ledger), taken(ledger))
  if (!verdict.ok) return verdict
  const suited = verdict.value.map(({ id }) => id)
  const gpus = wanted === undefined ? suited.slice(0, needs.gpus) : wanted
  if (gpus.length !== needs.gpus || new Set(gpus).size !== gpus.length || gpus.some(id => !suited.includes(id))) {
    return refused(`GPUs ${gpus.join(', ')} were asked for; ${needs.gpus} of ${suited.join(', ') || 'none'} can be had`, true)
  }
  const promises = new Map(ledger.promises)
  promises.set(key, { key, needs, gpus, until })
  return granted({ ledger: { ...ledger, promises }, gpus })
}

/** GPUs promised to anybody: they can no longer be had whole. */
function taken({ promises }: Ledger): ReadonlySet<string> {
  return new Set([...promises.values()].flatMap(({ gpus }) => gpus))
}
