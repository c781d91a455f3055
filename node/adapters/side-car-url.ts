import { connect } from 'node:net'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { Outside } from '../../src/blocks/sayings.ts'

const ANSWER_BYTES = 4_096

/**
 * Sends messages to side-cars outside the mesh: `http(s)` URLs get them posted as JSON, a `redis` URL gets them at the end of the list that
 * its path names (`redis://host:6379/0/LIST`, by default that of the side-car). Only to servers that the operator of this host allowed.
 */
export function createOutside(allowed: readonly string[]): Outside | undefined {
  if (allowed.length === 0) return undefined
  return async (address, message, signal) => {
    if (!URL.canParse(address)) throw new MeshError('BAD_INPUT', `${address} is no URL`)
    const url = new URL(address)
    if (!allowed.includes('*') && !allowed.includes(serverOf(url))) throw new MeshError('FORBIDDEN', `this host sends nothing to ${serverOf(url)}: its operator allows it with --external ${serverOf(url)}`)
    if (url.protocol === 'redis:') return push(url, message, signal)
    if (url.protocol !== 'http:' && url.protocol !== 'https:') throw new MeshError('BAD_INPUT', `a side-car is reached by http, https or redis, not by ${url.protocol}`)
    return post(url, message, signal)
  }
}

/** As an operator writes it after `--external`. */
export function serverOf(url: URL): string {
  return `${url.protocol}//${url.host}`
}

async function post(url: URL, message: Json, signal: AbortSignal): Promise<void> {
  let response: Response
  try {
    // Where it may be sent was decided for this address, not for one that it points to.
    response = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(message), redirect: 'error', signal })
  } catch (cause) {
    throw new MeshError('PEER_UNREACHABLE', `${url.origin} does not take it: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
  await response.body?.cancel()
  if (!response.ok) throw new MeshError('PEER_UNREACHABLE', `${url.origin} answered ${response.status}`)
}

/** One RPUSH in Redis's protocol (RESP). */
function push(url: URL, message: Json, signal: AbortSignal): Promise<void> {
  const list = url.pathname.split('/').filter(part => part !== '').slice(1).join('/') || named(message)
  const commands = [...(url.password === '' ? [] : [['AUTH', ...(url.username === '' ? [] : [decodeURIComponent(url.username)]), decodeURIComponent(url.password)]]), ['RPUSH', list, JSON.stringify(message)]]
  return new Promise((resolve, reject) => {
    const socket = connect({ host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(url.port === '' ? 6_379 : url.port), signal })
    let answer = ''
    const fail = (because: string, cause?: unknown): void => {
      socket.destroy()
      reject(new MeshError('PEER_UNREACHABLE', `${serverOf(url)} does not take it: ${because}`, { cause }))
    }
    socket.on('error', error => fail(error.message, error))
    socket.on('close', () => fail('it hung up'))
    socket.on('connect', () => socket.write(commands.map(resp).join('')))
    socket.on('data', chunk => {
      answer = (answer + chunk.toString('utf8')).slice(0, ANSWER_BYTES)
      const lines = answer.split('\r\n').slice(0, -1)
      const refusal = lines.find(line => line.startsWith('-'))
      if (refusal !== undefined) return fail(refusal.slice(1))
      if (lines.length < commands.length) return undefined
      resolve()
      return socket.end()
    })
  })
}

function named(message: Json): string {
  return message !== null && typeof message === 'object' && !Array.isArray(message) && 'side_car' in message ? `${String(message['side_car'])}_inputs` : 'inputs'
}

function resp(words: readonly string[]): string {
  return `*${words.length}\r\n${words.map(word => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`
}
