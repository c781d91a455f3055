import { openJournal } from '../../node/adapters/journal.ts'

// Writes until it is killed, telling its parent what was acknowledged and only then.
const journal = openJournal(process.argv[2]!)
let next = (await journal.read('count')).length
for (;;) {
  const batch = Array.from({ length: 8 }, () => next++)
  await Promise.all(batch.map(async value => {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setUint32(0, value)
    await journal.append('count', [bytes])
  }))
  process.stdout.write(`${next}\n`)
}
