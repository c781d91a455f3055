/** An instance: one block in a process of its own, spoken to over the pipe inherited as descriptor 3, or in a container over its input and output. */
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { asMeshError } from '../../protocols/errors.ts'
import { failureOf } from '../../sdk/runner.ts'
import { decodeBody, encodeFrame, frameOf, FrameReader, type InstanceConfig, type Order } from './frames.ts'
import { InstancePool, poolOf } from './pool.ts'
import { InstanceServer } from './serve.ts'
import { inImage, stdioPipe } from './stdio.ts'

const overStdio = process.env['AIOS_FRAMES'] === 'stdio'
const pipe: Duplex = overStdio ? stdioPipe() : new Socket({ fd: 3, readable: true, writable: true })
const reader = new FrameReader()
const server = new InstanceServer((report, body) => void pipe.write(encodeFrame(report, body)), writeAll)
let pool: InstancePool | undefined

pipe.on('data', chunk => {
  for (const { header, body } of reader.push(chunk)) {
    // The daemon is the one that wrote it.
    const order = header as Order | undefined
    if (order === undefined) server.takeRaw(body)
    else if (order.kind === 'start') void start(configOf(decodeBody(body) as InstanceConfig))
    else if (order.kind === 'stop') void (pool ?? server).stop().finally(() => process.exit(0))
    else (pool ?? server).take(order, body)
  }
})
pipe.on('close', leave)
pipe.on('error', leave)

/** Without its daemon an instance has nobody to answer. At once: to take a runtime down in order takes twice the time, and on this host others go on with its work. */
function leave(): void {
  process.kill(process.pid, 'SIGKILL')
  // The first process of a container cannot kill itself.
  process.exit(0)
}

function configOf(config: InstanceConfig): InstanceConfig {
  return overStdio ? inImage(config) : config
}

/** In one call to the kernel; the promise is for what it did not take at once. */
function writeAll(frames: readonly Uint8Array[]): Promise<void> | undefined {
  const written = Promise.withResolvers<void>()
  pipe.cork()
  for (const [index, bytes] of frames.entries()) {
    if (index === frames.length - 1) pipe.write(bytes, () => written.resolve())
    else pipe.write(bytes)
  }
  pipe.uncork()
  return pipe.writableLength === 0 ? undefined : written.promise
}

async function start(config: InstanceConfig): Promise<void> {
  try {
    const threads = poolOf(config)
    if (threads === undefined) return await server.load(config)
    pool = new InstancePool(threads, (report, body) => void pipe.write(frameOf(report, body)))
    await pool.load(config)
  } catch (error) {
    const mesh = asMeshError(error)
    const code = mesh.code === 'INTERNAL' ? 'COMPONENT_ERROR' : mesh.code
    console.error(error)
    pipe.write(encodeFrame({ kind: 'failed', code, message: code === mesh.code ? mesh.message : failureOf(error).message }))
    pipe.end()
  }
}
