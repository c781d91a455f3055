import { FolderLock } from '../../node/adapters/folder-lock.ts'

// Holds a folder until it is killed, and says whether it got it.
const lock = FolderLock.take(process.argv[2]!)
process.stdout.write(`${lock !== undefined}\n`)
setInterval(() => lock, 60_000)
