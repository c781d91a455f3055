/** Fetches one file in a process of its own, for a test that kills it in the middle: `dir address cid`. Prints each block. */
import { startNode } from './node-under-test.ts'

const [dir = '', address = '', cid = ''] = process.argv.slice(2)
const node = await startNode({ dir, content: true })
await node.network.dial([address], node.clock.deadline(5_000))
await node.store?.content.fetch(cid, { progress: ({ doneBytes }) => console.log(doneBytes) })
console.log('whole')
