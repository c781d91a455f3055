import { z } from 'zod'
import { json } from '../../protocols/ids.ts'
import { taskRecord, type TaskRecord } from '../../protocols/tasks.ts'
import { arg, count, text, type Command } from './command.ts'
import { pretty, shortId, table } from './output.ts'

const tasks = z.object({ data: z.array(taskRecord) })
const one = z.object({ data: taskRecord })
const performed = z.object({ task_id: z.string(), status: z.string(), result: json })

export const taskCommands: readonly Command[] = [
  {
    words: ['tasks'], args: '', count: [0, 0], what: 'what was asked of the parser of any peer, and what became of it',
    options: [{ name: 'type', value: 'TYPE', what: 'block_allocation, vdag_creation, …' }, { name: 'status', value: 'STATUS', what: 'pending, in_progress, completed or failed' }, { name: 'since', value: 'TIME', what: 'ISO date, or seconds since 1970' }, { name: 'limit', value: 'N', what: 'default 50' }],
    async run(context) {
      const query = new URLSearchParams({ limit: String(count(context, 'limit', 50)) })
      for (const [option, name] of [['type', 'task_type'], ['status', 'task_status'], ['since', 'start_time']] as const) {
        const value = text(context, option)
        if (value !== undefined) query.set(name, value)
      }
      const { data } = tasks.parse(await (await context.daemon()).get(`/tasks?${query}`))
      context.out.result(data, () => table(['TASK', 'TYPE', 'STATUS', 'AT', 'PEER', ''], data.map(task => [task.task_id, task.task_type, task.task_status, new Date(task.task_create_timestamp).toISOString(), shortId(task.owner), said(task)])))
    },
  },
  {
    words: ['tasks', 'show'], args: 'ID', count: [1, 1], what: 'one task: what it was asked with, how far it is, what came of it',
    async run(context) {
      const { data } = one.parse(await (await context.daemon()).get(`/task/${encodeURIComponent(arg(context, 0))}`))
      context.out.result(data, () => pretty(json.parse(data)))
    },
  },
  {
    words: ['tasks', 'again'], args: 'ID', count: [1, 1], what: 'do a task again, with the document it was asked with',
    async run(context) {
      const body = performed.parse(await (await context.daemon()).send('POST', `/api/reinitiate/${encodeURIComponent(arg(context, 0))}`))
      context.out.result(body, () => `${body.task_id}: ${body.status}\n${pretty(body.result)}`)
    },
  },
]

const failed = z.looseObject({ error: z.looseObject({ code: z.string(), message: z.string() }) })

function said({ task_status, task_status_data, progress, subject }: TaskRecord): string {
  const error = failed.safeParse(task_status_data)
  if (error.success) return `${error.data.error.code}: ${error.data.error.message}`.slice(0, 120)
  if (task_status === 'in_progress' && progress !== undefined) return `${progress.done} of ${progress.total}: ${progress.what}`
  return subject ?? ''
}
