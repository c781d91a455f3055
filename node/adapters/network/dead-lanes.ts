import { once } from 'node:events'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Millis } from '../../../protocols/ids.ts'
import { sweepDeadFolders } from '../dead-folders.ts'

export const LANE_FOLDER = 'aios-lane-'
const NAMED = new RegExp(`^${LANE_FOLDER}`)
/** Whoever has just made a folder may not listen yet. */
const SETTLED_MS = 60_000

/** Takes away the sockets that killed daemons of this user left behind: nobody answers there. Returns how many. */
export function sweepDeadLanes(now: Millis, root: string = tmpdir()): Promise<number> {
  return sweepDeadFolders({ named: NAMED, settledMs: SETTLED_MS, isUsed: folder => answers(join(folder, 's')) }, now, root)
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
