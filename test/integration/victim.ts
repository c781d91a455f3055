/** A real node in a process of its own, for tests that kill it. Prints its address, then lives until killed. */
import { startNode } from './node-under-test.ts'

const node = await startNode()
console.log(node.network.addresses()[0])
setInterval(() => undefined, 60_000)
