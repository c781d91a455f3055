import { once } from 'node:events'
import { lstatSync, readdirSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Millis } from '../../../protocols/ids.ts'

export const LANE_FOLDER = 'aios-lane-'
/** Whoever has just made a folder may not listen yet. */
const SETTLED_MS = 60_000
const MOST = 256

/** Takes away the sockets that killed daemons of this user left behind: nobody answers there. Returns how many. */
export async function sweepDeadLanes(now: Millis, root: string = tmpdir()): Promise<number> {
  const uid = process.getuid?.()
  let swept = 0
  for (const name of readdirSync(root).filter(entry => entry.startsWith(LANE_FOLDER)).slice(0, MOST)) {
    const folder = join(root, name)
    try {
      const { mtimeMs, uid: owner } = lstatSync(folder)
      if (owner !== uid || now - mtimeMs < SETTLED_MS || await answers(join(folder, 's'))) continue
      rmSync(folder, { recursive: true, force: true })
      swept += 1
    } catch {
      // Somebody else took it away.
    }
  }
  return swept
}

async function answers(path: string): Promise<boolean> {
  const socket = connect(path)
  try {
    await once(socket, 'connect')
    return true
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    return code !== 'ECONNREFUSED' && code !== 'ENOENT'
  } finally {
    socket.destroy()
  }
}
