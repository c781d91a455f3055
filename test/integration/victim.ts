/** A real node in a process of its own, for tests that kill it: its folder is theirs to take away. Prints its address, then lives until killed. */
import { startNode } from './node-under-test.ts'

const node = await startNode({ dir: process.argv[2] ?? '' })
console.log(node.network.addresses()[0])
setInterval(() => undefined, 60_000)
