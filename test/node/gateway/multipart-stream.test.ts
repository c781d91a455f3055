import assert from 'node:assert/strict'
import fc from 'fast-check'
import { boundaryOf, formParts, textOf } from '../../../node/gateway/multipart-stream.ts'

async function * cut(bytes: Uint8Array, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
  let at = 0
  for (let turn = 0; at < bytes.length; turn += 1) {
    const size = sizes[turn % sizes.length] ?? 1
    yield bytes.subarray(at, at + size)
    at += size
  }
}

describe('a form read as it comes in', () => {
  it('gives what the platform’s own encoder put in, wherever its bytes are cut', async () => {
    await fc.assert(fc.asyncProperty(fc.array(fc.tuple(fc.stringMatching(/^[a-z]{1,8}$/), fc.uint8Array({ maxLength: 300 })), { maxLength: 5 }), fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 4 }), async (parts, sizes) => {
      const form = new FormData()
      for (const [name, bytes] of parts) form.append(name, new File([new Uint8Array(bytes)], `${name}.bin`))
      const request = new Request('http://x/', { method: 'POST', body: form })
      const boundary = boundaryOf(request.headers.get('content-type') ?? undefined)
      assert.ok(boundary)
      const read: [string, Uint8Array][] = []
      for await (const part of formParts(cut(new Uint8Array(await request.arrayBuffer()), sizes), boundary)) {
        assert.equal(part.fileName, `${part.name}.bin`)
        const pieces: Uint8Array[] = []
        for await (const piece of part.body) pieces.push(piece)
        read.push([part.name, new Uint8Array(Buffer.concat(pieces))])
      }
      assert.deepEqual(read, parts.map(([name, bytes]) => [name, new Uint8Array(bytes)]))
    }), { numRuns: 60 })
  })

  it('skips what nobody reads, and refuses a form that breaks off or has no names', async () => {
    const text = '--b\r\ncontent-disposition: form-data; name="one"\r\n\r\nunread\r\n--b\r\ncontent-disposition: form-data; name="two"\r\n\r\nread\r\n--b--\r\n'
    const names: string[] = []
    for await (const part of formParts(cut(Buffer.from(text), [7]), 'b')) {
      names.push(part.name)
      if (part.name === 'two') assert.equal(await textOf(part, 10), 'read')
    }
    assert.deepEqual(names, ['one', 'two'])
    const drain = async (broken: string): Promise<void> => {
      for await (const part of formParts(cut(Buffer.from(broken), [9]), 'b')) await textOf(part, 100)
    }
    for (const broken of [text.slice(0, -8), '--b\r\n\r\nx\r\n--b--', `--b\r\n${'x'.repeat(20_000)}`, '', '--bXX']) await assert.rejects(drain(broken), { code: 'BAD_INPUT' })
  })
})
