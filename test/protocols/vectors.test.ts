import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import fc from 'fast-check'
import { z } from 'zod'
import { decode, encode, hex } from '../../protocols/codec.ts'
import { contentBlocks } from '../../protocols/content.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { GenerationEvent } from '../../protocols/generation.ts'
import { decodeEvents, generationStream } from '../../protocols/generation-log.ts'
import { invoke } from '../../protocols/invoke.ts'
import { stageStream, type StageFrame } from '../../protocols/stage.ts'
import { samples } from './samples.ts'

const FILE = new URL('../vectors/protocols.json', import.meta.url)
const vector = z.object({ name: z.string(), protocol: z.string(), hex: z.string() })
const stored = z.array(vector).parse(JSON.parse(readFileSync(FILE, 'utf8')))
const CID = 'bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy'

const head = { session: 'gen-0123456789abcdef', epoch: 3 * 16_777_216 + 5, stage: 1 }
const stageFrames: readonly StageFrame[] = [
  { ...head, kind: 'step', position: 7, count: 2, loose: 1, want: 'greedy', rows: 'all', input: { tokens: [5, 70_000] } },
  { ...head, kind: 'resume', known: 9, hops: [{ host: '12D3KooWA', from: 4 }, { host: '12D3KooWB', from: 9 }] },
  { ...head, kind: 'output', position: 7, count: 2, computeMs: 4.5, result: { ids: [1, 2] } },
  { ...head, kind: 'failed', blame: 2, code: 'INSTANCE_FAILED', message: 'it is gone – früh' },
  { ...head, kind: 'kv', position: 7, count: 1, rows: Uint8Array.of(1, 2, 3, 4) },
  { ...head, kind: 'held', position: 8 },
  { ...head, kind: 'guard', position: 8, host: '12D3KooWC' },
  { ...head, kind: 'touch' },
  { ...head, kind: 'close', keep: true },
  { ...head, kind: 'log', from: 3, events: Uint8Array.of(9) },
  { ...head, kind: 'logged', have: 4 },
  { ...head, kind: 'hurry' },
]
const generated: readonly GenerationEvent[] = [
  { kind: 'token', index: 3, token: 17, text: 'wörd', logprob: -0.5, top: [{ token: 17, logprob: -0.5 }, { token: 4, logprob: -2 }] },
  { kind: 'end', reason: 'length', text: '', promptTokens: 5, cachedTokens: 0, tokens: 4 },
]

/** Frames are binary, so they have bytes of their own. */
const frames: Readonly<Record<string, { readonly protocol: string; readonly bytes: Uint8Array }>> = {
  'invoke call': { protocol: invoke.id, bytes: invoke.encode({ header: { kind: 'call', block: 'b', instance: 'in-1', epoch: 2, method: 'infer', deadlineMs: 1_000, key: 'k' }, body: Uint8Array.of(1, 2) }) },
  'invoke call in a trace': { protocol: invoke.id, bytes: invoke.encode({ header: { kind: 'call', block: 'b', instance: 'in-1', epoch: 2, method: 'infer', deadlineMs: 1_000, trace: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', streams: true }, body: Uint8Array.of(1, 2) }) },
  'invoke output': { protocol: invoke.id, bytes: invoke.encode({ header: { kind: 'output', last: true }, body: Uint8Array.of() }) },
  'invoke error of a full queue': { protocol: invoke.id, bytes: invoke.encode({ header: { kind: 'error', code: 'OVERLOADED', message: 'busy', retryable: true, retryAfterMs: 250 }, body: Uint8Array.of() }) },
  'invoke error': { protocol: invoke.id, bytes: invoke.encode({ header: { kind: 'error', code: 'OVERLOADED', message: 'busy', retryable: true }, body: Uint8Array.of() }) },
  ...Object.fromEntries(stageFrames.map(frame => [`stage ${frame.kind}`, { protocol: stageStream.id, bytes: stageStream.encode(frame) }])),
  'stage step with activations': { protocol: stageStream.id, bytes: stageStream.encode({ ...head, kind: 'step', position: 7, count: 1, loose: 0, want: 'logits', rows: 'last', input: { hidden: Uint8Array.of(8, 8) } }) },
  'stage output with logits': { protocol: stageStream.id, bytes: stageStream.encode({ ...head, kind: 'output', position: 7, count: 1, computeMs: 1, result: { logits: Float32Array.of(0.5, -1) } }) },
  'generation follow': { protocol: generationStream.id, bytes: generationStream.encode({ kind: 'follow', session: head.session, after: 2 }) },
  'generation events': { protocol: generationStream.id, bytes: generationStream.encode({ kind: 'events', from: 3, events: generated }) },
  'content want': { protocol: contentBlocks.id, bytes: contentBlocks.encode({ header: { kind: 'want', cids: [CID] }, bytes: Uint8Array.of() }) },
  'content block': { protocol: contentBlocks.id, bytes: contentBlocks.encode({ header: { kind: 'block', cid: CID }, bytes: Uint8Array.of(3) }) },
}

describe('wire formats', () => {
  const now = [
    ...Object.entries(samples).map(([name, { protocol, schema, value }]) => ({ name, protocol, hex: hex(encode(schema.parse(value))) })),
    ...Object.entries(frames).map(([name, { protocol, bytes }]) => ({ name, protocol, hex: hex(bytes) })),
  ]
  // Vectors are append-only: new names may be added on purpose, none is ever written over.
  const fresh = now.filter(({ name }) => !stored.some(known => known.name === name))
  if (process.env['ADD_VECTORS'] !== undefined) writeFileSync(FILE, `${JSON.stringify([...stored, ...fresh], null, 2)}\n`)

  it('every sample has golden bytes, and every golden bytes a sample', () => {
    assert.deepEqual(now.map(({ name }) => name).sort(), [...stored, ...(process.env['ADD_VECTORS'] === undefined ? [] : fresh)].map(({ name }) => name).sort())
  })

  for (const known of stored) {
    it(`${known.name}: still the same bytes, and read back to the same value`, () => {
      const found = now.find(({ name }) => name === known.name)
      assert.equal(found?.hex, known.hex)
      const sample = samples[known.name]
      if (sample !== undefined) {
        const bytes = Uint8Array.from(Buffer.from(known.hex, 'hex'))
        assert.deepEqual(decode(sample.schema, bytes, 65_536, known.name), sample.schema.parse(sample.value))
      }
    })
  }

  it('bytes from nowhere and messages with one changed byte are refused as messages, never otherwise', () => {
    const all = Object.values(samples)
    const meddled = fc.record({ sample: fc.nat({ max: all.length - 1 }), at: fc.nat(), flip: fc.integer({ min: 1, max: 255 }), cut: fc.boolean() })
    fc.assert(fc.property(meddled, fc.uint8Array({ maxLength: 200 }), ({ sample, at, flip, cut }, noise) => {
      const { schema, value } = all[sample]!
      const bytes = encode(schema.parse(value))
      bytes[at % bytes.byteLength]! ^= flip
      for (const hostile of [cut ? bytes.subarray(0, at % bytes.byteLength) : bytes, noise]) {
        for (const read of [() => decode(schema, hostile, 65_536, 'hostile'), () => invoke.decode(hostile), () => contentBlocks.decode(hostile), () => stageStream.decode(hostile), () => generationStream.decode(hostile), () => decodeEvents(hostile, 0)]) {
          try {
            read()
          } catch (error) {
            assert(error instanceof MeshError && (error.code === 'MESSAGE_INVALID' || error.code === 'MESSAGE_TOO_LARGE'), String(error))
          }
        }
      }
    }), { numRuns: 300 })
  })

  it('stage frames and events are read back as they were written, and changed ones are refused as messages', () => {
    for (const frame of stageFrames) assert.deepEqual(stageStream.decode(stageStream.encode(frame)), frame)
    assert.deepEqual(generationStream.decode(generationStream.encode({ kind: 'events', from: 3, events: generated })), { kind: 'events', from: 3, events: generated })
    const all = [...stageFrames.map(frame => stageStream.encode(frame)), generationStream.encode({ kind: 'events', from: 3, events: generated })]
    fc.assert(fc.property(fc.nat({ max: all.length - 1 }), fc.nat(), fc.integer({ min: 1, max: 255 }), fc.boolean(), (which, at, flip, cut) => {
      const bytes = all[which]!.slice()
      bytes[at % bytes.byteLength]! ^= flip
      try {
        const hostile = cut ? bytes.subarray(0, at % bytes.byteLength) : bytes
        if (which < stageFrames.length) stageStream.decode(hostile)
        else generationStream.decode(hostile)
      } catch (error) {
        assert(error instanceof MeshError && (error.code === 'MESSAGE_INVALID' || error.code === 'MESSAGE_TOO_LARGE'), String(error))
      }
    }), { numRuns: 500 })
  })

  it('what is larger than its limit is refused before it is decoded', () => {
    assert.throws(() => decode(z.unknown(), new Uint8Array(11), 10, 'message'), { code: 'MESSAGE_TOO_LARGE' })
  })
})
