import assert from 'node:assert/strict'
import fc from 'fast-check'
import { LastWords } from '../../src/blocks/last-words.ts'
import type { RunningInstance } from '../../src/ports.ts'

/** A process that has printed `lines`, of which its runtime kept the last `kept`. */
function process(lines: readonly string[], kept = 1_000): RunningInstance {
  const dropped = Math.max(0, lines.length - kept)
  return {
    infer: () => { throw new Error('not asked') }, health: () => Promise.reject(new Error('not asked')), management: () => Promise.reject(new Error('not asked')), update: () => Promise.reject(new Error('not asked')),
    logs: tail => lines.slice(dropped).slice(-Math.max(1, tail)), logsFrom: from => ({ next: lines.length, lines: lines.slice(Math.max(from, dropped)) }),
    usage: () => ({ memoryMb: 0, cpuMs: 0 }), metrics: () => ({}), exited: new Promise(() => undefined), async [Symbol.asyncDispose]() {},
  }
}

describe('the log of an instance', () => {
  it('goes on when its process is started again, and says what it ended of', () => {
    const words = new LastWords()
    const first = process(['loading', 'Error: bang'])
    assert.deepEqual(words.tail('in-a', first, 10), ['loading', 'Error: bang'])
    words.ended('in-a', first, 'it crashed')
    const second = process(['loading again'])
    assert.deepEqual(words.tail('in-a', second, 10), ['loading', 'Error: bang', '(it crashed)', 'loading again'])
    assert.deepEqual([words.tail('in-a', second, 2), words.tail('in-a', second, 1), words.tail('in-b', second, 9)], [['(it crashed)', 'loading again'], ['loading again'], ['loading again']])
    words.forget('in-a')
    assert.deepEqual(words.tail('in-a', second, 10), ['loading again'])
  })

  it('is told once and whole to who follows it, however often its process ends', () => {
    fc.assert(fc.property(fc.array(fc.array(fc.integer({ min: 1, max: 5 }), { maxLength: 4 }), { minLength: 1, maxLength: 5 }), lives => {
      const words = new LastWords()
      const [heard, printed]: [string[], string[]] = [[], []]
      let from = 0
      for (const [life, steps] of lives.entries()) {
        const lines: string[] = []
        const follow = (): void => {
          const { next, lines: said } = words.from('in-a', process(lines), from)
          from = next
          heard.push(...said)
        }
        follow()
        for (const [step, count] of steps.entries()) {
          for (let at = 0; at < count; at += 1) lines.push(`${life}.${step}.${at}`)
          if (step % 2 === 0) follow()
        }
        printed.push(...lines)
        if (life === lives.length - 1) follow()
        else {
          words.ended('in-a', process(lines), `end ${life}`)
          printed.push(`(end ${life})`)
        }
      }
      assert.deepEqual(heard, printed)
    }))
  })

  it('is bounded, and still numbered right, when much was printed', () => {
    const words = new LastWords()
    const lines = Array.from({ length: 5_000 }, (_, at) => String(at))
    for (let life = 0; life < 3; life += 1) words.ended('in-a', process(lines), 'full')
    const { next, lines: kept } = words.from('in-a', process(['last']), 0)
    assert.deepEqual([next, kept.length, kept.at(-1), kept.at(-2)], [15_004, 101, 'last', '(full)'])
    assert.deepEqual(words.from('in-a', process(['last']), next - 1).lines, ['last'])
  })
})
