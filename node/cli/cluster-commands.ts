import { z } from 'zod'
import { json, type Json } from '../../protocols/ids.ts'
import { arg, flag, text, UsageError, type Command, type Context } from './command.ts'
import { readJson } from './json-file.ts'
import { bytes, pretty, shortId, table } from './output.ts'

const cluster = z.looseObject({
  id: z.string(), regionId: z.string().default(''), owner: z.string().optional(), memory: z.number().default(0), vcpus: z.looseObject({ count: z.number() }),
  gpus: z.looseObject({ count: z.number() }), nodes: z.looseObject({ count: z.number(), nodeData: z.array(z.looseObject({ id: z.string() })), unreachable: z.array(z.string()).default([]) }),
  stability: z.looseObject({ is_stable: z.boolean(), because: z.string() }).optional(),
})
const inviteBody = z.object({ invite: z.string(), expires: z.number() })
const verdict = z.object({ allowed: z.boolean(), input_data: json })

async function ask(context: Context, method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, body?: Json): Promise<Json> {
  const daemon = await context.daemon()
  const answer = method === 'GET' ? await daemon.get(path) : await daemon.send(method, path, body)
  return z.object({ success: z.literal(true), data: json }).parse(answer).data
}

const named = (context: Context): string => encodeURIComponent(arg(context, 0))

export const clusterCommands: readonly Command[] = [
  {
    words: ['cluster', 'create'], args: 'ID|SPEC', count: [1, 1], what: 'make a cluster that this peer owns, with this host in it: by name, or from a file with AIOS\'s document',
    options: [{ name: 'region', value: 'REGION', what: 'where it is: blocks may ask for it (label region)' }, { name: 'countries', value: 'C,C', what: 'the countries it is in (label country)' }, { name: 'empty', what: 'leave this host out of it' }],
    async run(context) {
      const [what, region, countries] = [arg(context, 0), text(context, 'region'), text(context, 'countries')]
      const given = what.endsWith('.json') || what === '-' ? await readJson(what) : { id: what, ...(region === undefined ? {} : { regionId: region }), ...(countries === undefined ? {} : { clusterMetadata: { countries: countries.split(',') } }) }
      const made = cluster.parse(await ask(context, 'POST', '/clusters/create', given))
      const body = flag(context, 'empty') ? made : cluster.parse(await (await context.daemon()).send('POST', '/mesh/cluster/join', { cluster: made.id }))
      context.out.result(body, () => `cluster ${body.id}${flag(context, 'empty') ? '' : ', this host in it'}: bring others in with \`aios cluster invite ${body.id}\``)
    },
  },
  {
    words: ['cluster', 'update'], args: 'ID SPEC', count: [2, 2], what: 'change what is said of a cluster (its owner alone)',
    async run(context) {
      const body = await ask(context, 'PUT', `/clusters/update/${named(context)}`, await readJson(arg(context, 1)))
      context.out.result(body, () => pretty(body))
    },
  },
  {
    words: ['cluster', 'list'], args: '', count: [0, 0], what: 'clusters of the network; a host without one is a cluster of itself',
    async run(context) {
      const rows = z.array(cluster).parse(await ask(context, 'GET', '/clusters'))
      context.out.result(rows, () => table(['CLUSTER', 'NODES', 'CORES', 'MEMORY', 'GPUS', 'REGION', 'OWNER'], rows.map(row => [row.id, row.nodes.count, row.vcpus.count, bytes(row.memory * 1_048_576), row.gpus.count, row.regionId, row.owner === undefined ? 'itself' : shortId(row.owner)])))
    },
  },
  {
    words: ['cluster', 'show'], args: 'ID', count: [1, 1], what: 'one cluster: its nodes, what they add up to, whether it is stable',
    async run(context) {
      const body = await ask(context, 'GET', `/clusters/read/${named(context)}`)
      context.out.result(body, () => pretty(body))
    },
  },
  {
    words: ['cluster', 'invite'], args: 'ID', count: [1, 1], what: 'print a text by which hosts of this network enter the cluster',
    options: [{ name: 'valid', value: 'HOURS', what: 'how long it is good (default 24)' }],
    async run(context) {
      const hours = Number(text(context, 'valid') ?? '24')
      if (!(hours > 0 && hours <= 720)) throw new UsageError(`--valid takes hours up to 720, not ${text(context, 'valid')}`)
      const body = inviteBody.parse(await (await context.daemon()).send('POST', `/mesh/clusters/${named(context)}/invite`, { validMs: Math.round(hours * 3_600_000) }))
      context.out.result(body, () => body.invite)
    },
  },
  {
    words: ['cluster', 'join'], args: 'INVITE|ID', count: [1, 1], what: 'bring this host into a cluster: by an invite, or by id where it is on the list or anybody may enter',
    async run(context) {
      const body = cluster.parse(await (await context.daemon()).send('POST', '/mesh/cluster/join', { cluster: arg(context, 0) }))
      context.out.result(body, () => `this host is of cluster ${body.id}`)
    },
  },
  {
    words: ['cluster', 'leave'], args: '', count: [0, 0], what: 'take this host out of its cluster; its instances move first',
    options: [{ name: 'force', what: 'also where the owner cannot be asked, or says no' }],
    async run(context) {
      const body = await (await context.daemon()).send('POST', '/mesh/cluster/leave', { force: flag(context, 'force') })
      context.out.result(body, () => 'this host is a cluster of itself, and drains')
    },
  },
  {
    words: ['cluster', 'add-node'], args: 'ID SPEC', count: [2, 2], what: 'put a node on a cluster\'s list, by AIOS\'s document of it; a host of this network then joins by itself',
    options: [{ name: 'dry-run', what: 'only say what the pre-checks say' }],
    async run(context) {
      const node = await readJson(arg(context, 1))
      const document: Json = { cluster_id: arg(context, 0), node_data: node }
      if (flag(context, 'dry-run')) return said(context, await ask(context, 'POST', '/pre-check-policies/add_node/dry_run', document))
      const body = cluster.parse(await ask(context, 'POST', '/cluster-actions/add-node', document))
      return context.out.result(body, () => `cluster ${body.id} has ${body.nodes.count} node(s)`)
    },
  },
  {
    words: ['cluster', 'remove-node'], args: 'ID NODE', count: [2, 2], what: 'take a node off a cluster\'s list; its instances move first',
    options: [{ name: 'dry-run', what: 'only say what the pre-checks say' }],
    async run(context) {
      const document: Json = { cluster_id: arg(context, 0), node_id: arg(context, 1) }
      if (flag(context, 'dry-run')) return said(context, await ask(context, 'POST', '/pre-check-policies/remove_node/dry_run', document))
      const body = cluster.parse(await ask(context, 'POST', '/remove-node', document))
      return context.out.result(body, () => `cluster ${body.id} has ${body.nodes.count} node(s)`)
    },
  },
  {
    words: ['cluster', 'delete'], args: 'ID', count: [1, 1], what: 'end a cluster; its hosts become clusters of themselves',
    async run(context) {
      const body = await ask(context, 'DELETE', `/clusters/delete/${named(context)}`)
      context.out.result(body, () => `cluster ${arg(context, 0)} is gone`)
    },
  },
  {
    words: ['cluster', 'check'], args: '', count: [0, 0], what: 'ask this host\'s cluster\'s stability checker now',
    async run(context) {
      const body = await ask(context, 'GET', '/check_stability')
      context.out.result(body, () => pretty(body))
    },
  },
  {
    words: ['network', 'show'], args: '', count: [0, 0], what: 'the network\'s document: its rules, services and admins',
    async run(context) {
      const body = await ask(context, 'GET', '/network')
      context.out.result(body, () => pretty(body))
    },
  },
  {
    words: ['network', 'policy'], args: 'ACTION [URI]', count: [1, 2], what: 'set the rule that is asked before an action everywhere in the network (add_block, add_node, …); without a URI there is none',
    async run(context) {
      const body = await ask(context, 'POST', '/pre-check-policies/update', { [arg(context, 0)]: context.args[1] ?? '' })
      context.out.result(body, () => pretty(body))
    },
  },
  {
    words: ['network', 'admins'], args: '[PEER…]', count: [0, 64], what: 'say who besides the owner sets the network\'s rules (the owner alone)',
    async run(context) {
      const body = await ask(context, 'PUT', '/network/admins', { admins: [...context.args] })
      context.out.result(body, () => `${context.args.length} admin(s)`)
    },
  },
]

function said(context: Context, answer: Json): void {
  const body = verdict.parse(answer)
  context.out.result(body, () => (body.allowed ? 'allowed' : `not allowed: ${typeof body.input_data === 'string' ? body.input_data : JSON.stringify(body.input_data)}`))
}
