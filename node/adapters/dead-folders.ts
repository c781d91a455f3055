import { lstatSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Millis } from '../../protocols/ids.ts'

const MOST = 256

/** Which short-lived folders are meant, and which of them are in use. */
export type Sweep = {
  readonly named: RegExp
  /** Younger ones are left alone. */
  readonly settledMs: Millis
  readonly isUsed: (folder: string, name: RegExpExecArray) => boolean | Promise<boolean>
}

/** Takes away the folders in `root` that killed processes of this user left behind. Returns how many. Throws what reading `root` throws. */
export async function sweepDeadFolders({ named, settledMs, isUsed }: Sweep, now: Millis, root: string): Promise<number> {
  const uid = process.getuid?.()
  let swept = 0
  for (const name of readdirSync(root).map(entry => named.exec(entry)).filter(match => match !== null).slice(0, MOST)) {
    const folder = join(root, name.input)
    try {
      const { mtimeMs, uid: owner } = lstatSync(folder)
      if (owner !== uid || now - mtimeMs < settledMs || await isUsed(folder, name)) continue
      rmSync(folder, { recursive: true, force: true })
      swept += 1
    } catch {
      // Somebody else took it away.
    }
  }
  return swept
}
