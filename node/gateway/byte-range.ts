import { MeshError } from '../../protocols/errors.ts'

/** Bytes of a thing, from `offset` on. */
export type BytePart = { readonly offset: number; readonly length: number }

/**
 * The one range that a `Range` header asks of `size` bytes (RFC 9110); undefined asks for everything: no header, another unit,
 * several ranges. `unsatisfiable`: nothing of it is there.
 */
export function rangeOf(header: string | undefined, size: number): BytePart | 'unsatisfiable' | undefined {
  const found = header === undefined ? null : /^bytes=(\d*)-(\d*)$/.exec(header.trim())
  if (found === null || (found[1] === '' && found[2] === '')) return undefined
  const offset = found[1] === '' ? Math.max(0, size - Number(found[2])) : Number(found[1])
  const last = found[1] === '' || found[2] === '' ? size - 1 : Math.min(size - 1, Number(found[2]))
  if (found[1] !== '' && found[2] !== '' && Number(found[2]) < offset) return undefined
  return offset >= size || last < offset ? 'unsatisfiable' : { offset, length: last - offset + 1 }
}

/** Does an `If-None-Match` or `If-Range` header name this tag? */
export function namesTag(header: string | undefined, etag: string): boolean {
  return header !== undefined && (header.trim() === '*' || header.split(',').some(one => one.trim().replace(/^W\//, '') === etag))
}

/** A response's body, read as it is sent. An asset of no bytes has none. */
export function streamed(bytes: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array> {
  const pieces = bytes[Symbol.asyncIterator]()
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const next = await pieces.next()
      if (next.done === true) controller.close()
      else controller.enqueue(next.value)
    },
    cancel: async () => {
      await pieces.return?.()
    },
  }, { highWaterMark: 0 })
}

/** The body of a request as it comes in. Throws BAD_INPUT when there is none. */
export function incoming(request: Request): AsyncIterable<Uint8Array> {
  if (request.body === null) throw new MeshError('BAD_INPUT', 'the request has no body')
  return request.body
}
