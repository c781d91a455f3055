import { MeshError } from '../../protocols/errors.ts'

const HEADER_BYTES = 16_384
const PARTS = 100

/** One part of a form. Its body is read before the next part comes. */
export type FormPart = { readonly name: string; readonly fileName: string | undefined; readonly contentType: string | undefined; readonly body: AsyncIterable<Uint8Array> }

/** The boundary of a `multipart/form-data` request, or undefined for any other. */
export function boundaryOf(contentType: string | undefined): string | undefined {
  const found = /^multipart\/form-data\s*;.*\bboundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))/i.exec(contentType ?? '')
  return found?.[1] ?? found?.[2]
}

/**
 * The parts of a form (RFC 7578) as they come in; a part of any size never lies in memory. Unread rests of bodies are skipped.
 * Throws BAD_INPUT where the form is malformed or breaks off.
 */
export async function * formParts(bytes: AsyncIterable<Uint8Array>, boundary: string): AsyncGenerator<FormPart> {
  const source = new Source(bytes, Buffer.from(`\r\n--${boundary}`))
  await source.skip()
  for (let count = 0; ; count += 1) {
    const mark = await source.take(2)
    if (mark === '--') return
    if (mark !== '\r\n') throw broken('a boundary is followed by neither a line end nor "--"')
    if (count === PARTS) throw broken(`a form has at most ${PARTS} parts`)
    const headers = await source.head()
    const disposition = /^content-disposition:\s*form-data\s*;(.*)$/im.exec(headers)?.[1] ?? ''
    const name = /(?:^|[;\s])name="([^"]*)"/i.exec(disposition)?.[1]
    if (name === undefined) throw broken('a part has no name')
    yield { name, fileName: /(?:^|[;\s])filename="([^"]*)"/i.exec(disposition)?.[1], contentType: /^content-type:\s*(\S+)\s*$/im.exec(headers)?.[1], body: source.body() }
    await source.skip()
  }
}

/** The text of a small part. Throws BAD_INPUT beyond `limit` bytes. */
export async function textOf({ name, body }: FormPart, limit: number): Promise<string> {
  const pieces: Uint8Array[] = []
  let size = 0
  for await (const piece of body) {
    size += piece.byteLength
    if (size > limit) throw new MeshError('BAD_INPUT', `the part ${name} has more than ${limit} bytes`)
    pieces.push(piece)
  }
  return Buffer.concat(pieces).toString('utf8')
}

/** What has come and is not read yet: at most a piece and a boundary. */
class Source {
  readonly #pieces: AsyncIterator<Uint8Array>
  readonly #delimiter: Buffer
  // The first boundary may have no line before it.
  #held: Buffer = Buffer.from('\r\n')
  #atBoundary = false

  constructor(bytes: AsyncIterable<Uint8Array>, delimiter: Buffer) {
    this.#pieces = bytes[Symbol.asyncIterator]()
    this.#delimiter = delimiter
  }

  /** Up to the next boundary, which is taken. */
  async * body(): AsyncGenerator<Uint8Array> {
    while (!this.#atBoundary) {
      const at = this.#held.indexOf(this.#delimiter)
      if (at >= 0) {
        const rest = this.#held.subarray(0, at)
        this.#held = this.#held.subarray(at + this.#delimiter.length)
        this.#atBoundary = true
        if (rest.length > 0) yield rest
        return
      }
      // The end of what is here may be the beginning of a boundary.
      const sure = this.#held.length - this.#delimiter.length + 1
      if (sure > 0) {
        const ready = this.#held.subarray(0, sure)
        this.#held = this.#held.subarray(sure)
        yield ready
      }
      await this.#more()
    }
  }

  async skip(): Promise<void> {
    for await (const _ of this.body());
    this.#atBoundary = false
  }

  async take(count: number): Promise<string> {
    while (this.#held.length < count) await this.#more()
    const taken = this.#held.subarray(0, count).toString('latin1')
    this.#held = this.#held.subarray(count)
    return taken
  }

  /** The header lines of a part. One without any ends at once. */
  async head(): Promise<string> {
    for (;;) {
      if (this.#held.subarray(0, 2).toString('latin1') === '\r\n') return await this.take(2)
      const end = this.#held.indexOf('\r\n\r\n')
      if (end >= 0) {
        const text = this.#held.subarray(0, end).toString('utf8')
        this.#held = this.#held.subarray(end + 4)
        return text
      }
      if (this.#held.length > HEADER_BYTES) throw broken(`the head of a part has more than ${HEADER_BYTES} bytes`)
      await this.#more()
    }
  }

  async #more(): Promise<void> {
    const next = await this.#pieces.next()
    if (next.done === true) throw broken('it ends before its last boundary')
    this.#held = this.#held.length === 0 ? Buffer.from(next.value.buffer, next.value.byteOffset, next.value.byteLength) : Buffer.concat([this.#held, next.value])
  }
}

function broken(because: string): MeshError {
  return new MeshError('BAD_INPUT', `the form cannot be read: ${because}`)
}
