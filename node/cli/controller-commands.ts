import { z } from 'zod'
import { json, type Json } from '../../protocols/ids.ts'
import { arg, count, list, text, type Command, type Context } from './command.ts'
import { readJson } from './json-file.ts'
import { pretty, shortId, table } from './output.ts'

const controller = z.looseObject({ vdag_controller_id: z.string(), vdag_uri: z.string(), hosts: z.array(z.string()) })

async function perform(context: Context, action: string, payload: Json): Promise<Json> {
  return z.object({ success: z.literal(true), data: json }).parse(await (await context.daemon()).send('POST', '/vdag-controller', { action, payload })).data
}

export const controllerCommands: readonly Command[] = [
  {
    words: ['controller', 'create'], args: 'VDAG', count: [1, 1], what: 'have peers answer for a vDAG and look after its blocks',
    options: [
      { name: 'id', value: 'ID', what: 'its name (default: one is made)' },
      { name: 'replicas', value: 'N', what: 'on so many peers, this one first (default 1)' },
      { name: 'host', value: 'PEER', many: true, what: 'on these peers instead' },
      { name: 'custom-data', value: 'FILE', what: 'quotaChecker, qualityChecker and healthChecker, over those of the vDAG' },
    ],
    async run(context) {
      const [id, data, hosts] = [text(context, 'id'), text(context, 'custom-data'), list(context, 'host')]
      const made = controller.parse(await perform(context, 'create_controller', {
        vdag_uri: arg(context, 0), config: { replicas: count(context, 'replicas', 1), custom_data: data === undefined ? {} : await readJson(data) },
        ...(id === undefined ? {} : { vdag_controller_id: id }), ...(hosts.length === 0 ? {} : { hosts: [...hosts] }),
      }))
      context.out.result(made, () => `controller ${made.vdag_controller_id} of ${made.vdag_uri} on ${made.hosts.map(shortId).join(', ')}`)
    },
  },
  {
    words: ['controller', 'list'], args: '', count: [0, 0], what: 'vDAG controllers of the network',
    async run(context) {
      const rows = z.array(controller).parse(await perform(context, 'list_controllers', {}))
      context.out.result(rows, () => table(['CONTROLLER', 'VDAG', 'HOSTS'], rows.map(row => [row.vdag_controller_id, row.vdag_uri, row.hosts.map(shortId).join(', ')])))
    },
  },
  {
    words: ['controller', 'scale'], args: 'ID N', count: [2, 2], what: 'change on how many peers a controller stands',
    async run(context) {
      const scaled = controller.parse(await perform(context, 'scale_controller', { vdag_controller_id: arg(context, 0), replicas: arg(context, 1) }))
      context.out.result(scaled, () => `controller ${scaled.vdag_controller_id} on ${scaled.hosts.length} peer(s)`)
    },
  },
  {
    words: ['controller', 'remove'], args: 'ID', count: [1, 1], what: 'end a controller; the vDAG stays',
    async run(context) {
      const body = await perform(context, 'remove_controller', { vdag_controller_id: arg(context, 0) })
      context.out.result(body, () => `controller ${arg(context, 0)} is gone`)
    },
  },
  {
    words: ['controller', 'health'], args: 'VDAG', count: [1, 1], what: 'look after the blocks of a vDAG now: what its health rule says, who runs which node, what was reassigned',
    async run(context) {
      const body = z.object({ data: json }).loose().parse(await (await context.daemon()).send('POST', `/health/check?vdag_uri=${encodeURIComponent(arg(context, 0))}`)).data
      context.out.result(body, () => pretty(body))
    },
  },
]
