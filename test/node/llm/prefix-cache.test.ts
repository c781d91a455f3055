import assert from 'node:assert/strict'
import fc from 'fast-check'
import { KvLayout } from '../../../node/instance/llm/kv-layout.ts'
import { KvStore } from '../../../node/instance/llm/kv-store.ts'
import { PREFIX_BLOCK } from '../../../protocols/stage.ts'
import { StageSessions } from '../../../node/instance/llm/stage-sessions.ts'

const LAYOUT = new KvLayout([{ dtype: 'float32', heads: 2, dim: 3 }])
const KV_TOKENS = 4_096

/** What the chain of blocks up to one has at a position of it: a function of the path alone. */
const rowOf = (path: string, position: number) => Uint8Array.from({ length: LAYOUT.kvBytes }, (_, at) => ([...path].reduce((sum, letter) => sum * 31 + letter.charCodeAt(0), 7) + position * 13 + at * 3) % 251)
const prefixOf = (letters: string) => [...letters].map((_, at) => letters.slice(0, at + 1))
const rowsOf = (letters: string) => Buffer.concat(prefixOf(letters).flatMap((path, block) => Array.from({ length: PREFIX_BLOCK }, (_, at) => rowOf(path, block * PREFIX_BLOCK + at))))

function sessionsOf(leastRows: number): { readonly store: KvStore; readonly sessions: StageSessions } {
  const store = new KvStore(LAYOUT, 0, leastRows)
  return { store, sessions: new StageSessions(store, { kvTokens: KV_TOKENS, contextTokens: 2_048 }) }
}

/** Computes what a session lacks of its prompt, and some of an answer. */
function complete(store: KvStore, sessions: StageSessions, id: number, letters: string, answer: number): void {
  const { kv } = sessions.get(id)!
  const rows = rowsOf(letters)
  const lacks = kv.held
  if (lacks * LAYOUT.kvBytes < rows.byteLength) sessions.write(id, lacks, letters.length * PREFIX_BLOCK - lacks, rows.subarray(lacks * LAYOUT.kvBytes))
  for (let at = 0; at < answer; at++) {
    store.seat(kv)
    sessions.write(id, kv.held, 1, rowOf(`${id}`, kv.held))
  }
}

const command = fc.record({ what: fc.constantFrom('open' as const, 'open' as const, 'close' as const, 'drop' as const), session: fc.nat({ max: 5 }), letters: fc.stringMatching(/^[ab]{1,8}$/), answer: fc.nat({ max: 70 }) })

describe('the rows of prompts that were computed before', () => {
  it('are those of the prompt for whoever gets them, and never more than there is room for', () => {
    fc.assert(fc.property(fc.constantFrom(1, 2), fc.array(command, { maxLength: 40 }), (leastRows, commands) => {
      const { store, sessions } = sessionsOf(leastRows)
      const open = new Map<number, { readonly id: number; readonly letters: string }>()
      let ids = 0
      for (const { what, session, letters, answer } of commands) {
        const one = open.get(session)
        if (what === 'open' && one === undefined) {
          const id = ids++
          sessions.open(id, letters.length * PREFIX_BLOCK + 80, prefixOf(letters), 0).fill()
          open.set(session, { id, letters })
          complete(store, sessions, id, letters, answer)
        } else if (what !== 'open' && one !== undefined) {
          open.delete(session)
          sessions.close(sessions.get(one.id)!, what === 'close')
        }
        const { reserved, cached } = sessions.room()
        assert.ok(reserved + cached <= KV_TOKENS)
        for (const { id, letters: own } of open.values()) assert.ok(Buffer.from(sessions.read(id, 0, own.length * PREFIX_BLOCK).rows).equals(rowsOf(own)))
      }
      // Whatever is kept gives way to a session that needs the room.
      for (const { id } of open.values()) sessions.close(sessions.get(id)!, true)
      for (const id of [1_000, 1_001]) sessions.open(id, 2_048, [], 0).fill()
      assert.equal(sessions.room().cached, 0)
      for (const id of [1_000, 1_001]) sessions.close(sessions.get(id)!, false)
      assert.equal(store.memoryBytes, 0)
    }), { numRuns: 60 })
  })

  it('are taken over as they lie by a prompt that goes on where a closed session ended, and copied for one that parts from it', () => {
    const { store, sessions } = sessionsOf(1)
    const begin = (id: number, letters: string): unknown => {
      const { kv, fill } = sessions.open(id, letters.length * PREFIX_BLOCK + 80, prefixOf(letters), 0)
      fill()
      return kv.arena
    }
    begin(1, 'aaaa')
    complete(store, sessions, 1, 'aaaa', 3)
    const { arena } = sessions.get(1)!.kv
    sessions.close(sessions.get(1)!, true)
    assert.equal(begin(2, 'aaaab'), arena, 'nothing is copied')
    assert.equal(sessions.get(2)!.kv.held, 4 * PREFIX_BLOCK)
    complete(store, sessions, 2, 'aaaab', 3)
    sessions.close(sessions.get(2)!, true)
    assert.notEqual(begin(3, 'aab'), arena, 'the longer prompt stays known')
    assert.equal(sessions.get(3)!.kv.held, 2 * PREFIX_BLOCK)
    complete(store, sessions, 3, 'aab', 0)
    assert.ok(Buffer.from(sessions.read(3, 0, 3 * PREFIX_BLOCK).rows).equals(rowsOf('aab')))
    begin(4, 'aaaabb')
    assert.equal(sessions.get(4)!.kv.held, 5 * PREFIX_BLOCK)
  })
})
