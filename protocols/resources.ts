import { z } from 'zod'

/** What an instance needs. CPU in thousandths of a core, sizes in MiB. */
export const needs = z.object({
  cpuMilli: z.int().nonnegative().default(500),
  memoryMb: z.int().nonnegative().default(256),
  diskMb: z.int().nonnegative().default(0),
  gpus: z.int().nonnegative().max(64).default(0),
  /** Free memory wanted on each of those GPUs. */
  gpuMemoryMb: z.int().nonnegative().default(0),
})
export type Needs = z.infer<typeof needs>

export const gpu = z.object({
  id: z.string().max(80),
  name: z.string().max(120),
  memoryMb: z.int().nonnegative(),
  freeMb: z.int().nonnegative(),
  driver: z.string().max(80).optional(),
})
export type Gpu = z.infer<typeof gpu>

/** What a host has, in total or free. */
export const resources = z.object({
  cpuMilli: z.int().nonnegative(),
  memoryMb: z.int().nonnegative(),
  diskMb: z.int().nonnegative(),
  gpus: z.array(gpu).max(64),
})
export type Resources = z.infer<typeof resources>

/** A runtime that really loaded on a host, with the speed that was measured there. */
export const runtime = z.object({
  /** onnx, tfjs, node, container, external. */
  name: z.string().max(40),
  version: z.string().max(40),
  /** ONNX Runtime execution providers or TensorFlow.js backends that loaded, best first; what containers may have; servers that may be called. */
  providers: z.array(z.string().max(200)).max(16),
  /** Measured matrix throughput in GFLOP/s; 0 where not measured. */
  gflops: z.number().nonnegative(),
})
export type Runtime = z.infer<typeof runtime>
