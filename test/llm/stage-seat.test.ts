import assert from 'node:assert/strict'
import type { StageFrame } from '../../protocols/stage.ts'
import { LogBudget } from '../../src/llm/boundary-log.ts'
import { Seat } from '../../src/llm/stage-seat.ts'
import { chunkAt, packTokens, unpackTokens } from '../../src/llm/prompt-chunks.ts'
import type { StageOutput, StageRunner, StageStep, TraceSpan } from '../../src/ports.ts'

const SPEC = { first: 0, end: 2, layers: 4, vocab: 100, contextTokens: 512, kvTokens: 512, inputBytes: 0, outputBytes: 1, kvBytes: 1 }
const SPAN: TraceSpan = { traceparent: undefined, end: () => undefined }

/** A first stage whose activations are the tokens themselves, and that remembers what it computed. */
function stageOf(spec = SPEC, fails = false): { readonly runner: StageRunner; readonly computed: StageStep[] } {
  const computed: StageStep[] = []
  const step = async (step: StageStep): Promise<StageOutput> => {
    computed.push(step)
    if (fails) throw new Error('it failed')
    return { computeMs: 1, batch: 1, hidden: Uint8Array.from('tokens' in step.input ? step.input.tokens : []) }
  }
  const runner: StageRunner = { spec, step, open: async () => ({ have: 0 }), writeKv: async () => undefined, readKv: async () => new Uint8Array(0), position: () => 0, close: () => undefined, load: () => ({ sessions: 1, freeTokens: 0, waiting: 0 }) }
  return { runner, computed }
}

function seatOf(runner: StageRunner): { readonly seat: Seat; readonly sent: StageFrame[]; readonly step: (position: number, tokens: readonly number[], epoch?: number) => Promise<void> } {
  const sent: StageFrame[] = []
  const seat = new Seat({ self: 'a', send: (_, frame) => void sent.push(frame), after: () => () => undefined, budget: new LogBudget(1_000) }, { session: 'gen-1', stage: 0, instance: 'in-1', runner, span: SPAN }, 'a', 1, 0)
  seat.settle('primary', 0, 100)
  const step = async (position: number, tokens: readonly number[], epoch = 1): Promise<void> => {
    if (seat.next === undefined) seat.resume(100, [{ host: 'a', from: 0 }, { host: 'b', from: 0 }])
    seat.step({ kind: 'step', session: 'gen-1', epoch, stage: 0, position, count: tokens.length, loose: 0, want: 'none', rows: 'last', input: { tokens } })
    await new Promise(setImmediate)
  }
  return { seat, sent, step }
}

const hiddens = (sent: readonly StageFrame[]) => sent.flatMap(frame => (frame.kind === 'step' && 'hidden' in frame.input ? [[frame.epoch, frame.position, ...frame.input.hidden]] : []))

describe('a seat that begins before it hears of the chain', () => {
  it('gives what it began to the step for just that, computes any other anew, and sends nothing before it is asked', async () => {
    const { runner, computed } = stageOf()
    const { seat, sent, step } = seatOf(runner)
    seat.begin(0, [5, 6])
    await new Promise(setImmediate)
    assert.equal(sent.length, 0)
    await step(0, [5, 6])
    await step(2, [7])
    assert.deepEqual(computed.map(({ position, count }) => [position, count]), [[0, 2], [2, 1]])
    assert.deepEqual(hiddens(sent), [[1, 0, 5, 6], [1, 2, 7]])
    for (const other of [[5], [5, 7], [5, 6, 7]]) {
      const again = stageOf()
      const one = seatOf(again.runner)
      one.seat.begin(0, [5, 6])
      await one.step(0, other)
      assert.equal(again.computed.length, 2)
      assert.deepEqual(hiddens(one.sent), [[1, 0, ...other]])
    }
  })

  it('forgets it under a newer epoch, says that it failed only to who asks, and begins nothing where it is the last', async () => {
    const { runner, computed } = stageOf()
    const { seat, sent, step } = seatOf(runner)
    seat.begin(0, [5, 6])
    await seat.fence(2, 'a')
    await step(0, [5, 6], 2)
    assert.equal(computed.length, 2)
    assert.deepEqual(hiddens(sent), [[2, 0, 5, 6]])
    const failing = seatOf(stageOf(SPEC, true).runner)
    failing.seat.begin(0, [5])
    await new Promise(setImmediate)
    assert.equal(failing.sent.length, 0)
    const alone = stageOf({ ...SPEC, end: 4, outputBytes: 0 })
    seatOf(alone.runner).seat.begin(0, [5])
    assert.equal(alone.computed.length, 0)
  })
})

describe('the steps of a prompt', () => {
  it('end where blocks do, and none of them is of one position but the first of all', () => {
    assert.deepEqual([0, 64, 128, 512, 519, 520].map(at => chunkAt(520, at)), [{ position: 0, count: 128 }, { position: 64, count: 64 }, { position: 128, count: 128 }, { position: 512, count: 8 }, { position: 518, count: 2 }, { position: 520, count: 1 }])
    assert.deepEqual(chunkAt(1, 0), { position: 0, count: 1 })
  })

  it('have the tokens that were packed', () => {
    assert.deepEqual(unpackTokens(packTokens([1, 70_000, 3, 4_294_967_295]), 1, 3), [70_000, 3, 4_294_967_295])
  })
})
