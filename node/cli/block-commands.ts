import { z } from 'zod'
import { explanation } from '../../protocols/placement.ts'
import { json } from '../../protocols/ids.ts'
import { arg, count, flag, text, UsageError, type Command } from './command.ts'
import { readJson } from './json-file.ts'
import { pretty, shortId, table, warned } from './output.ts'

const instanceRow = z.object({ instance: z.string(), host: z.string(), state: z.string(), epoch: z.int(), inFlight: z.int(), queued: z.int(), latencyMs: z.number(), because: z.string().default('') })
const blockRow = z.object({ blockId: z.string(), componentURI: z.string(), minInstances: z.int(), maxInstances: z.int(), ready: z.int(), steward: z.string().nullable() })
const warnings = z.array(z.string()).default([])
const created = z.object({ blockId: z.string(), dryRun: z.boolean(), explanation: explanation.nullable(), ready: z.int(), warnings })
const performed = z.object({ task_id: z.string(), result: z.object({ blockId: z.string(), block: z.looseObject({ minInstances: z.int() }).optional(), dry_run: explanation.optional(), warnings }) })
const changed = z.object({ blockId: z.string(), revision: z.int(), replaces: z.boolean(), ready: z.int(), warnings })
const shown = z.object({ block: json, warnings, steward: z.string().nullable(), epoch: z.int().nullable(), instances: z.array(instanceRow), last: json })

const logged = z.record(z.string(), z.array(z.string()))
const logLine = z.object({ instance: z.string(), line: z.string() })

export const blockCommands: readonly Command[] = [
  {
    words: ['block', 'create'], args: 'SPEC', count: [1, 1], what: 'ask the mesh to run a component',
    options: [{ name: 'dry-run', what: 'only say who was asked, who bid what, who was refused and why' }, { name: 'no-wait', what: 'do not wait for the instances to be ready' }],
    async run(context) {
      const spec = await readJson(arg(context, 0))
      const daemon = await context.daemon()
      if (flag(context, 'dry-run')) {
        const body = created.parse(await daemon.send('POST', '/mesh/blocks', { spec, dryRun: true }))
        return context.out.result(body, () => warned(body.warnings, body.explanation === null ? `block ${body.blockId}` : explain(body.explanation)))
      }
      const { task_id: task, result } = performed.parse(await daemon.send('POST', `/api/createBlock${flag(context, 'no-wait') ? '?wait=made' : ''}`, spec))
      // A spec may itself say that it is only to be tried.
      const ready = flag(context, 'no-wait') || result.block === undefined ? 0 : result.block.minInstances
      const body = { blockId: result.blockId, dryRun: result.dry_run !== undefined, explanation: result.dry_run ?? null, ready, warnings: result.warnings, task }
      context.out.result(body, () => warned(body.warnings, body.explanation === null ? `block ${body.blockId}: ${ready} instance(s) ready` : explain(body.explanation)))
    },
  },
  {
    words: ['block', 'update'], args: 'SPEC', count: [1, 1], what: 'change a block; its instances are replaced one by one while the old ones answer',
    options: [{ name: 'no-wait', what: 'do not wait for the instances to be replaced' }],
    async run(context) {
      const spec = await readJson(arg(context, 0))
      const body = changed.parse(await (await context.daemon()).send('PUT', '/mesh/blocks', { spec, wait: !flag(context, 'no-wait') }))
      context.out.result(body, () => warned(body.warnings, `block ${body.blockId}: revision ${body.revision}, ${body.replaces ? 'replacing its instances' : 'instances kept'}${flag(context, 'no-wait') ? '' : `, ${body.ready} ready`}`))
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
      context.out.result(body, () => warned(body.warnings, [
        pretty(body.block),
        '',
        `steward ${body.steward ?? '-'}, epoch ${body.epoch ?? '-'}`,
        table(['INSTANCE', 'HOST', 'STATE', 'EPOCH', 'RUNNING', 'QUEUED', 'LATENCY', ''], body.instances.map(row => [row.instance, row.host, row.state, row.epoch, row.inFlight, row.queued, `${row.latencyMs.toFixed(1)} ms`, row.because])),
        ...(body.last === null ? [] : ['', `last placement: ${pretty(body.last)}`]),
      ].join('\n')))
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
    words: ['block', 'status'], args: 'ID', count: [1, 1], what: 'how a block is, and why, as its steward sees it',
    async run(context) {
      const body = z.looseObject({ state: z.string(), because: z.string().default('') }).catchall(json).parse(await (await context.daemon()).get(`/mesh/blocks/${encodeURIComponent(arg(context, 0))}/status`))
      context.out.result(body, () => pretty(body))
    },
  },
  {
    words: ['block', 'parameters'], args: 'ID FILE|-', count: [2, 2], what: 'change parameters of a block while it runs: its instances are told, and later ones start with them',
    async run(context) {
      const body = z.looseObject({ parameters: json, instances: z.record(z.string(), json) }).parse(await (await context.daemon()).send('POST', `/mesh/blocks/${encodeURIComponent(arg(context, 0))}/parameters`, await readJson(arg(context, 1))))
      context.out.result(body, () => `${Object.keys(body.instances).length} instance(s) told; the parameters are now ${pretty(body.parameters)}`)
    },
  },
  {
    words: ['block', 'reassign'], args: 'ID INSTANCE', count: [2, 2], what: 'bring up another instance elsewhere, and then stop this one',
    async run(context) {
      const body = await (await context.daemon()).send('POST', `/mesh/blocks/${encodeURIComponent(arg(context, 0))}/instances/${encodeURIComponent(arg(context, 1))}/reassign`)
      context.out.result(body, () => `${arg(context, 1)} goes when another has come`)
    },
  },
  {
    words: ['logs'], args: 'BLOCK', count: [1, 1], what: 'what the instances of a block print',
    options: [{ name: 'follow', what: 'and what they print from now on, also instances that come later (-f)' }, { name: 'instance', value: 'ID', what: 'only this instance' }, { name: 'tail', value: 'N', what: 'lines of each to begin with (default 100)' }],
    async run(context) {
      const query = new URLSearchParams({ tail: String(count(context, 'tail', 100)), ...(text(context, 'instance') === undefined ? {} : { instance: text(context, 'instance') ?? '' }) })
      const daemon = await context.daemon()
      const at = `/mesh/blocks/${encodeURIComponent(arg(context, 0))}/logs`
      if (!flag(context, 'follow')) {
        const body = logged.parse(await daemon.get(`${at}?${query}`))
        return context.out.result(body, () => Object.entries(body).flatMap(([instance, lines]) => lines.map(line => `${instance}  ${line}`)).join('\n'))
      }
      for await (const said of daemon.lines('GET', `${at}/follow?${query}`)) {
        const { instance, line } = logLine.parse(said)
        context.out.line({ instance, line }, () => `${instance}  ${line}`)
      }
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
