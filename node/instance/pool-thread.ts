/** One thread of an instance that has several: a whole copy of the block, spoken to as an instance is. */
import { parentPort } from 'node:worker_threads'
import { asMeshError } from '../../protocols/errors.ts'
import { failureOf } from '../../sdk/runner.ts'
import { encodeBody, type Report } from './frames.ts'
import type { ThreadOrder, ThreadReport } from './pool.ts'
import { InstanceServer } from './serve.ts'

const server = new InstanceServer((report, body) => say(report, encodeBody(body)), () => undefined)

parentPort?.on('message', ({ order, body, config }: ThreadOrder) => {
  if (config !== undefined) {
    server.load(config).catch((error: unknown) => {
      const mesh = asMeshError(error)
      console.error(error)
      say({ kind: 'failed', code: mesh.code === 'INTERNAL' ? 'COMPONENT_ERROR' : mesh.code, message: mesh.code === 'INTERNAL' ? failureOf(error).message : mesh.message }, encodeBody(undefined))
    })
  } else if (order.kind === 'stop') void server.stop().finally(() => process.exit(0))
  else server.take(order, body)
})

function say(report: Report, body: Uint8Array): void {
  const message: ThreadReport = { report, body }
  parentPort?.postMessage(message)
}
