import { access, constants, statfs } from 'node:fs/promises'
import { asMeshError } from '../protocols/errors.ts'
import { createMachine } from './adapters/machine.ts'
import { makeFolder } from './adapters/make-folder.ts'
import { diagnose } from './adapters/machine-diagnose.ts'

export type Check = { readonly what: string; readonly ok: boolean; readonly because: string }

const LEAST_DISK_BYTES = 1_073_741_824

/** What this host can run and why not the rest, and whether a peer could live in `dataDir`. Never throws. */
export async function examine(dataDir: string): Promise<readonly Check[]> {
  const [runtimes, hardware, folder] = await Promise.all([diagnose(), probe(dataDir), examineFolder(dataDir)])
  return [
    { what: 'node', ok: true, because: `${process.version} on ${process.platform}-${process.arch}` },
    folder,
    ...hardware,
    ...runtimes.map(({ area, name, ok, detail }) => ({ what: `${area} ${name}`, ok, because: detail })),
  ]
}

async function probe(dataDir: string): Promise<readonly Check[]> {
  try {
    const { total, cpuModel, os, notes } = await createMachine({ dir: dataDir }).probe()
    return [
      { what: 'hardware', ok: true, because: `${total.cpuMilli / 1_000} cores (${cpuModel}), ${total.memoryMb} MiB memory, ${os}` },
      { what: 'gpus', ok: total.gpus.length > 0, because: total.gpus.map(({ name, memoryMb }) => `${name}, ${memoryMb} MiB`).join('; ') || 'none found' },
      ...notes.map(note => ({ what: 'note', ok: true, because: note })),
    ]
  } catch (error) {
    return [{ what: 'hardware', ok: false, because: asMeshError(error).message }]
  }
}

async function examineFolder(dataDir: string): Promise<Check> {
  try {
    makeFolder(dataDir)
    await access(dataDir, constants.W_OK)
    const { bavail, bsize } = await statfs(dataDir)
    const free = bavail * bsize
    return { what: 'folder', ok: free >= LEAST_DISK_BYTES, because: `${dataDir}, ${(free / 1_073_741_824).toFixed(1)} GiB free` }
  } catch (error) {
    return { what: 'folder', ok: false, because: asMeshError(error).message }
  }
}
