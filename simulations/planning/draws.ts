import type { PlanHost, PlanProblem } from '../../src/llm/plan/problem.ts'
import type { SeededRandom } from '../random.ts'

/** Accelerators and hosts of a community mesh: memory in GB, bandwidth in GB/s, dense half-precision TFLOPS; public data sheets. */
export type Device = { readonly memoryGb: number; readonly gbs: number; readonly tflops: number }
export const DEVICES: readonly Device[] = [
  { memoryGb: 80, gbs: 3_350, tflops: 990 }, { memoryGb: 80, gbs: 2_039, tflops: 312 }, { memoryGb: 48, gbs: 864, tflops: 181 }, { memoryGb: 32, gbs: 1_792, tflops: 210 },
  { memoryGb: 24, gbs: 1_008, tflops: 165 }, { memoryGb: 24, gbs: 936, tflops: 71 }, { memoryGb: 24, gbs: 300, tflops: 121 }, { memoryGb: 16, gbs: 717, tflops: 98 },
  { memoryGb: 16, gbs: 288, tflops: 44 }, { memoryGb: 12, gbs: 504, tflops: 58 },
]

/** A decoder of 70 billion parameters, one byte each. */
export const LAYERS = 80
const LAYER_BYTES = 0.86e9
/** The part of its memory that a host gives to weights. */
const FOR_WEIGHTS = 0.65

export type Host = Device & { readonly layers: number; readonly layerMs: number }

export function drawHosts(random: SeededRandom, count: number): readonly Host[] {
  return Array.from({ length: count }, () => {
    const device = random.pick(DEVICES)
    // No two of a kind are quite alike: power limits, other work.
    const pace = 0.8 + random.float() * 0.4
    return { ...device, layers: Math.floor(device.memoryGb * 1e9 * FOR_WEIGHTS / LAYER_BYTES), layerMs: LAYER_BYTES / (device.gbs * pace) / 1e6 }
  })
}

export function problemOf(hosts: readonly Host[], layers: number, hopMs: number): PlanProblem {
  return {
    hosts: hosts.map((host, at): PlanHost => ({ peer: `peer-${String(at).padStart(4, '0')}`, memoryBytes: host.layers, layerMs: Array.from({ length: layers }, () => host.layerMs), embeddingMs: 0, headMs: 0, legMs: hopMs })),
    layerBytes: Array.from({ length: layers }, () => 1), embeddingBytes: 0, headBytes: 0, stageBytes: 0, hop: () => hopMs,
  }
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)
}

export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0
}
