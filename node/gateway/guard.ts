import { timingSafeEqual } from 'node:crypto'
import { MeshError } from '../../protocols/errors.ts'

/** What the guard looks at of a request, however it came. */
export type Knock = { readonly path: string; readonly header: (name: string) => string | undefined }

/**
 * On loopback anybody on this host may ask, but not a web page that somebody opened here: a browser says where a page
 * came from (Origin, Sec-Fetch-Site) and which name it thinks it talks to (Host). Anywhere else the token is asked for. Throws
 * UNAUTHENTICATED or FORBIDDEN.
 */
export function guard({ path, header }: Knock, token: string, loopback: boolean): void {
  if (path === '/healthz') return
  const given = header('authorization')?.replace(/^Bearer /i, '')
  if (given !== undefined && sameToken(given, token)) return
  if (!loopback) throw new MeshError('UNAUTHENTICATED', 'this door asks for the token: send `Authorization: Bearer …` with the token of daemon.json')
  const name = (header('host') ?? '').replace(/:\d+$/, '').replace(/^\[|\]$/g, '')
  const origin = header('origin')
  if (!isLoopback(name)) throw new MeshError('FORBIDDEN', `this door answers to localhost, not to ${name}`)
  // Browsers send no Origin with what a page merely shows or links to; of that they say this.
  if (header('sec-fetch-site') === 'cross-site') throw new MeshError('FORBIDDEN', 'pages of other sites may not use this peer')
  if (origin === 'null') throw new MeshError('FORBIDDEN', 'pages without an origin may not use this peer')
  if (origin !== undefined && !isLoopback(new URL(origin).hostname.replace(/^\[|\]$/g, ''))) throw new MeshError('FORBIDDEN', `pages from ${origin} may not use this peer`)
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
}

/** Takes the same time whichever characters differ. */
export function sameToken(a: string, b: string): boolean {
  const left = Buffer.from(a)
  const right = Buffer.from(b)
  return left.length === right.length && timingSafeEqual(left, right)
}
