import type { Context, Hono } from 'hono'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json } from '../../protocols/ids.ts'
import { taskStatus, type TaskRecord } from '../../protocols/tasks.ts'
import type { Peer } from '../../src/peer.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

/** AIOS's documentation and its code name some kinds differently. */
const KINDS: Readonly<Record<string, string>> = { block_alloc: 'block_allocation', vdag_processing: 'vdag_creation', cluster_infra_creation: 'cluster_creation' }
/** AIOS's splitter says "complete". */
const status = z.preprocess(value => (value === 'complete' ? 'completed' : value), taskStatus)
const begun = z.looseObject({ task_type: z.string().min(1).max(100), task_data: json.default(null), task_status: status.optional(), task_status_data: json.optional() })
const progress = z.object({ done: z.int().nonnegative(), total: z.int().positive(), what: z.string().max(200).default('') })
const changed = z.looseObject({ status: status.optional(), task_status: status.optional(), task_status_data: json.optional(), progress: progress.optional() })

/** AIOS's task database: what was asked of any peer, and tasks that others keep here. */
export function addTaskRoutes(app: Hono, { peer }: GatewayParts): void {
  const { tasks } = peer
  const change = async (id: string, asked: z.infer<typeof changed>): Promise<TaskRecord> => {
    const to = asked.status ?? asked.task_status
    return tasks.change(id, { ...(to === undefined ? {} : { status: to }), ...(asked.task_status_data === undefined ? {} : { data: asked.task_status_data }), ...(asked.progress === undefined ? {} : { progress: asked.progress }) })
  }
  app.post('/task', async context => {
    const { task_type: type, task_data: input, task_status, task_status_data } = await body(context, begun)
    const task = await tasks.begin({ type, input })
    if (task_status !== undefined || task_status_data !== undefined) await change(task.task_id, { task_status, task_status_data })
    return context.json({ success: true, data: { task_id: task.task_id } }, 201)
  })
  app.get('/task/:id', async context => context.json({ success: true, data: viewOf(await tasks.get(context.req.param('id'))) }))
  app.put('/task/:id', async context => context.json({ success: true, data: viewOf(await change(context.req.param('id'), await body(context, changed))) }))
  app.delete('/task/:id', async context => {
    await tasks.remove(context.req.param('id'))
    return context.json({ success: true, data: { message: 'task deleted' } })
  })
  app.get('/task/:id/output', async context => {
    const { output, task_status, task_status_data } = await tasks.get(context.req.param('id'))
    if (task_status !== 'completed') throw new MeshError('NOT_FOUND', `task ${context.req.param('id')} is ${task_status}: it has no result`)
    return context.json({ success: true, data: output === undefined ? task_status_data : await tasks.content(output, context.req.raw.signal) })
  })
  app.post('/task_update', async context => {
    const { task_id: id, ...asked } = await body(context, changed.extend({ task_id: z.string().min(1) }))
    return context.json({ success: true, data: viewOf(await change(id, asked)) })
  })
  app.get('/tasks', taskList(peer))
}

/** `?task_type=` or `type`, `task_status` or `status`, `action`, `start_time`, `end_time` (seconds, milliseconds or ISO), `limit`. */
export function taskList({ tasks }: Peer) {
  return async (context: Context): Promise<Response> => {
    const asked = context.req.query()
    const limit = asked['limit'] === undefined ? undefined : Number(asked['limit'])
    if (limit !== undefined && (!Number.isInteger(limit) || limit < 1)) throw new MeshError('BAD_INPUT', `limit: ${asked['limit']} is no whole number above 0`)
    const type = asked['task_type'] ?? asked['type']
    const found = await tasks.list({ type: type === undefined ? undefined : KINDS[type] ?? type, status: asked['task_status'] ?? asked['status'], action: asked['action'], from: timeOf('start_time', asked['start_time']), to: timeOf('end_time', asked['end_time']), limit })
    return context.json({ success: true, result: found.map(viewOf), data: found.map(viewOf) })
  }
}

function viewOf(task: TaskRecord): object {
  return { ...task, id: task.task_id, status: task.task_status }
}

function timeOf(name: string, text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined
  const number = Number(text)
  const at = Number.isFinite(number) ? (number < 100_000_000_000 ? number * 1_000 : number) : Date.parse(text)
  if (!Number.isFinite(at)) throw new MeshError('BAD_INPUT', `${name}: ${text} is no time: give seconds, milliseconds or an ISO date`)
  return at
}
