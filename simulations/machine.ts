import type { Gpu } from '../protocols/resources.ts'
import type { Machine, MachineReport, MachineUsage } from '../src/ports.ts'
import type { SeededRandom } from './random.ts'

type Shape = { readonly cores: number; readonly memoryMb: number; readonly gpu?: { readonly name: string; readonly memoryMb: number; readonly count: number }; readonly weight: number }

/** The mix that a community mesh could have: laptops, servers, and a few hosts with accelerators. */
const SHAPES: readonly Shape[] = [
  { cores: 4, memoryMb: 8_192, weight: 40 },
  { cores: 8, memoryMb: 16_384, weight: 25 },
  { cores: 32, memoryMb: 131_072, weight: 10 },
  { cores: 8, memoryMb: 32_768, gpu: { name: 'NVIDIA GeForce RTX 4070', memoryMb: 12_288, count: 1 }, weight: 15 },
  { cores: 16, memoryMb: 65_536, gpu: { name: 'NVIDIA GeForce RTX 4090', memoryMb: 24_576, count: 2 }, weight: 7 },
  { cores: 96, memoryMb: 524_288, gpu: { name: 'NVIDIA H200', memoryMb: 144_384, count: 8 }, weight: 3 },
]

/** Draws a host's hardware once; every life of its peer finds the same. */
export function drawMachine(random: SeededRandom): MachineReport {
  const shape = weighted(random)
  const gpus: Gpu[] = Array.from({ length: shape.gpu?.count ?? 0 }, (_, at) => ({
    id: `gpu-${at}`,
    name: shape.gpu?.name ?? '',
    memoryMb: shape.gpu?.memoryMb ?? 0,
    freeMb: shape.gpu?.memoryMb ?? 0,
    driver: '570.86',
  }))
  const gflops = Math.round(shape.cores * (8 + random.below(8)))
  return {
    total: { cpuMilli: shape.cores * 1_000, memoryMb: shape.memoryMb, diskMb: 200_000, gpus },
    runtimes: [
      { name: 'onnx', version: '1.30.0', providers: gpus.length > 0 ? ['cuda', 'cpu'] : ['cpu'], gflops },
      { name: 'tfjs', version: '4.22.0', providers: ['wasm'], gflops: Math.round(gflops / 4) },
      { name: 'node', version: '24.19.0', providers: ['cpu'], gflops: 0 },
      { name: 'llm', version: '1.30.0', providers: ['cpu'], gflops },
    ],
    memoryGBs: 20 + random.below(60),
    os: 'linux x64 (simulated)',
    cpuModel: `simulated ${shape.cores}-core`,
    isolation: ['L0'],
    notes: [],
  }
}

/** The Machine port of a host with this hardware. */
export function simulatedMachine(report: MachineReport): Machine {
  const usage: MachineUsage = {
    cpuLoad: 0.1,
    memoryFreeMb: report.total.memoryMb,
    diskFreeMb: report.total.diskMb,
    gpus: report.total.gpus.map(gpu => ({ id: gpu.id, freeMb: gpu.freeMb, utilisation: 0 })),
  }
  return { probe: async () => report, usage: () => usage }
}

function weighted(random: SeededRandom): Shape {
  let roll = random.below(SHAPES.reduce((sum, shape) => sum + shape.weight, 0))
  for (const shape of SHAPES) {
    roll -= shape.weight
    if (roll < 0) return shape
  }
  return SHAPES[0]!
}
