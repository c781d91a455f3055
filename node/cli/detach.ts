import { spawn } from 'node:child_process'
import { open, readFile, statfs, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { isErrorCode, MeshError } from '../../protocols/errors.ts'
import { FolderLock } from '../adapters/folder-lock.ts'
import { makeFolder } from '../adapters/make-folder.ts'
import { storageError } from '../adapters/sqlite.ts'
import { withInviteAside } from './invite-text.ts'
import { readDaemonFile } from './daemon-client.ts'

const READY_MS = 60_000
const STOP_MS = 30_000
const CLI = fileURLToPath(new URL('./main.ts', import.meta.url))
const ready = z.object({ ready: z.literal(true), peer: z.string(), http: z.string() }).loose()
const failed = z.object({ error: z.object({ code: z.string(), message: z.string() }) })
export type Ready = z.infer<typeof ready>

/** Starts this same `aios up` without `--detach`, in a session of its own, and comes back when it is ready. It reads `invite` from its standard input. Throws with its last words. */
export async function detach(dataDir: string, invite = ''): Promise<Ready> {
  const path = join(dataDir, 'output.log')
  // What a peer that runs there has said stays where it is.
  const log = FolderLock.isHeld(dataDir) ? undefined : await opened(dataDir, path)
  if (log === undefined) throw new MeshError('ALREADY_EXISTS', `a peer already runs on ${dataDir}: use it, or another --data DIR`)
  const args = withInviteAside(process.argv.slice(2)).filter(word => word !== '--detach' && word !== '--json')
  const child = spawn(process.execPath, [CLI, ...args, '--json'], { detached: true, stdio: ['pipe', log.fd, log.fd] })
  // One that ended before it read says why itself.
  child.stdin?.on('error', () => undefined).end(invite)
  child.unref()
  await log.close()
  const ends = performance.now() + READY_MS
  while (true) {
    const lines = (await readFile(path, 'utf8')).split('\n').filter(line => line !== '')
    for (const line of lines) {
      const said = line.startsWith('{') ? ready.safeParse(JSON.parse(line)) : undefined
      if (said?.success === true) return said.data
    }
    if (child.exitCode !== null) throw await lastWords(dataDir, lines.at(-1), child.exitCode)
    if (performance.now() > ends) throw new MeshError('DEADLINE', `the peer was not ready after ${READY_MS / 1_000} s: see ${path}`)
    await sleep(50)
  }
}

async function opened(dataDir: string, path: string): Promise<FileHandle> {
  try {
    makeFolder(dataDir)
    return await open(path, 'w', 0o600)
  } catch (error) {
    throw storageError(error, `use the folder ${dataDir}`)
  }
}

/** What a daemon that did not come up said of it, or why it could say nothing. */
async function lastWords(dataDir: string, said: string | undefined, exitCode: number): Promise<MeshError> {
  const failure = said?.startsWith('{') === true ? failed.safeParse(JSON.parse(said)) : undefined
  if (failure?.success === true) {
    const { code, message } = failure.data.error
    return new MeshError(isErrorCode(code) ? code : 'INTERNAL', `the peer did not start: ${message}`)
  }
  const { bavail } = await statfs(dataDir)
  if (bavail === 0) return new MeshError('STORAGE_FULL', `the peer did not start: the disk of ${dataDir} is full`)
  return new MeshError('INTERNAL', `the peer did not start: ${said ?? `it exited with ${exitCode}`}`)
}

/** Asks the daemon of a folder to stop and waits until its process is gone. Throws PEER_UNREACHABLE when none runs. */
export async function down(dataDir: string): Promise<void> {
  const { pid } = await readDaemonFile(dataDir)
  // A peer that was killed left its number behind, which may be anybody's by now.
  if (!FolderLock.isHeld(dataDir)) throw new MeshError('PEER_UNREACHABLE', `no peer runs on ${dataDir}: the last one was killed`)
  if (!signal(pid, 'SIGTERM')) return
  const ends = performance.now() + STOP_MS
  while (signal(pid, 0)) {
    if (performance.now() > ends) throw new MeshError('DEADLINE', `the peer (process ${pid}) did not stop within ${STOP_MS / 1_000} s`)
    await sleep(50)
  }
}

function signal(pid: number, what: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, what)
  } catch {
    return false
  }
}
