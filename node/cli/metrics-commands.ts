import { z } from 'zod'
import { arg, UsageError, type Command } from './command.ts'
import { table } from './output.ts'

const KINDS = ['node', 'cluster', 'block', 'vdag'] as const
const answer = z.object({ data: z.json() })

/** What the hosts of the mesh measure, in AIOS's documents. */
export const metricsCommands: readonly Command[] = [
  {
    words: ['metrics'], args: 'KIND [ID]', count: [1, 2], what: 'what is measured of a node, cluster, block or vdag: of one, or of all together',
    async run(context) {
      const kind = KINDS.find(known => known === context.args[0])
      if (kind === undefined) throw new UsageError(`KIND is ${KINDS.join(', ')}, not ${context.args[0]}`)
      const path = context.args.length > 1 ? `/metrics/${kind}/${encodeURIComponent(arg(context, 1))}` : `/metrics/${kind}/aggregate`
      const { data } = answer.parse(await (await context.daemon()).get(path))
      context.out.result(data, () => table(['METRIC', 'VALUE'], [...numbersOf(data, '')]))
    },
  },
]

/** Each number and text by its path; the same of several instances or nodes is one row each. */
function * numbersOf(value: unknown, path: string): Generator<readonly [string, string | number]> {
  if (typeof value === 'number') yield [path, Number(value.toFixed(3))]
  else if (typeof value === 'string') yield [path, value]
  else if (Array.isArray(value)) for (const [at, inner] of value.entries()) yield * numbersOf(inner, `${path}[${at}]`)
  else if (value !== null && typeof value === 'object') for (const [key, inner] of Object.entries(value)) yield * numbersOf(inner, path === '' ? key : `${path}.${key}`)
}
