/**
 * Runs as a process of its own: loads one provider of one runtime and measures it, so that a driver which crashes takes
 * nobody with it. Arguments: `onnx PROVIDER`, `tfjs BACKEND` or `memory`. Prints one JSON line.
 */
import { rmSync, writeFileSync } from 'node:fs'
import { setPriority } from 'node:os'
import { join } from 'node:path'
import { openOnnx } from '../instance/onnx-model.ts'
import { tensorflow } from '../instance/tensorflow-model.ts'
import { matmulModel } from './machine-model.ts'
import { makeScratch } from './scratch.ts'

export type Measured = { readonly provider: string; readonly figure: number; readonly notes: readonly string[] }

const SIZE = 512
/** Large enough that a GPU is not measured by the cost of asking it. */
const GPU_SIZE = 2_048
const BUDGET_MS = 250
const COPY_BYTES = 67_108_864

// Whoever waits for an answer on this host comes first.
setPriority(10)
const [what, which, threads] = process.argv.slice(2)
const measured = what === 'memory' ? memory() : what === 'onnx' ? await onnx(which ?? 'cpu', Number(threads) || 1) : await tfjs()
process.stdout.write(`${JSON.stringify(measured)}\n`)
process.exit(0)

/** GB/s of copying, read and write counted. */
function memory(): Measured {
  const from = new Uint8Array(COPY_BYTES).fill(1)
  const to = new Uint8Array(COPY_BYTES)
  to.set(from)
  const seconds = fastest(() => to.set(from))
  return { provider: 'memory', figure: (2 * COPY_BYTES) / seconds / 1e9, notes: [] }
}

async function onnx(provider: string, cores: number): Promise<Measured> {
  const size = provider === 'cpu' ? SIZE : GPU_SIZE
  const folder = makeScratch('probe')
  try {
    const file = join(folder, 'matmul.onnx')
    writeFileSync(file, matmulModel(size))
    const model = await openOnnx(file, { providers: provider === 'cpu' ? [] : [provider], threads: cores })
    if (model.provider !== provider) throw new Error(model.notes[0] ?? `${provider} did not load`)
    const matrix = { dtype: 'float32' as const, shape: [size, size], data: new Float32Array(size * size).fill(0.5) }
    const seconds = await fastestOf(async () => void await model.run({ a: matrix, b: matrix }))
    return { provider, figure: gigaflops(size, seconds), notes: model.notes }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function tfjs(): Promise<Measured> {
  const { tf, backend, notes } = await tensorflow()
  const matrix = tf.ones([SIZE, SIZE])
  const seconds = await fastestOf(async () => {
    const product = tf.matMul(matrix, matrix)
    await product.data()
    product.dispose()
  })
  return { provider: backend, figure: gigaflops(SIZE, seconds), notes }
}

function gigaflops(size: number, seconds: number): number {
  return (2 * size ** 3) / seconds / 1e9
}

/** The fastest of several: what the hardware does when nobody interferes. */
function fastest(run: () => void): number {
  let best = Infinity
  for (const until = performance.now() + BUDGET_MS; performance.now() < until;) {
    const began = performance.now()
    run()
    best = Math.min(best, performance.now() - began)
  }
  return best / 1_000
}

async function fastestOf(run: () => Promise<void>): Promise<number> {
  await run()
  let best = Infinity
  for (const until = performance.now() + BUDGET_MS; performance.now() < until;) {
    const began = performance.now()
    await run()
    best = Math.min(best, performance.now() - began)
  }
  return best / 1_000
}
