import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Millis } from '../../protocols/ids.ts'
import { sweepDeadFolders } from './dead-folders.ts'

/** What a daemon and its measuring need a folder for, for moments only. */
export type Purpose = 'auth' | 'policy' | 'probe'

const NAMED = /^aios-(?:auth|policy|probe)-(\d+)-/
/** Far longer than any of them is used: processes of another container, which may share the folder, cannot be asked whether they live. */
const SETTLED_MS = 3_600_000

/** A folder that only this user may enter, named for the process that made it. Whoever made it takes it away. */
export function makeScratch(purpose: Purpose): string {
  return mkdtempSync(join(tmpdir(), `aios-${purpose}-${process.pid}-`))
}

/** Takes away what killed processes of this user left behind. Returns how many. */
export function sweepDeadScratch(now: Millis, root: string = tmpdir()): Promise<number> {
  return sweepDeadFolders({ named: NAMED, settledMs: SETTLED_MS, isUsed: (_, [, pid]) => lives(Number(pid)) }, now, root)
}

function lives(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    // EPERM: it lives, and is somebody else's.
    return !(error instanceof Error && 'code' in error && error.code === 'ESRCH')
  }
}
