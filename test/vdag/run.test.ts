import assert from 'node:assert/strict'
import fc from 'fast-check'
import type { RunEvent } from '../../protocols/runs.ts'
import { indexPlan, plan as planSchema, type PlanIndex } from '../../src/vdag/plan.ts'
import { advanceRun, beginRun, type Began, type Run, type RunEffect } from '../../src/vdag/run.ts'

const PEER = '12D3KooWcoordinator'
const BEGAN: Began = { type: 'began', run: 'run-1', key: '', vdag: 'v:1', plan: 'bafyplan00', input: 'bafyinput0', submitter: PEER, at: 0 }

type Shape = { readonly size: number; readonly edges: readonly (readonly [number, number])[]; readonly fallbacks: readonly number[] }

/** A graph on 0..size-1 whose edges go upwards only. */
const shape: fc.Arbitrary<Shape> = fc.integer({ min: 1, max: 9 }).chain(size => fc.record({
  size: fc.constant(size),
  edges: size === 1 ? fc.constant([]) : fc.uniqueArray(fc.tuple(fc.integer({ min: 0, max: size - 2 }), fc.integer({ min: 1, max: size - 1 })).map(([a, b]) => (a < b ? [a, b] as const : [b, a === b ? a + 1 : a] as const)), { selector: String, maxLength: 20 }),
  fallbacks: fc.array(fc.integer({ min: 0, max: 2 }), { minLength: size, maxLength: size }),
}))

function indexOf({ size, edges, fallbacks }: Shape, retries = 6): PlanIndex {
  const labels = Array.from({ length: size }, (_, at) => `n${at}`)
  return indexPlan(planSchema.parse({
    vdag: 'v:1',
    nodes: labels.map((label, at) => ({
      label,
      inputs: edges.filter(([, to]) => to === at).map(([from]) => ({ from: labels[from], scope: '', as: label })),
      players: Array.from({ length: 1 + (fallbacks[at] ?? 0) }, (_, player) => ({ label: player === 0 ? label : `f${player}`, blocks: ['b'], pre: [], post: [], join: 'auto' })),
    })),
    outputs: labels.filter((_, at) => !edges.some(([from]) => from === at)),
    limits: { attempts: 2, retries, firstMs: 100, maxMs: 1_000, deadlineMs: 1_000 },
  }))
}

function replay(index: PlanIndex, events: readonly RunEvent[]): Run {
  return events.reduce<Run>((run, event) => advanceRun(run, event)[0], beginRun(index, BEGAN))
}

/** Executes effects in an order and with results that `draw` decides; now and then the coordinator is replaced. */
function execute(index: PlanIndex, draw: (limit: number) => number): { readonly events: RunEvent[]; readonly invoked: Extract<RunEffect, { type: 'invoke' }>[]; readonly state: Run } {
  const events: RunEvent[] = [BEGAN]
  const invoked: Extract<RunEffect, { type: 'invoke' }>[] = []
  let state = beginRun(index, BEGAN)
  let waiting: RunEffect[] = []
  const write = (event: RunEvent): void => {
    events.push(event)
    const [next, effects] = advanceRun(state, event)
    state = next
    waiting.push(...effects)
    for (const effect of effects) if (effect.type === 'invoke') invoked.push(effect)
  }
  write({ type: 'coordinator', peer: PEER, epoch: 1, at: 0 })
  for (let steps = 0; state.end === undefined; steps += 1) {
    assert.ok(steps < 2_000 && waiting.length > 0, 'a run that has not ended has something under way')
    if (draw(12) === 0) {
      // kill -9: effects under way are lost, the events are not.
      waiting = []
      state = replay(index, events)
      write({ type: 'coordinator', peer: PEER, epoch: state.epoch + 1, at: 0 })
      continue
    }
    const [effect] = waiting.splice(draw(waiting.length), 1)
    if (effect?.type === 'skip') write({ type: 'skipped', label: effect.label, because: effect.because, at: 0 })
    if (effect?.type === 'complete') write({ type: 'completed', outputs: { ...effect.outputs }, at: 0 })
    if (effect?.type === 'abort') write({ type: 'aborted', code: effect.code, message: effect.message, at: 0 })
    if (effect?.type !== 'invoke') continue
    const fate = draw(10)
    const next = index.next.get(effect.label) ?? []
    if (fate < 7) {
      const done: RunEvent = { type: 'finished', label: effect.label, attempt: effect.attempt, output: `bafy${effect.label}out`, host: PEER, ms: 1, at: 0, ...(fate === 0 ? { route: next.filter(() => draw(2) === 0) } : {}) }
      write(done)
      // A duplicate, and one of a node nobody has heard of.
      if (draw(4) === 0) write(done)
      if (draw(6) === 0) write({ ...done, label: 'stranger' })
    } else write({ type: 'failed', label: effect.label, attempt: effect.attempt, code: 'INSTANCE_FAILED', message: 'gone', retryable: fate < 9, at: 0 })
  }
  return { events, invoked, state }
}

/** Draws from a list of numbers, over and over. */
function drawing(numbers: readonly number[]): (limit: number) => number {
  let at = 0
  return limit => {
    at += 1
    return Math.abs((numbers[at % numbers.length] ?? 0) + at * 7_919) % Math.max(1, limit)
  }
}

const draws = fc.array(fc.nat(1_000_000), { minLength: 8, maxLength: 64 })

describe('the life of a run', () => {
  it('ends, whatever fails and in whatever order', () => {
    fc.assert(fc.property(shape, draws, (shape, numbers) => {
      const { events } = execute(indexOf(shape), drawing(numbers))
      assert.equal(events.filter(({ type }) => type === 'completed' || type === 'aborted').length, 1)
    }), { numRuns: 400 })
  })

  it('never asks again for a node that is done or skipped', () => {
    fc.assert(fc.property(shape, draws, (shape, numbers) => {
      const index = indexOf(shape)
      const { events } = execute(index, drawing(numbers))
      let state = beginRun(index, BEGAN)
      const closed = new Set<string>()
      for (const event of events) {
        const [next, effects] = advanceRun(state, event)
        state = next
        for (const [label, { phase }] of state.nodes) if (phase === 'done' || phase === 'skipped') closed.add(label)
        for (const effect of effects) if (effect.type === 'invoke') assert.ok(!closed.has(effect.label), `${effect.label} was asked for again`)
      }
    }), { numRuns: 300 })
  })

  it('is rebuilt by its events', () => {
    fc.assert(fc.property(shape, draws, (shape, numbers) => {
      const index = indexOf(shape)
      const { events, state } = execute(index, drawing(numbers))
      assert.deepEqual(replay(index, events), state)
    }), { numRuns: 200 })
  })

  it('changes nothing after its end', () => {
    fc.assert(fc.property(shape, draws, (shape, numbers) => {
      const index = indexOf(shape)
      const { events, state } = execute(index, drawing(numbers))
      for (const event of events) assert.deepEqual(advanceRun(state, event), [state, []])
      assert.deepEqual(advanceRun(state, { type: 'coordinator', peer: PEER, epoch: 10_000, at: 0 }), [state, []])
    }), { numRuns: 100 })
  })

  it('completes with every node done or skipped and only outputs of nodes that are done', () => {
    fc.assert(fc.property(shape, draws, (shape, numbers) => {
      const { state } = execute(indexOf(shape), drawing(numbers))
      if (state.end?.type !== 'completed') return
      assert.ok([...state.nodes.values()].every(({ phase }) => phase === 'done' || phase === 'skipped'))
      for (const [label, cid] of Object.entries(state.end.outputs)) {
        const node = state.nodes.get(label)
        assert.equal(node?.phase === 'done' ? node.output : undefined, cid)
      }
    }), { numRuns: 200 })
  })

  it('retries no more often than its budget allows', () => {
    fc.assert(fc.property(shape, draws, fc.integer({ min: 0, max: 4 }), (shape, numbers, retries) => {
      const { state } = execute(indexOf(shape, retries), drawing(numbers))
      assert.ok(state.retries <= retries)
    }), { numRuns: 200 })
  })

  it('invokes a join once, with what can still arrive, in edge order', () => {
    const index = indexOf({ size: 4, edges: [[0, 1], [0, 2], [1, 3], [2, 3]], fallbacks: [0, 0, 0, 0] })
    let state = beginRun(index, BEGAN)
    const step = (event: RunEvent): readonly RunEffect[] => {
      const [next, effects] = advanceRun(state, event)
      state = next
      return effects
    }
    const finished = (label: string, route?: string[]): RunEvent => ({ type: 'finished', label, attempt: 1, output: `bafyof${label}`, host: PEER, ms: 1, at: 0, ...(route === undefined ? {} : { route }) })
    step({ type: 'coordinator', peer: PEER, epoch: 1, at: 0 })
    assert.deepEqual(step(finished('n0', ['n2'])).map(effect => effect.type === 'complete' || effect.type === 'abort' ? effect.type : `${effect.type} ${effect.label}`), ['skip n1', 'invoke n2'])
    assert.deepEqual(step(finished('n2')), [], 'n3 still waits to hear of n1')
    const [join] = step({ type: 'skipped', label: 'n1', because: '', at: 0 })
    assert.ok(join?.type === 'invoke' && join.label === 'n3')
    assert.deepEqual(join.arrivals.map(({ output }) => output), ['bafyofn2'])
  })

  it('waits longer after each failure, within the policy, and not equally for all', () => {
    const index = indexPlan({ ...indexOf({ size: 2, edges: [], fallbacks: [0, 0] }).plan, limits: { attempts: 20, retries: 100, firstMs: 100, maxMs: 3_000, deadlineMs: 1 } })
    const delays = (label: string): number[] => {
      let state = advanceRun(beginRun(index, BEGAN), { type: 'coordinator', peer: PEER, epoch: 1, at: 0 })[0]
      return Array.from({ length: 10 }, (_, at) => {
        const [next, effects] = advanceRun(state, { type: 'failed', label, attempt: at + 1, code: 'NO_INSTANCE', message: '', retryable: true, at: 0 })
        state = next
        const [again] = effects
        assert.ok(again?.type === 'invoke')
        return again.delayMs
      })
    }
    const first = delays('n0')
    for (const [at, delay] of first.entries()) {
      const ceiling = Math.min(3_000, 100 * 2 ** at)
      assert.ok(delay >= ceiling / 2 && delay <= ceiling, `${delay} of ${ceiling}`)
    }
    assert.notDeepEqual(delays('n1'), first)
    assert.deepEqual(delays('n0'), first)
  })
})
