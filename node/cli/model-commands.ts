import { resolve } from 'node:path'
import { z } from 'zod'
import type { Json } from '../../protocols/ids.ts'
import { follow } from './artefact-commands.ts'
import { arg, list, text, UsageError, type Command, type Context, type Option } from './command.ts'
import { bytes, pretty, shortId, table } from './output.ts'

const imported = z.object({ uri: z.string(), cid: z.string(), kind: z.string(), layers: z.int(), parameters: z.number(), bytes: z.number(), graph: z.string(), others: z.array(z.string()), notes: z.array(z.string()) })
const row = z.object({ uri: z.string(), kind: z.string(), layers: z.int().nullable(), parameters: z.number().nullable(), weights: z.string().nullable(), contextTokens: z.int().nullable(), bytes: z.number().nullable(), services: z.array(z.string()) })
const plan = z.object({
  model: z.string(), aim: z.string(), contextTokens: z.int(), sessions: z.int(), latencyMs: z.number(), bottleneckMs: z.number(), tokensPerSecond: z.number(), throughput: z.number(), exact: z.boolean(),
  stages: z.array(z.object({ peer: z.string(), first: z.int(), end: z.int(), ms: z.number(), hopMs: z.number(), needs: z.object({ memoryMb: z.number() }), because: z.string() })),
  refused: z.array(z.object({ peer: z.string(), because: z.string() })),
})
const replicas = z.object({ spans: z.array(z.object({ peer: z.string(), first: z.int(), end: z.int(), tokensPerSecond: z.number() })), throughput: z.number(), bound: z.number(), single: z.array(z.int()), unused: z.array(z.string()) })
const instance = z.object({ host: z.string(), instance: z.string(), state: z.string() })
const service = z.object({ service: z.string(), modelURI: z.string(), contextTokens: z.int(), sessions: z.int(), standbys: z.int(), stages: z.array(z.object({ block: z.string(), first: z.int(), end: z.int(), instances: z.array(instance) })) })
const served = service.extend({ plan, refusals: z.array(z.object({ host: z.string(), because: z.string() })) })

const servedEncoder = z.object({ service: z.string(), encoder: z.string(), ready: z.int() })

const WISH: readonly Option[] = [
  { name: 'shards', value: 'K', what: 'how many stages: a number, or auto (the default)' },
  { name: 'for', value: 'AIM', what: 'latency (of one stream; the default) or throughput (of all sessions)' },
  { name: 'context', value: 'N', what: 'tokens that a session may have (default: the model\'s, at most 4096)' },
  { name: 'sessions', value: 'N', what: 'sessions at once that room is kept for (default 4)' },
  { name: 'label', value: 'K=V', many: true, what: 'only hosts with this label, such as region=eu' },
]

export const modelCommands: readonly Command[] = [
  {
    words: ['model', 'import'], args: 'DIR|FILE', count: [1, 1], what: 'import a language model or sentence encoder from its ONNX export',
    options: [{ name: 'name', value: 'N:V-TAG', what: 'what to call it (default: the folder\'s name, 1.0.0-stable)' }, { name: 'file', value: 'NAME', what: 'which graph, where the folder has several (model_q4.onnx, or just q4)' }, { name: 'activations', value: 'int8', what: 'round activations to int8 where weights have 4 or 8 bits: several times as fast on a CPU where the export does not do so itself, with other logits' }],
    async run(context) {
      const body: Record<string, Json> = { path: resolve(arg(context, 0)) }
      for (const name of ['name', 'file', 'activations']) {
        const value = text(context, name)
        if (value !== undefined) body[name] = value
      }
      const result = imported.parse(await follow(context, (await context.daemon()).lines('POST', '/mesh/models', body), 'importing'))
      context.out.result(result, () => [
        result.kind === 'encoder' ? `imported ${result.uri}, a sentence encoder (${bytes(result.bytes)})` : `imported ${result.uri}: ${result.layers} layers, ${millions(result.parameters)} parameters, ${bytes(result.bytes)}`,
        ...result.others.length === 0 ? [] : [`taken: ${result.graph}; left: ${result.others.join(', ')} (--file NAME takes another, --name N:V-TAG gives it a name of its own)`],
        ...result.notes.map(note => `note: ${note}`),
        `serve it with: aios model serve ${result.uri}`,
      ].join('\n'))
    },
  },
  {
    words: ['model', 'list'], args: '', count: [0, 0], what: 'models of the network, and what is served',
    async run(context) {
      const rows = z.array(row).parse(await (await context.daemon()).get('/mesh/models'))
      context.out.result(rows, () => table(['MODEL', 'LAYERS', 'PARAMETERS', 'WEIGHTS', 'CONTEXT', 'SIZE', 'SERVED AS'], rows.map(one => [one.uri, one.layers ?? '-', one.parameters === null ? '-' : millions(one.parameters), one.weights ?? one.kind, one.contextTokens ?? '-', one.bytes === null ? '-' : bytes(one.bytes), one.services.join(', ') || '-'])))
    },
  },
  {
    words: ['model', 'show'], args: 'NAME', count: [1, 1], what: 'a model\'s manifest, or a served model with who runs which layers',
    async run(context) {
      const daemon = await context.daemon()
      const name = arg(context, 0)
      const services = z.array(service).parse(await daemon.get('/mesh/services'))
      const found = services.find(one => one.service === name)
      if (found !== undefined) return context.out.result(found, () => showService(found))
      const manifest = await daemon.get(`/mesh/models/${encodeURIComponent(name)}`)
      context.out.result(manifest, () => [pretty(manifest), ...services.filter(({ modelURI }) => modelURI === name).flatMap(one => ['', showService(one)])].join('\n'))
    },
  },
  {
    words: ['model', 'plan'], args: 'NAME', count: [1, 1], what: 'who would get which layers of a model, and why',
    options: [...WISH, { name: 'replicas', what: 'instead, which overlapping layers every host would offer if all served it at once' }],
    async run(context) {
      if (context.options['replicas'] === true) {
        const shown = replicas.parse(await (await context.daemon()).sendLong('POST', `/mesh/models/${encodeURIComponent(arg(context, 0))}/plan`, { ...wish(context), replicas: true }))
        return context.out.result(shown, () => showReplicas(shown))
      }
      const body = plan.parse(await (await context.daemon()).sendLong('POST', `/mesh/models/${encodeURIComponent(arg(context, 0))}/plan`, wish(context)))
      context.out.result(body, () => showPlan(body))
    },
  },
  {
    words: ['model', 'serve'], args: 'NAME', count: [1, 1], what: 'serve a model over the mesh: all its stages, or none',
    options: [...WISH, { name: 'standby', value: 'N', what: 'further instances of each stage on other hosts (default 1 where there are several)' }, { name: 'threads', value: 'N', what: 'processor threads of each stage (default: the cores of its hosts, as far as its weights keep them busy)' }, { name: 'service', value: 'NAME', what: 'how clients call it (default: the model\'s name)' }, { name: 'draft', value: 'NAME', what: 'guess ahead with this small served model of the same vocabulary; with the service\'s own name, by what the text repeats' }, { name: 'no-wait', what: 'do not wait for the stages to be ready' }],
    async run(context) {
      const name = text(context, 'service')
      const standbys = whole(context, 'standby', 0)
      const threads = whole(context, 'threads', 1)
      const draft = text(context, 'draft')
      const body = { model: arg(context, 0), ...wish(context), ...(name === undefined ? {} : { service: name }), ...(standbys === undefined ? {} : { standbys }), ...(threads === undefined ? {} : { threads }), ...(draft === undefined ? {} : { draft }), wait: context.options['no-wait'] !== true }
      const answer = await (await context.daemon()).sendLong('POST', '/mesh/services', body)
      const encoder = servedEncoder.safeParse(answer)
      if (encoder.success) return context.out.result(encoder.data, () => `block ${encoder.data.service} gives embeddings: ${encoder.data.ready} instance(s) ready`)
      const result = served.parse(answer)
      context.out.result(result, () => [showPlan(result.plan), ...result.refusals.map(({ host, because }) => `planned around ${shortId(host)}: ${because}`), '', showService(result)].join('\n'))
    },
  },
  {
    words: ['model', 'remove'], args: 'NAME', count: [1, 1], what: 'stop serving under a name; of a model, stop all that serve it and let go of its bytes here',
    async run(context) {
      const daemon = await context.daemon()
      const name = arg(context, 0)
      const services = z.array(service).parse(await daemon.get('/mesh/services'))
      const isService = services.some(one => one.service === name)
      const body = await daemon.send('DELETE', `/mesh/${isService ? 'services' : 'models'}/${encodeURIComponent(name)}`)
      context.out.result(body, () => (isService ? `${name} is not served any more` : `${name} is served by nobody any more, and its bytes may go from here; its name stays, as every version does`))
    },
  },
]

function wish(context: Context): Record<string, Json> {
  const out: Record<string, Json> = {}
  const shards = text(context, 'shards')
  if (shards !== undefined) out['shards'] = shards === 'auto' ? shards : whole(context, 'shards', 1) ?? 'auto'
  const aim = text(context, 'for')
  if (aim !== undefined && aim !== 'latency' && aim !== 'throughput') throw new UsageError(`--for is latency or throughput, not ${aim}`)
  if (aim !== undefined) out['aim'] = aim
  for (const [option, field] of [['context', 'contextTokens'], ['sessions', 'sessions']] as const) {
    const value = whole(context, option, 1)
    if (value !== undefined) out[field] = value
  }
  const labels = list(context, 'label').map(label => /^([^=]+)=(.*)$/.exec(label) ?? label)
  for (const label of labels) if (typeof label === 'string') throw new UsageError(`--label takes K=V, not ${label}`)
  if (labels.length > 0) out['labels'] = Object.fromEntries(labels.flatMap(label => (typeof label === 'string' ? [] : [[label[1] ?? '', label[2] ?? '']])))
  return out
}

function whole(context: Context, option: string, least: number): number | undefined {
  const said = text(context, option)
  if (said === undefined) return undefined
  const value = Number(said)
  if (!Number.isSafeInteger(value) || value < least) throw new UsageError(`--${option} is a whole number from ${least}, not ${said}`)
  return value
}

function showPlan(shown: z.infer<typeof plan>): string {
  return [
    table(['STAGE', 'LAYERS', 'HOST', 'MS', 'HOP MS', 'MEMORY', 'WHY'], shown.stages.map((stage, at) => [at, `${stage.first}..${stage.end - 1}`, shortId(stage.peer), stage.ms.toFixed(2), stage.hopMs.toFixed(2), `${stage.needs.memoryMb} MiB`, stage.because])),
    `for ${shown.aim}: ${shown.latencyMs.toFixed(2)} ms a token of one stream (${shown.tokensPerSecond.toFixed(1)} tokens/s), slowest stage ${shown.bottleneckMs.toFixed(2)} ms, ${shown.throughput.toFixed(1)} tokens/s with ${shown.sessions} sessions of ${shown.contextTokens} tokens${shown.exact ? '' : ' (best found, not every chain was looked at)'}`,
    ...shown.refused.map(({ peer, because }) => `not ${shortId(peer)}: ${because}`),
  ].join('\n')
}

function showReplicas({ spans, throughput, bound, single, unused }: z.infer<typeof replicas>): string {
  return [
    table(['HOST', 'LAYERS', 'TOKENS/S'], spans.map(({ peer, first, end, tokensPerSecond }) => [shortId(peer), `${first}..${end - 1}`, tokensPerSecond.toFixed(1)])),
    `${throughput.toFixed(1)} tokens/s of all streams together, ${(100 * throughput / bound).toFixed(0)}% of what the hosts could give at most`,
    single.length === 0 ? 'every layer is with two hosts or more' : `${single.length} layer(s) with one host only: ${single.join(', ')}`,
    ...(unused.length === 0 ? [] : [`not used: ${unused.map(shortId).join(', ')}`]),
  ].join('\n')
}

function showService(shown: z.infer<typeof service>): string {
  return [
    `${shown.service} serves ${shown.modelURI}: ${shown.sessions} sessions of ${shown.contextTokens} tokens, ${shown.standbys} standby instance(s) a stage`,
    table(['STAGE', 'LAYERS', 'INSTANCES'], shown.stages.map(({ block, first, end, instances }) => [block, `${first}..${end - 1}`, instances.map(one => `${shortId(one.host)} ${one.state}`).join(', ') || 'none'])),
  ].join('\n')
}

function millions(count: number): string {
  return count >= 1e9 ? `${(count / 1e9).toFixed(1)} G` : `${(count / 1e6).toFixed(count >= 1e7 ? 0 : 1)} M`
}
