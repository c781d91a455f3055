import { z } from 'zod'
import { json, type Json } from '../../protocols/ids.ts'
import { arg, count, flag, list, text, UsageError, type Command, type Context } from './command.ts'
import { readJson } from './json-file.ts'
import { pretty, shortId, table } from './output.ts'

const answered = z.object({ data: json })
const created = z.object({ data: z.looseObject({ specUri: z.string().optional(), templateUri: z.string().optional() }) })
const specRow = z.looseObject({ specUri: z.string(), specType: z.string().default(''), specTags: z.array(z.string()).default([]), author: z.string().default('') })
const templateRow = z.looseObject({ templateUri: z.string(), templatePolicyRuleUri: z.string().default(''), templateTags: z.array(z.string()).default([]), author: z.string().default('') })
const performed = z.object({ task_id: z.string(), status: z.string(), result: json })

/** Where each registry takes queries. */
const REGISTRIES: Readonly<Record<string, string>> = {
  components: '/api/query', blocks: '/blocks/query', vdags: '/vdags', controllers: '/vdag-controllers', specs: '/specs', templates: '/templates', assets: '/assets', clusters: '/clusters/query',
  'inference-servers': '/inference_servers', layers: '/model-layers', 'split-runners': '/split-runners', policies: '/policy/query', functions: '/function/query', graphs: '/graphs/query',
}

export const storeCommands: readonly Command[] = [
  {
    words: ['spec', 'publish'], args: 'FILE', count: [1, 1], what: 'keep a spec under a name and version',
    options: [{ name: 'type', value: 'TYPE', what: 'block, vdag, cluster, node, component, search, filter or mgmtCommand: then FILE is the bare spec' }, { name: 'name', value: 'NAME', what: 'with --type' }, { name: 'version', value: 'V', what: 'with --type; default 1.0.0' }, { name: 'tag', value: 'TAG', what: 'with --type; default stable' }],
    async run(context) {
      const file = await readJson(arg(context, 0))
      const type = text(context, 'type')
      if (type !== undefined && text(context, 'name') === undefined) throw new UsageError('--type goes with --name')
      const body: Json = type === undefined ? file : { specName: text(context, 'name') ?? '', specType: type, specVersion: { version: text(context, 'version') ?? '1.0.0', tag: text(context, 'tag') ?? 'stable' }, specData: file }
      const { data } = created.parse(await (await context.daemon()).send('POST', '/spec', body))
      context.out.result(data, () => `published ${data.specUri ?? ''}`)
    },
  },
  {
    words: ['spec', 'list'], args: '', count: [0, 0], what: 'specs of the network', options: [{ name: 'query', value: 'FILE|-', what: 'a Mongo filter' }],
    async run(context) {
      const rows = z.array(specRow).parse(await found(context, '/specs'))
      context.out.result(rows, () => table(['URI', 'TYPE', 'AUTHOR', 'TAGS'], rows.map(row => [row.specUri, row.specType, shortId(row.author), row.specTags.join(', ')])))
    },
  },
  { words: ['spec', 'show'], args: 'URI', count: [1, 1], what: 'one spec', run: context => show(context, `/spec/${encodeURIComponent(arg(context, 0))}`) },
  {
    words: ['spec', 'run'], args: 'ACTION URI', count: [2, 2], what: 'do something with a spec of the store: createBlock, createvDAG, search …',
    options: [{ name: 'with', value: 'FILE|-', what: 'fields that stand in for the spec\'s own' }, { name: 'key', value: 'K', what: 'idempotency key' }],
    async run(context) {
      const over = text(context, 'with')
      const query = new URLSearchParams({ specUri: arg(context, 1), ...(text(context, 'key') === undefined ? {} : { key: text(context, 'key') ?? '' }) })
      const body = performed.parse(await (await context.daemon()).send('POST', `/api/with-spec/${encodeURIComponent(arg(context, 0))}?${query}`, over === undefined ? {} : await readJson(over)))
      context.out.result(body, () => `${body.task_id}: ${body.status}\n${pretty(body.result)}`)
    },
  },
  { words: ['spec', 'yank'], args: 'URI', count: [1, 1], what: 'take a version back; only its author may', options: [{ name: 'because', value: 'TEXT', what: 'why' }], run: context => yank(context, '/spec') },
  {
    words: ['template', 'publish'], args: 'FILE', count: [1, 1], what: 'keep a template: what documents that name it must hold, and the rule that makes a spec of them',
    async run(context) {
      const { data } = created.parse(await (await context.daemon()).send('POST', '/template', await readJson(arg(context, 0))))
      context.out.result(data, () => `published ${data.templateUri ?? ''}`)
    },
  },
  {
    words: ['template', 'list'], args: '', count: [0, 0], what: 'templates of the network', options: [{ name: 'query', value: 'FILE|-', what: 'a Mongo filter' }],
    async run(context) {
      const rows = z.array(templateRow).parse(await found(context, '/templates'))
      context.out.result(rows, () => table(['URI', 'RULE', 'AUTHOR', 'TAGS'], rows.map(row => [row.templateUri, row.templatePolicyRuleUri || '-', shortId(row.author), row.templateTags.join(', ')])))
    },
  },
  { words: ['template', 'show'], args: 'URI', count: [1, 1], what: 'one template', run: context => show(context, `/template/${encodeURIComponent(arg(context, 0))}`) },
  {
    words: ['template', 'run'], args: 'URI FILE', count: [2, 2], what: 'the spec that a template makes of values; does nothing with it',
    async run(context) {
      const { data } = answered.parse(await (await context.daemon()).send('POST', '/template/execute', { template_uri: arg(context, 0), input_data: await readJson(arg(context, 1)) }))
      context.out.result(data, () => pretty(data))
    },
  },
  { words: ['template', 'yank'], args: 'URI', count: [1, 1], what: 'take a version back; only its author may', options: [{ name: 'because', value: 'TEXT', what: 'why' }], run: context => yank(context, '/template') },
  {
    words: ['registry', 'query'], args: 'REGISTRY', count: [1, 1], what: `what one registry holds: ${Object.keys(REGISTRIES).join(', ')}`,
    options: [{ name: 'query', value: 'FILE|-', what: 'a Mongo filter, or { query, options: { sort, limit } }' }, { name: 'limit', value: 'N', what: 'default 100' }],
    async run(context) {
      const path = REGISTRIES[arg(context, 0)]
      if (path === undefined) throw new UsageError(`REGISTRY is one of ${Object.keys(REGISTRIES).join(', ')}`)
      const asked = await file(context, 'query') ?? {}
      const { data } = z.object({ data: z.array(json) }).parse(await (await context.daemon()).send('POST', path, asked))
      const shown = data.slice(0, count(context, 'limit', 100))
      context.out.result(shown, () => (shown.length === 0 ? '(none)' : shown.map(pretty).join('\n')))
    },
  },
  {
    words: ['allocate'], args: '[SPEC]', count: [0, 1], what: 'where would this fit? Asks hosts, starts nothing',
    options: [
      { name: 'component', value: 'URI', what: 'instead of a block spec' }, { name: 'cluster', value: 'ID', many: true, what: 'only these clusters' }, { name: 'filter', value: 'FILE|-', what: 'only clusters that pass' },
      { name: 'search', value: 'FILE|-', what: 'only clusters that a search finds' }, { name: 'policy', value: 'URI', what: 'a rule that chooses' }, { name: 'reserve', what: 'have the host keep the room for half a minute' },
    ],
    async run(context) {
      const [filter, search, component, policy] = await Promise.all([file(context, 'filter'), file(context, 'search'), text(context, 'component'), text(context, 'policy')])
      const inputs: Json = context.args.length > 0 ? { block: await readJson(arg(context, 0)) } : component === undefined ? {} : { componentURI: component }
      const body: Json = { inputs, reserve: flag(context, 'reserve'), ...(list(context, 'cluster').length === 0 ? {} : { clusters: [...list(context, 'cluster')] }), ...(filter === undefined ? {} : { filter }), ...(search === undefined ? {} : { search }), ...(policy === undefined ? {} : { policy_rule_uri: policy }) }
      const { data } = fitted.parse(await (await context.daemon()).send('POST', '/allocate', body))
      context.out.result(data, () => [
        table(['OK', 'SCORE', 'HOST', 'CLUSTER', 'BECAUSE'], data.candidates.map(row => [row.ok ? 'yes' : 'no', row.score === null ? '' : row.score.toFixed(3), shortId(row.node_id), shortId(row.cluster_id), row.because])), '',
        `${data.fits ? 'it would fit on' : 'chosen, though it does not fit now:'} ${data.node_id ?? data.cluster_id}${data.gpus.length === 0 ? '' : `, GPUs ${data.gpus.join(', ')}`}`,
        ...(data.reservation === undefined ? [] : [`the host keeps the room for ${Math.round(data.reservation.holdMs / 1_000)} s as ${data.reservation.id}`]),
      ].join('\n'))
    },
  },
]

const fitted = z.object({ data: z.looseObject({
  cluster_id: z.string(), node_id: z.string().nullable(), fits: z.boolean(), gpus: z.array(z.string()), reservation: z.object({ id: z.string(), holdMs: z.number() }).loose().optional(),
  candidates: z.array(z.object({ cluster_id: z.string(), node_id: z.string(), ok: z.boolean(), score: z.number().nullable(), because: z.string() })),
}) })

async function found(context: Context, path: string): Promise<Json> {
  const query = await file(context, 'query')
  return answered.parse(await (await context.daemon()).send('POST', path, query ?? {})).data
}

async function show(context: Context, path: string): Promise<void> {
  const { data } = answered.parse(await (await context.daemon()).get(path))
  context.out.result(data, () => pretty(data))
}

async function yank(context: Context, path: string): Promise<void> {
  const because = text(context, 'because')
  const uri = arg(context, 0)
  await (await context.daemon()).send('DELETE', `${path}/${encodeURIComponent(uri)}${because === undefined ? '' : `?${new URLSearchParams({ because })}`}`)
  context.out.result({ uri }, () => `${uri} is taken back`)
}

async function file(context: Context, option: string): Promise<Json | undefined> {
  const path = text(context, option)
  return path === undefined ? undefined : readJson(path)
}
