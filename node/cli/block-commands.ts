import { z } from 'zod'
import { explanation } from '../../protocols/placement.ts'
import { json } from '../../protocols/ids.ts'
import { arg, count, flag, text, UsageError, type Command } from './command.ts'
import { readJson } from './json-file.ts'
import { pretty, shortId, table } from './output.ts'

const instanceRow = z.object({ instance: z.string(), host: z.string(), state: z.string(), epoch: z.int(), inFlight: z.int(), queued: z.int(), latencyMs: z.number(), because: z.string().default('') })
const blockRow = z.object({ blockId: z.string(), componentURI: z.string(), minInstances: z.int(), maxInstances: z.int(), ready: z.int(), steward: z.string().nullable() })
const created = z.object({ blockId: z.string(), dryRun: z.boolean(), explanation: explanation.nullable(), ready: z.int() })
const changed = z.object({ blockId: z.string(), revision: z.int(), replaces: z.boolean(), ready: z.int() })
const shown = z.object({ block: json, steward: z.string().nullable(), epoch: z.int().nullable(), instances: z.array(instanceRow), last: json })

export const blockCommands: readonly Command[] = [
  {
    words: ['block', 'create'], args: 'SPEC', count: [1, 1], what: 'ask the mesh to run a component',
    options: [{ name: 'dry-run', what: 'only say who was asked, who bid what, who was refused and why' }, { name: 'no-wait', what: 'do not wait for the instances to be ready' }],
    async run(context) {
      const dryRun = flag(context, 'dry-run')
      const spec = await readJson(arg(context, 0))
      const body = created.parse(await (await context.daemon()).send('POST', '/mesh/blocks', { spec, dryRun, wait: !flag(context, 'no-wait') }))
      context.out.result(body, () => (body.dryRun && body.explanation !== null ? explain(body.explanation) : `block ${body.blockId}: ${body.ready} instance(s) ready`))
    },
  },
  {
    words: ['block', 'update'], args: 'SPEC', count: [1, 1], what: 'change a block; its instances are replaced one by one while the old ones answer',
    options: [{ name: 'no-wait', what: 'do not wait for the instances to be replaced' }],
    async run(context) {
      const spec = await readJson(arg(context, 0))
      const body = changed.parse(await (await context.daemon()).send('PUT', '/mesh/blocks', { spec, wait: !flag(context, 'no-wait') }))
      context.out.result(body, () => `block ${body.blockId}: revision ${body.revision}, ${body.replaces ? 'replacing its instances' : 'instances kept'}${flag(context, 'no-wait') ? '' : `, ${body.ready} ready`}`)
    },
  },
  {
    words: ['block', 'list'], args: '', count: [0, 0], what: 'blocks of the network',
    async run(context) {
      const rows = z.array(blockRow).parse(await (await context.daemon()).get('/mesh/blocks'))
      context.out.result(rows, () => table(['BLOCK', 'READY', 'MIN', 'MAX', 'STEWARD', 'COMPONENT'], rows.map(row => [row.blockId, row.ready, row.minInstances, row.maxInstances, row.steward === null ? '-' : shortId(row.steward), row.componentURI])))
    },
  },
  {
    words: ['block', 'show'], args: 'ID', count: [1, 1], what: 'one block: its spec, its instances, its last placement',
    async run(context) {
      const body = shown.parse(await (await context.daemon()).get(`/mesh/blocks/${encodeURIComponent(arg(context, 0))}`))
      context.out.result(body, () => [
        pretty(body.block),
        '',
        `steward ${body.steward ?? '-'}, epoch ${body.epoch ?? '-'}`,
        table(['INSTANCE', 'HOST', 'STATE', 'EPOCH', 'RUNNING', 'QUEUED', 'LATENCY', ''], body.instances.map(row => [row.instance, row.host, row.state, row.epoch, row.inFlight, row.queued, `${row.latencyMs.toFixed(1)} ms`, row.because])),
        ...(body.last === null ? [] : ['', `last placement: ${pretty(body.last)}`]),
      ].join('\n'))
    },
  },
  {
    words: ['block', 'scale'], args: 'ID N', count: [2, 2], what: 'change how many instances a block keeps',
    async run(context) {
      const instances = Number(arg(context, 1))
      if (!Number.isInteger(instances) || instances < 0) throw new UsageError(`N is a whole number, not ${arg(context, 1)}`)
      const body = await (await context.daemon()).send('POST', `/mesh/blocks/${encodeURIComponent(arg(context, 0))}/scale`, { instances })
      context.out.result(body, () => `block ${arg(context, 0)} now keeps ${instances} instance(s)`)
    },
  },
  {
    words: ['block', 'remove'], args: 'ID', count: [1, 1], what: 'stop a block and forget it',
    async run(context) {
      const body = await (await context.daemon()).send('DELETE', `/mesh/blocks/${encodeURIComponent(arg(context, 0))}`)
      context.out.result(body, () => `block ${arg(context, 0)} removed`)
    },
  },
  {
    words: ['block', 'logs'], args: 'ID', count: [1, 1], what: 'what its instances printed',
    options: [{ name: 'instance', value: 'ID', what: 'only this instance' }, { name: 'tail', value: 'N', what: 'lines of each (default 100)' }],
    async run(context) {
      const query = new URLSearchParams({ tail: String(count(context, 'tail', 100)), ...(text(context, 'instance') === undefined ? {} : { instance: text(context, 'instance') ?? '' }) })
      const body = z.record(z.string(), z.array(z.string())).parse(await (await context.daemon()).get(`/mesh/blocks/${encodeURIComponent(arg(context, 0))}/logs?${query}`))
      context.out.result(body, () => Object.entries(body).flatMap(([instance, lines]) => lines.map(line => `${instance}  ${line}`)).join('\n'))
    },
  },
]

function explain(explained: z.infer<typeof explanation>): string {
  const rows = explained.candidates.map(({ peer, step, ok, score, because }) => [ok ? 'yes' : 'no', step, score === undefined ? '' : score.toFixed(3), peer, because])
  return [table(['OK', 'STEP', 'SCORE', 'PEER', 'BECAUSE'], rows), '', explained.chosen === undefined ? `no peer would run ${explained.block}` : `${explained.block} would run on ${explained.chosen}`].join('\n')
}
