import type { Server } from 'node:net'
import { MeshError } from '../../protocols/errors.ts'
import { isLoopback } from './guard.ts'

export type Address = { readonly host: string; readonly port: number; readonly loopback: boolean }

/** `HOST:PORT` as `option` takes it. Throws BAD_INPUT. */
export function readAddress(option: string, text: string): Address {
  const at = text.lastIndexOf(':')
  const host = text.slice(0, at).replace(/^\[|\]$/g, '')
  const port = Number(text.slice(at + 1))
  if (at < 1 || !Number.isInteger(port) || port < 0 || port > 65_535) throw new MeshError('BAD_INPUT', `${option} takes HOST:PORT, not ${text}`)
  return { host, port, loopback: isLoopback(host) }
}

/** Listens (port 0: any free one) and says where others on this host reach it, as `host:port`. Throws BAD_INPUT when it cannot. */
export async function listen(server: Server, { host, port }: Address): Promise<string> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', cause => reject(new MeshError('BAD_INPUT', `cannot listen on ${host}:${port}: ${cause.message}`, { cause })))
    server.listen(port, host, resolve)
  })
  const address = server.address()
  const bound = typeof address === 'object' && address !== null ? address.port : port
  return `${host.includes(':') ? `[${host}]` : host === '0.0.0.0' ? '127.0.0.1' : host}:${bound}`
}
