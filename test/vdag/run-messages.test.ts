import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { z } from 'zod'
import { decode, encode, hex, type Schema } from '../../protocols/codec.ts'
import { runClaim, runClaimBody, runEvent, runMirror, runMirrorBody, runRead, type RunEvent } from '../../protocols/runs.ts'

const FILE = new URL('../vectors/runs.json', import.meta.url)
const stored = z.array(z.object({ name: z.string(), protocol: z.string(), hex: z.string() })).parse(JSON.parse(readFileSync(FILE, 'utf8')))

const RUN = 'run-00112233445566778899aabbccddeeff'
const PEER = '12D3KooWAbCdEfGhJkLmNpQrSTuVwXyZ123456789abcdefghijkm'
const CID = 'bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy'
const AT = 1_700_000_000_000

const events: readonly RunEvent[] = [
  { type: 'began', run: RUN, key: 'patient-7', vdag: 'triage:1.0.0-stable', plan: CID, input: CID, submitter: PEER, at: AT },
  { type: 'coordinator', peer: PEER, epoch: 1, at: AT },
  { type: 'started', label: 'outer/classify', attempt: 1, block: 'classify', instance: 'in-abc', host: PEER, at: AT },
  { type: 'finished', label: 'outer/classify', attempt: 1, output: CID, host: PEER, ms: 12.5, at: AT },
  { type: 'finished', label: 'triage', attempt: 2, output: CID, host: PEER, ms: 3, at: AT, route: ['report'] },
  { type: 'skipped', label: 'novelty', because: 'triage routed elsewhere', at: AT },
  { type: 'failed', label: 'rules', attempt: 1, code: 'INSTANCE_FAILED', message: 'gone', retryable: true, at: AT },
  { type: 'completed', outputs: { report: CID }, at: AT },
  { type: 'aborted', code: 'CANCELLED', message: 'enough', at: AT },
]

type Sample = { readonly protocol: string; readonly schema: Schema<unknown>; readonly value: unknown }
const samples: Readonly<Record<string, Sample>> = {
  ...Object.fromEntries(events.map(event => [`run event ${event.type}${event.type === 'finished' && event.route !== undefined ? ' with a route' : ''}`, { protocol: 'run-event', schema: runEvent, value: event }])),
  'run claim body': { protocol: 'run-claim', schema: runClaimBody, value: { run: RUN, coordinator: PEER, epoch: 2, issuedAt: AT } },
  'run claim answer': { protocol: runClaim.id, schema: runClaim.response, value: { granted: true, coordinator: PEER, epoch: 2, finished: false, events: 3, lastEpoch: 1 } },
  'run mirror body': { protocol: 'run-mirror', schema: runMirrorBody, value: { run: RUN, epoch: 1, from: 1, events: events.slice(1, 3), issuedAt: AT, previous: 1, records: [Uint8Array.of(0xa0)] } },
  'run mirror answer': { protocol: runMirror.id, schema: runMirror.response, value: { accepted: true, have: 3, epoch: 1 } },
  'run read': { protocol: runRead.id, schema: runRead.request, value: { run: RUN, from: 2, waitMs: 5_000 } },
  'run read answer': { protocol: runRead.id, schema: runRead.response, value: { found: true, coordinator: PEER, epoch: 1, events: events.slice(2, 3) } },
}

describe('what peers say of runs', () => {
  const now = Object.entries(samples).map(([name, { protocol, schema, value }]) => ({ name, protocol, hex: hex(encode(schema.parse(value))) }))
  const fresh = now.filter(({ name }) => !stored.some(known => known.name === name))
  if (process.env['ADD_VECTORS'] !== undefined) writeFileSync(FILE, `${JSON.stringify([...stored, ...fresh], null, 2)}\n`)

  it('has golden bytes for each message, and a message for all golden bytes', () => {
    assert.deepEqual([...stored, ...(process.env['ADD_VECTORS'] === undefined ? [] : fresh)].map(({ name }) => name).sort(), now.map(({ name }) => name).sort())
  })

  for (const known of stored) {
    it(`${known.name}: still the same bytes, and read back to the same value`, () => {
      assert.equal(now.find(({ name }) => name === known.name)?.hex, known.hex)
      const sample = samples[known.name]
      assert.ok(sample !== undefined)
      assert.deepEqual(decode(sample.schema, Uint8Array.from(Buffer.from(known.hex, 'hex')), 65_536, known.name), sample.schema.parse(sample.value))
    })
  }

  it('keeps the longest batch of plain events within the message limit', () => {
    const batch = Array.from({ length: 256 }, () => events[3])
    assert.ok(encode(runMirrorBody.parse({ run: RUN, epoch: 1, from: 0, events: batch, issuedAt: AT })).byteLength < runMirror.limits.requestBytes)
  })
})
