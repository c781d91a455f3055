import assert from 'node:assert/strict'
import { stageStream, type StageFrame } from '../../protocols/stage.ts'

describe('a stage frame', () => {
  it('brings logits unharmed out of the pools that sockets fill, at any alignment', () => {
    const logits = Float32Array.from({ length: 37 }, (_, at) => at / 7 - 2)
    const frame: StageFrame = { kind: 'output', session: 'gen-0', epoch: 1, stage: 1, position: 9, count: 1, computeMs: 0.5, result: { logits } }
    const bytes = stageStream.encode(frame)
    for (let offset = 0; offset < 8; offset += 1) {
      const pool = Buffer.alloc(bytes.byteLength + offset + 99, 0x55)
      pool.set(bytes, offset)
      const read = stageStream.decode(pool.subarray(offset, offset + bytes.byteLength))
      assert.ok(read.kind === 'output' && read.result !== undefined && 'logits' in read.result)
      assert.deepEqual(read.result.logits, logits)
    }
  })
})
