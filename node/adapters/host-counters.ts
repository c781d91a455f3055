import { readdirSync, readFileSync, statfsSync } from 'node:fs'
import { loadavg } from 'node:os'
import type { HostCounters } from '../../src/ports.ts'
import { memoryBytes, memoryFreeMb } from './machine-facts.ts'

const MB = 1_048_576
const SECTOR = 512
/** Rates of less than this are noise; whoever asks sooner gets what was read before. */
const AGAIN_MS = 1_000
/** Whole disks: their partitions and what is built from them would count twice. */
const DISK = /^(?:sd[a-z]+|hd[a-z]+|vd[a-z]+|xvd[a-z]+|nvme\d+n\d+|mmcblk\d+)$/

type Totals = { readonly at: number; readonly faults: number | undefined; readonly disks: DiskTotals | undefined }
type DiskTotals = { readonly operations: number; readonly sectors: number; readonly readBytes: number; readonly writeBytes: number; readonly active: number; readonly busyMs: number }

/** Reads what the kernel counts of the host. Rates are of the time since it was read before. Other systems than Linux tell load, memory and disk only. */
export class HostCounter {
  readonly #dir: string
  readonly #proc: string
  #before: Totals
  #read: HostCounters | undefined

  /** `dir`: on the disk that counts. */
  constructor(dir: string, proc = '/proc') {
    this.#dir = dir
    this.#proc = proc
    this.#before = this.#totals()
  }

  read(): HostCounters {
    const sinceMs = performance.now() - this.#before.at
    if (this.#read !== undefined && sinceMs < AGAIN_MS) return this.#read
    const now = this.#totals()
    const rate = (from: number | undefined, to: number | undefined): number => (from === undefined || to === undefined || sinceMs <= 0 ? 0 : Math.max(0, ((to - from) * 1_000) / sinceMs))
    const before = this.#before
    const [one = 0, five = 0, fifteen = 0] = loadavg()
    const processes = this.#processes()
    const network = this.#network()
    const operations = (now.disks?.operations ?? 0) - (before.disks?.operations ?? 0)
    this.#before = now
    this.#read = {
      load: [one, five, fifteen],
      ...(processes === undefined ? {} : { processes }),
      memory: { totalMb: memoryBytes() / MB, freeMb: memoryFreeMb(), ...this.#swap(), pageFaultsPerSec: rate(before.faults, now.faults) },
      ...this.#disk(),
      ...(now.disks === undefined ? {} : {
        iops: {
          blocksPerSec: rate(before.disks?.sectors, now.disks.sectors), readBytes: now.disks.readBytes, writeBytes: now.disks.writeBytes,
          total: rate(before.disks?.operations, now.disks.operations), active: now.disks.active,
          response: operations <= 0 ? 0 : (now.disks.busyMs - (before.disks?.busyMs ?? 0)) / operations,
        },
      }),
      ...(network === undefined ? {} : { network }),
    }
    return this.#read
  }

  #totals(): Totals {
    const faults = /^pgfault (\d+)$/m.exec(this.#text('vmstat') ?? '')?.[1]
    return { at: performance.now(), faults: faults === undefined ? undefined : Number(faults), disks: this.#disks() }
  }

  #disks(): DiskTotals | undefined {
    const text = this.#text('diskstats')
    if (text === undefined) return undefined
    const rows = text.split('\n').map(line => line.trim().split(/\s+/)).filter(fields => DISK.test(fields[2] ?? ''))
    const sum = (...columns: readonly number[]): number => rows.reduce((all, fields) => all + columns.reduce((row, column) => row + (Number(fields[column]) || 0), 0), 0)
    // Documentation/admin-guide/iostats.rst: after major, minor and name come reads, merged, sectors, ms; the same of writes; then under way.
    return { operations: sum(3, 7), sectors: sum(5, 9), readBytes: sum(5) * SECTOR, writeBytes: sum(9) * SECTOR, active: sum(11), busyMs: sum(6, 10) }
  }

  #processes(): HostCounters['processes'] {
    const threads = /^\S+ \S+ \S+ (\d+)\/(\d+)/.exec(this.#text('loadavg') ?? '')
    const running = /^procs_running (\d+)$/m.exec(this.#text('stat') ?? '')?.[1]
    if (threads === null || running === undefined) return undefined
    return { runningThreads: Number(threads[1]), totalThreads: Number(threads[2]), runningProcesses: Number(running), totalProcesses: names(this.#proc).filter(name => /^\d+$/.test(name)).length }
  }

  #swap(): { readonly swapUsedMb: number; readonly swapFreeMb: number } {
    const text = this.#text('meminfo') ?? ''
    const kb = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0)
    const free = kb('SwapFree') / 1_024
    return { swapUsedMb: kb('SwapTotal') / 1_024 - free, swapFreeMb: free }
  }

  #network(): HostCounters['network'] {
    const text = this.#text('net/dev')
    if (text === undefined) return undefined
    const rows = text.split('\n').flatMap(line => {
      const [name, counts] = line.split(':')
      return counts === undefined || name?.trim() === 'lo' ? [] : [counts.trim().split(/\s+/).map(Number)]
    })
    return { txBytesTotal: rows.reduce((all, row) => all + (row[8] ?? 0), 0), rxBytesTotal: rows.reduce((all, row) => all + (row[0] ?? 0), 0) }
  }

  #disk(): Pick<HostCounters, 'disk'> {
    try {
      const { blocks, bavail, bsize } = statfsSync(this.#dir)
      return { disk: { totalMb: (blocks * bsize) / MB, freeMb: (bavail * bsize) / MB } }
    } catch {
      return {}
    }
  }

  #text(name: string): string | undefined {
    try {
      return readFileSync(`${this.#proc}/${name}`, 'utf8')
    } catch {
      return undefined
    }
  }
}

function names(folder: string): readonly string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}
