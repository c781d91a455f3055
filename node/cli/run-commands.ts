import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import { runEvent, type RunEvent } from '../../protocols/runs.ts'
import { arg, count, flag, text, UsageError, type Command, type Context } from './command.ts'
import { readJson } from './json-file.ts'
import { pretty, shortId, table, warned } from './output.ts'

const submitted = z.object({ run: z.string(), existing: z.boolean() })
const runBody = z.object({ run: z.string(), vdag: z.string(), state: z.string(), coordinator: z.string().nullable(), events: z.array(runEvent), outputs: z.record(z.string(), json).nullable(), error: z.object({ code: z.string(), message: z.string() }).nullable() })
const runRow = z.object({ run: z.string(), vdag: z.string(), state: z.string(), coordinator: z.string().nullable(), began: z.number() })
const checkedVdag = z.looseObject({ uri: z.string(), cid: z.string().nullable(), warnings: z.array(z.string()).default([]) })
const publishedVdag = z.object({ task_id: z.string(), result: checkedVdag })
const inferred = z.object({ outputs: z.array(z.object({ sessionId: z.string(), seqNo: z.int(), data: json }).loose()) })

export const runCommands: readonly Command[] = [
  {
    words: ['vdag', 'create'], args: 'SPEC', count: [1, 1], what: 'check and publish a graph of blocks',
    options: [{ name: 'dry-run', what: 'only check' }],
    async run(context) {
      const daemon = await context.daemon()
      const spec = await readJson(arg(context, 0))
      const made = flag(context, 'dry-run')
        ? { task_id: null, result: checkedVdag.parse(await daemon.send('POST', '/mesh/vdags', { spec, dryRun: true })) }
        : publishedVdag.parse(await daemon.send('POST', '/api/createvDAG', spec))
      const { uri, cid, warnings } = made.result
      context.out.result({ ...made.result, task: made.task_id }, () => warned(warnings, `${cid === null ? 'valid' : 'published'} ${uri}`))
    },
  },
  {
    words: ['vdag', 'submit'], args: 'URI', count: [1, 1], what: 'run a graph on an input',
    options: [
      { name: 'input', value: 'FILE|-', what: 'the input, as JSON' },
      { name: 'key', value: 'K', what: 'idempotency key: the same key is the same run, from any peer' },
      { name: 'follow', what: 'show each step as it happens' },
      { name: 'no-wait', what: 'print the run id and leave' },
    ],
    async run(context) {
      const input = text(context, 'input')
      if (input === undefined) throw new UsageError('usage: aios vdag submit URI --input FILE|- [--key K] [--follow]')
      const daemon = await context.daemon()
      const key = text(context, 'key')
      const { run, existing } = submitted.parse(await daemon.send('POST', '/mesh/runs', { vdag: arg(context, 0), input: await readJson(input), ...(key === undefined ? {} : { key }) }))
      if (flag(context, 'no-wait')) return context.out.result({ run, existing }, () => run)
      if (existing) context.out.note(`this key has a run already: ${run}`)
      for await (const line of daemon.lines('GET', `/mesh/runs/${run}/events`)) {
        const event = runEvent.parse(line)
        if (flag(context, 'follow')) context.out.line(event, () => describe(event))
      }
      await finish(context, runBody.parse(await daemon.get(`/mesh/runs/${run}`)))
    },
  },
  {
    words: ['vdag', 'runs'], args: '', count: [0, 0], what: 'runs this peer knows of',
    async run(context) {
      const rows = z.array(runRow).parse(await (await context.daemon()).get('/mesh/runs'))
      context.out.result(rows, () => table(['RUN', 'STATE', 'BEGAN', 'COORDINATOR', 'VDAG'], rows.map(row => [row.run, row.state, new Date(row.began).toISOString(), row.coordinator === null ? '-' : shortId(row.coordinator), row.vdag])))
    },
  },
  {
    words: ['vdag', 'show'], args: 'RUN', count: [1, 1], what: 'one run, step by step',
    async run(context) {
      const body = runBody.parse(await (await context.daemon()).get(`/mesh/runs/${encodeURIComponent(arg(context, 0))}`))
      context.out.result(body, () => [`${body.run}  ${body.state}  ${body.vdag}`, ...body.events.map(describe), ...(body.outputs === null ? [] : ['', pretty(body.outputs)])].join('\n'))
    },
  },
  { words: ['vdag', 'list'], args: '', count: [0, 0], what: 'graphs of the network', async run(context) {
    const rows = z.array(z.object({ uri: z.string(), cid: z.string() })).parse(await (await context.daemon()).get('/mesh/vdags'))
    context.out.result(rows, () => table(['URI', 'CID'], rows.map(row => [row.uri, row.cid])))
  } },
  {
    words: ['infer'], args: 'BLOCK', count: [1, 1], what: 'call one block',
    options: [{ name: 'input', value: 'FILE|-', what: 'the input, as JSON' }, { name: 'session', value: 'ID', what: 'session id' }, { name: 'deadline', value: 'MS', what: 'default 60000' }],
    async run(context) {
      const input = text(context, 'input')
      if (input === undefined) throw new UsageError('usage: aios infer BLOCK --input FILE|-')
      const deadlineMs = count(context, 'deadline', 60_000)
      const body = await (await context.daemon()).sendLong('POST', '/v1/infer', {
        model: arg(context, 0), data: await readJson(input), session_id: text(context, 'session') ?? '', seq_no: 0, deadline_ms: deadlineMs,
      })
      const { outputs } = inferred.parse(body)
      context.out.result(body, () => outputs.map(({ data }) => pretty(data)).join('\n'))
    },
  },
]

async function finish(context: Context, body: z.infer<typeof runBody>): Promise<void> {
  if (body.error !== null) throw new MeshError('RUN_FAILED', `${body.run}: ${body.error.code}: ${body.error.message}`)
  context.out.result(body, () => pretty(only(body.outputs)))
}

/** A graph with one output is shown as that output. */
function only(outputs: Readonly<Record<string, Json>> | null): Json {
  if (outputs === null) return null
  const values = Object.values(outputs)
  return values.length === 1 ? values[0] ?? null : outputs
}

function describe(event: RunEvent): string {
  switch (event.type) {
    case 'began': return `began       ${event.vdag}`
    case 'coordinator': return `coordinator ${shortId(event.peer)} (epoch ${event.epoch})`
    case 'started': return `started     ${event.label}  on ${shortId(event.host)}${event.attempt > 1 ? `, attempt ${event.attempt}` : ''}`
    case 'finished': return `finished    ${event.label}  in ${event.ms.toFixed(1)} ms`
    case 'skipped': return `skipped     ${event.label}  ${event.because}`
    case 'failed': return `failed      ${event.label}  ${event.code}: ${event.message}`
    case 'completed': return 'completed'
    case 'aborted': return `aborted     ${event.code}: ${event.message}`
  }
}
