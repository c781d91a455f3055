import assert from 'node:assert/strict'
import fc from 'fast-check'
import { KvLayout } from '../../../node/instance/llm/kv-layout.ts'
import { BATCH_ROWS, KvSession, KvStore } from '../../../node/instance/llm/kv-store.ts'

const LAYOUT = new KvLayout([{ dtype: 'float32', heads: 2, dim: 3 }, { dtype: 'float16', heads: 1, dim: 5 }])

/** The row of a position of a session, unlike any other. */
const rowOf = (session: number, position: number, version: number) => Uint8Array.from({ length: LAYOUT.kvBytes }, (_, at) => (session * 31 + position * 7 + version * 13 + at) % 251)

type Command = { readonly what: 'write' | 'seat' | 'forget' | 'run' | 'truncate'; readonly session: number; readonly size: number }
const command = fc.record({ what: fc.constantFrom('write' as const, 'write' as const, 'seat' as const, 'forget' as const, 'run' as const, 'run' as const, 'truncate' as const), session: fc.nat({ max: 19 }), size: fc.integer({ min: 1, max: 700 }) })

describe('where sessions keep their keys and values', () => {
  it('each finds its own rows again, however they are grown, seated, moved and left', () => {
    fc.assert(fc.property(fc.array(command, { maxLength: 60 }), commands => {
      const store = new KvStore(LAYOUT, 0)
      const sessions = new Map<number, { readonly kv: KvSession; readonly rows: Uint8Array[] }>()
      let version = 0
      const step = ({ what, session, size }: Command): void => {
        version++
        const one = sessions.get(session) ?? { kv: new KvSession(4_000), rows: [] }
        sessions.set(session, one)
        const { kv, rows } = one
        if (what === 'write' && kv.held + size <= kv.reserved) {
          const added = Array.from({ length: size }, (_, at) => rowOf(session, kv.held + at, version))
          store.reach(kv, kv.held + size)
          store.write(kv, kv.held, Buffer.concat(added))
          kv.held += size
          rows.push(...added)
        } else if (what === 'truncate') {
          kv.held = Math.min(kv.held, size)
          rows.length = kv.held
        } else if (what === 'forget') {
          store.forget(kv)
          sessions.delete(session)
        } else if (what === 'seat' && kv.arena !== undefined) {
          store.seat(kv)
        } else if (what === 'run') {
          const chosen = [...sessions.values()].filter(({ kv: each }, index) => each.size !== undefined && (index + size) % 3 !== 0).map(each => each.kv)
          const runs = store.runs(chosen)
          assert.deepEqual(new Set(runs.flatMap(run => run.rows.filter(row => row !== undefined))), new Set(chosen))
          for (const { arena, first, rows: places } of runs) {
            assert.ok(places.length <= BATCH_ROWS)
            for (const [row, member] of places.entries()) if (member !== undefined) assert.deepEqual([member.arena, member.slot], [arena, first + row])
          }
        }
      }
      for (const each of commands) {
        step(each)
        for (const { kv, rows } of sessions.values()) {
          if (kv.held === 0) continue
          const probe = (version * 17) % kv.held
          assert.deepEqual(Buffer.from(store.read(kv, probe, 1)), Buffer.from(rows[probe]!))
        }
      }
      for (const { kv, rows } of sessions.values()) assert.ok(Buffer.from(store.read(kv, 0, kv.held)).equals(Buffer.concat(rows)))
      for (const { kv } of sessions.values()) store.forget(kv)
      assert.equal(store.memoryBytes, 0)
    }), { numRuns: 60 })
  }).timeout(60_000)

  it('a batch that stays the same comes to lie together, and is then not moved again', () => {
    const store = new KvStore(LAYOUT, 1e9)
    const sessions = Array.from({ length: 8 }, () => new KvSession(1_000))
    for (const kv of sessions) {
      store.reach(kv, 100)
      kv.held = 100
      store.seat(kv)
    }
    const chosen = [sessions[1]!, sessions[4]!, sessions[6]!]
    for (let steps = 0; steps < 20; steps++) store.runs(chosen)
    const places = chosen.map(kv => kv.slot)
    const [run] = store.runs(chosen)
    assert.deepEqual([run?.rows.length, run?.rows.includes(undefined)], [3, false])
    for (let steps = 0; steps < 20; steps++) store.runs(chosen)
    assert.deepEqual(chosen.map(kv => kv.slot), places)
  })

  it('sessions of very different length sit apart, where padding would cost more than another run', () => {
    const seated = (weightBytes: number): number => {
      const store = new KvStore(LAYOUT, weightBytes)
      const sessions = [100, 200, 3_000].map(held => {
        const kv = new KvSession(4_000)
        store.reach(kv, held)
        kv.held = held
        store.seat(kv)
        return kv
      })
      return store.runs(sessions).length
    }
    assert.equal(seated(0), 2)
    assert.equal(seated(1e9), 1)
  })
})
