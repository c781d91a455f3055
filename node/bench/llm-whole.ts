/** A whole model in one process, as one would run it without a mesh: ONNX Runtime, its caches fed back. Reads `{ prompt, count, forced? }` a line, answers `{ ids, ms }`. */
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { z } from 'zod'

const [folder = '', threads = '1'] = process.argv.slice(2)
const order = z.object({ prompt: z.array(z.int()), count: z.int(), forced: z.array(z.int()).optional() })

const session = await InferenceSession.create(join(folder, 'model.onnx'), { intraOpNumThreads: Number(threads), interOpNumThreads: 1, extra: { session: { intra_op: { allow_spinning: '0' } } } })
const caches = session.inputMetadata.filter(input => input.name.startsWith('past_key_values'))
process.stdout.write('{"ready":true}\n')
for await (const line of createInterface({ input: process.stdin })) {
  const { prompt, count, forced } = order.parse(JSON.parse(line))
  process.stdout.write(`${JSON.stringify(await greedy(prompt, count, forced))}\n`)
}

/** `forced`: what really comes next each time, whatever it would have said itself. */
async function greedy(prompt: readonly number[], count: number, forced?: readonly number[]): Promise<{ readonly ids: readonly number[]; readonly ms: readonly number[] }> {
  let past = new Map<string, Tensor>(caches.map(input => [input.name, empty(input)]))
  let length = 0
  let next: readonly number[] = prompt
  const ids: number[] = []
  const ms: number[] = []
  while (ids.length < count) {
    const began = performance.now()
    const total = length + next.length
    const given: Readonly<Record<string, Tensor>> = { input_ids: whole(next), attention_mask: whole(Array.from({ length: total }, () => 1)), position_ids: whole(next.map((_, at) => length + at)) }
    const feeds: Record<string, Tensor> = {}
    for (const name of session.inputNames) {
      const tensor = given[name] ?? past.get(name)
      if (tensor !== undefined) feeds[name] = tensor
    }
    const results = await session.run(feeds)
    past = new Map(caches.map(({ name }) => [name, results[name.replace('past_key_values', 'present')] ?? empty({ name, type: 'float32', shape: [] })]))
    length = total
    const id = likeliest(results['logits'])
    ms.push(performance.now() - began)
    ids.push(id)
    next = [forced?.[ids.length - 1] ?? id]
  }
  return { ids, ms }
}

function whole(values: readonly number[]): Tensor {
  return new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length])
}

function empty(input: { readonly name: string; readonly type?: unknown; readonly shape?: readonly (string | number)[] }): Tensor {
  const dims = (input.shape ?? []).map((size, axis) => (axis === 0 ? 1 : typeof size === 'number' && size > 0 ? size : 0))
  return input.type === 'float16' ? new Tensor('float16', new Uint16Array(0), dims) : new Tensor('float32', new Float32Array(0), dims)
}

function likeliest(logits: Tensor | undefined): number {
  if (logits === undefined || !(logits.data instanceof Float32Array)) throw new Error('the model gives no fp32 logits')
  const row = logits.data.subarray(logits.data.length - Number(logits.dims.at(-1)))
  let best = 0
  for (let id = 1; id < row.length; id += 1) if ((row[id] ?? -Infinity) > (row[best] ?? -Infinity)) best = id
  return best
}
