import * as dagCbor from '@ipld/dag-cbor'
import { z } from 'zod'
import { check, defineProtocol, defineStream } from './codec.ts'
import { MeshError } from './errors.ts'
import { cid } from './ids.ts'

/** Which of these roots do you hold whole? */
export const contentHave = defineProtocol({
  id: '/aios/content-have/1',
  request: z.object({ roots: z.array(cid).max(1_024) }),
  response: z.object({ held: z.array(z.boolean()).max(1_024) }),
  limits: { requestBytes: 131_072, responseBytes: 4_096, perPeerPerSecond: 200, deadlineMs: 2_000 },
})

const want = z.object({ kind: z.literal('want'), cids: z.array(cid).max(64) })
const block = z.object({ kind: z.literal('block'), cid })
const missing = z.object({ kind: z.literal('missing'), cid })
export const blockHeader = z.discriminatedUnion('kind', [want, block, missing])
export type BlockFrame = { readonly header: z.infer<typeof blockHeader>; readonly bytes: Uint8Array }

const EMPTY = new Uint8Array(0)

function prefixed(header: BlockFrame['header']): Uint8Array {
  const head = dagCbor.encode(header)
  const out = new Uint8Array(2 + head.byteLength)
  new DataView(out.buffer).setUint16(0, head.byteLength, true)
  out.set(head, 2)
  return out
}

/** Wants one way, blocks the other, each verified against its CID by the receiver: `u16le headerLength | header | bytes`. */
export const contentBlocks = defineStream<BlockFrame>({
  id: '/aios/content-blocks/1',
  encode({ header, bytes }) {
    const head = prefixed(header)
    const out = new Uint8Array(head.byteLength + bytes.byteLength)
    out.set(head, 0)
    out.set(bytes, head.byteLength)
    return out
  },
  pieces: ({ header, bytes }) => [prefixed(header), bytes],
  decode(frame) {
    const length = frame.byteLength < 2 ? Infinity : new DataView(frame.buffer, frame.byteOffset, frame.byteLength).getUint16(0, true)
    if (2 + length > frame.byteLength) throw new MeshError('MESSAGE_INVALID', 'content frame is shorter than its header')
    let value: unknown
    try {
      value = dagCbor.decode(frame.subarray(2, 2 + length))
    } catch (cause) {
      throw new MeshError('MESSAGE_INVALID', 'content header is not DAG-CBOR', { cause })
    }
    return { header: check(blockHeader, value, 'content header'), bytes: 2 + length === frame.byteLength ? EMPTY : frame.subarray(2 + length) }
  },
  limits: { frameBytes: 2_162_688, queuedFrames: 16, idleMs: 60_000, perPeerPerSecond: 50 },
})
