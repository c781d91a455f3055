import assert from 'node:assert/strict'
import { capacityAd, type CapacityAd } from '../../../protocols/capacity.ts'
import { modelManifest, type ModelManifest } from '../../../protocols/model.ts'
import { planModel, type PlanWish } from '../../../src/llm/plan/plan-model.ts'
import { stageNeeds, stageThreads } from '../../../src/llm/plan/stage-needs.ts'
import { samples } from '../../protocols/samples.ts'

const MIB = 1_048_576
const sample = modelManifest.parse(samples['model manifest']?.value)

/** Twelve layers of 40 MiB, 1 KiB of KV a position each; embedding and head of 100 MiB. */
const manifest: ModelManifest = {
  ...sample,
  facts: { ...sample.facts, contextTokens: 8_192 },
  layers: Array.from({ length: 12 }, (_, at) => ({ weightBytes: 40 * MIB, readBytes: 40 * MIB, flops: 20e6, kvBytes: 1_024, boundaryBytes: 4_096, piece: `layer-${at}.bin` })),
  embedding: { weightBytes: 100 * MIB, readBytes: 4_096, flops: 0 },
  head: { weightBytes: 100 * MIB, readBytes: 100 * MIB, flops: 50e6 },
}

function ad(peer: string, { memoryMb = 16_384, memoryGBs = 20, gflops = 100, cpuMilli = 4_000, runtime = 'llm' }: { readonly memoryMb?: number; readonly memoryGBs?: number; readonly gflops?: number; readonly cpuMilli?: number; readonly runtime?: string } = {}): CapacityAd {
  const has = { cpuMilli, memoryMb, diskMb: 100_000, gpus: [] }
  return capacityAd.parse({ peer, cluster: peer, incarnation: 1, sequence: 1, issuedAt: 1, ttlMs: 10_000, protocolMajor: 1, labels: {}, total: has, free: has, runtimes: [{ name: runtime, version: '1', providers: ['cpu'], gflops }], memoryGBs, cpuLoad: 0, instances: [], holds: [] })
}

const wish = (over: Partial<PlanWish> = {}): PlanWish => ({ aim: 'latency', shards: 'auto', contextTokens: 1_024, sessions: 4, ...over })
const near = { origin: 'origin-peer', distance: () => 1 }

describe('planning a model', () => {
  it('keeps one stream on one host where that is quickest', () => {
    const { ok, ...rest } = planModel(manifest, [ad('peer-slow', { memoryGBs: 5 }), ad('peer-fast', { memoryGBs: 50 })], wish(), near)
    assert(ok && 'value' in rest)
    assert.deepEqual(rest.value.stages.map(({ peer, first, end }) => ({ peer, first, end })), [{ peer: 'peer-fast', first: 0, end: 12 }])
    // 580 MiB and a row of the embedding to read at 50 GB/s, and the KV of half a context.
    assert(Math.abs(rest.value.stages[0]!.ms - (580 * MIB + 4_096 + 12 * 1_024 * 512) / 50e6) < 1e-6)
  })

  it('gives more layers to who reads faster when all shall be kept busy, and room for the KV that was promised', () => {
    const verdict = planModel(manifest, [ad('peer-slow', { memoryGBs: 10 }), ad('peer-fast', { memoryGBs: 30 })], wish({ aim: 'throughput', shards: 2, sessions: 8 }), near)
    assert(verdict.ok)
    const layers = new Map(verdict.value.stages.map(({ peer, first, end }) => [peer, end - first]))
    assert(layers.get('peer-fast')! > 2 * layers.get('peer-slow')!)
    for (const { first, end, needs } of verdict.value.stages) assert.deepEqual(needs, stageNeeds(manifest, first, end, { contextTokens: 1_024, sessions: 8 }))
    const [one] = verdict.value.stages
    assert(stageNeeds(manifest, one!.first, one!.end, { contextTokens: 1_024, sessions: 80 }).memoryMb > one!.needs.memoryMb)
  })

  it('computes with as many threads as there are cores, and no more than its weights keep busy', () => {
    assert.equal(stageThreads(manifest, 0, 12, 8), 8)
    assert.equal(stageThreads(manifest, 0, 1, 8), 2)
    assert.equal(stageThreads(manifest, 11, 12, 16), 8)
    assert.equal(stageThreads(manifest, 0, 12, 0), 1)
  })

  it('splits what no host can hold, and what it promises fits each of them', () => {
    const hosts = ['peer-aaaa', 'peer-bbbb', 'peer-cccc'].map(peer => ad(peer, { memoryMb: 480 }))
    const verdict = planModel(manifest, hosts, wish(), near)
    assert(verdict.ok)
    assert.equal(verdict.value.stages.length, 3)
    for (const { needs } of verdict.value.stages) assert(needs.memoryMb <= 480)
  })

  it('leaves out who cannot, and says why; refuses with what is missing', () => {
    const unfit = [ad('peer-onnx', { runtime: 'onnx' }), ad('peer-busy', { cpuMilli: 400 })]
    const verdict = planModel(manifest, [...unfit, ad('peer-good')], wish(), near)
    assert(verdict.ok)
    assert.deepEqual(verdict.value.refused.map(({ peer }) => peer), ['peer-onnx', 'peer-busy'])
    const none = planModel(manifest, unfit, wish(), near)
    assert(!none.ok && none.retryable && /no llm runtime/.test(none.because))
    const small = planModel(manifest, [ad('peer-small', { memoryMb: 200 })], wish(), near)
    assert(!small.ok && /1 hosts have 200 MiB free/.test(small.because))
    const long = planModel(manifest, [ad('peer-good')], wish({ contextTokens: 9_000 }), near)
    assert(!long.ok && !long.retryable)
    const many = planModel(manifest, [ad('peer-good')], wish({ shards: 2 }), near)
    assert(!many.ok && /2 stages need as many hosts/.test(many.because))
  })

  it('plans around hosts it is told to avoid, and puts those that have not measured themselves last', () => {
    const hosts = [ad('peer-aaaa'), ad('peer-bbbb', { memoryGBs: 0, gflops: 0 }), ad('peer-cccc', { memoryGBs: 15 })]
    const chosen = (avoid: readonly string[]): string | undefined => {
      const verdict = planModel(manifest, hosts, wish({ shards: 1 }), { ...near, avoid: new Map(avoid.map(peer => [peer, 'it refused'])) })
      return verdict.ok ? verdict.value.stages[0]?.peer : undefined
    }
    assert.equal(chosen([]), 'peer-aaaa')
    assert.equal(chosen(['peer-aaaa']), 'peer-cccc')
    assert.equal(chosen(['peer-aaaa', 'peer-cccc']), 'peer-bbbb')
  })

  it('uses no more stages for throughput than sessions can fill', () => {
    const hosts = Array.from({ length: 6 }, (_, at) => ad(`peer-${at}000`))
    const stages = (sessions: number): number => {
      const verdict = planModel(manifest, hosts, wish({ aim: 'throughput', sessions }), near)
      assert(verdict.ok)
      return verdict.value.stages.length
    }
    assert.equal(stages(1), 1)
    assert(stages(2) <= 2)
    assert(stages(32) > 3)
  })
})
