import { lstat, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../../src/ports.ts'

const EVERY_MS = 200
/** Walking a folder costs more than reading a line of /proc. */
const DISK_EVERY = 10
const DISK_ENTRIES = 20_000
const PAGE = 4_096
const TICK_MS = 10
const MB = 1_048_576

export type WatchLimits = { readonly memoryMb: number; readonly diskMb: number; readonly folders: readonly string[] }

/** Measures a process and says when it is over what it was given. Everywhere but on Linux it measures nothing. */
export class Watch {
  #memoryMb = 0
  #cpuMs = 0
  #stopped = false
  #rounds = 0

  constructor(pid: number, limits: WatchLimits, clock: Pick<Clock, 'after'>, over: (because: string) => void) {
    const round = async (): Promise<void> => {
      const because = await this.#measure(pid, limits)
      if (this.#stopped) return
      if (because !== undefined) over(because)
      else clock.after(EVERY_MS, () => void round())
    }
    if (process.platform === 'linux') void round()
  }

  get usage(): { readonly memoryMb: number; readonly cpuMs: number } {
    return { memoryMb: this.#memoryMb, cpuMs: this.#cpuMs }
  }

  stop(): void {
    this.#stopped = true
  }

  async #measure(pid: number, limits: WatchLimits): Promise<string | undefined> {
    try {
      const [memory, stat] = await Promise.all([readFile(`/proc/${pid}/statm`, 'latin1'), readFile(`/proc/${pid}/stat`, 'latin1')])
      this.#memoryMb = (Number(memory.split(' ')[1]) * PAGE) / MB
      // Fields after the name, which is in parentheses and may hold spaces: utime and stime are the 12th and 13th.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      this.#cpuMs = (Number(fields[11]) + Number(fields[12])) * TICK_MS
    } catch {
      // Gone between two rounds; its exit says so elsewhere.
      return undefined
    }
    if (this.#memoryMb > limits.memoryMb) return `it used ${Math.round(this.#memoryMb)} MB of memory; its limit is ${limits.memoryMb} MB`
    if (limits.diskMb > 0 && this.#rounds++ % DISK_EVERY === 0) {
      const usedMb = (await Promise.all(limits.folders.map(folderMb))).reduce((sum, mb) => sum + mb, 0)
      if (usedMb > limits.diskMb) return `it filled ${Math.round(usedMb)} MB of disk; its limit is ${limits.diskMb} MB`
    }
    return undefined
  }
}

/** MB under a folder; infinite when it holds more entries than are worth counting. */
async function folderMb(folder: string): Promise<number> {
  let bytes = 0
  let entries = 0
  const folders = [folder]
  for (let next = folders.pop(); next !== undefined; next = folders.pop()) {
    for (const entry of await readdir(next, { withFileTypes: true }).catch(() => [])) {
      if (++entries > DISK_ENTRIES) return Infinity
      const path = join(next, entry.name)
      if (entry.isDirectory()) folders.push(path)
      else bytes += await lstat(path).then(stat => stat.blocks * 512, () => 0)
    }
  }
  return bytes / MB
}
