import type { Context, Hono } from 'hono'
import { z } from 'zod'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import { isJsonObject, toJson, type JsonObject } from '../../src/lib/json.ts'
import type { GatewayParts } from './server.ts'
import { body, lines } from './request-body.ts'

const FOLLOW_EVERY_MS = 400
const CALL_MS = 10_000
const service = z.enum(['instances', 'executor', 'autoscaler', 'health', 'health-checker', 'stability_checker']).transform(said => (said === 'health-checker' ? 'health' : said))
const command = z.looseObject({
  block_id: z.string().nullish(), blockId: z.string().optional(), cluster_id: z.string().optional(), service: service.optional(), instance_id: z.string().nullish(), instanceId: z.string().nullish(),
  action: z.string().optional(), mgmt_action: z.string().optional(), payload: json.optional(), mgmt_data: json.optional(),
})
const one = z.looseObject({ block_id: z.string().optional(), blockId: z.string().optional(), instance_id: z.string().optional(), instanceId: z.string().optional(), parameters: z.record(z.string(), json).optional() })
const failure = z.looseObject({ failure_policy_id: z.string('name the failure policy: { "failure_policy_id": "name:version-tag" }').min(1), inputs: json.default({}), parameters: z.record(z.string(), json).default({}) })

/** AIOS's controller of running blocks, its management commands and its failure policies. Any peer answers for any block. */
export function addBlockRoutes(app: Hono, { peer }: GatewayParts): void {
  const { actions, blocks, clusters, failures, invoker, thirdParty, view } = peer
  const told = (context: Context, data: unknown): Response => context.json({ success: true, data: toJson(data) })

  const perform = async (action: string, asked: JsonObject, signal: AbortSignal, cluster?: string): Promise<unknown> => {
    const { block_id, blockId, instance_id, instanceId, parameters } = one.parse(asked)
    const [block = '', instance = ''] = [block_id ?? blockId, instance_id ?? instanceId]
    switch (action) {
      case 'create_block': {
        const made = await actions.createBlock(asked, cluster === undefined ? {} : { cluster })
        return { block_id: made.block.blockId, ...(made.dryRun ? { dry_run: made.explanation } : { block: made.block }), warnings: made.warnings }
      }
      case 'dry_run': return (await actions.createBlock(asked, { dryRun: true })).explanation
      case 'remove_block':
        await actions.remove(block)
        return { block_id: block, removed: true }
      case 'scale': return blocks.scale(asked['operation'] === undefined ? { operation: 'scale', ...asked } : asked)
      case 'remove_instance': return blocks.removeInstance(block, instance)
      case 'reassign': case 'reassign-instance': case 'reassign-instances': return blocks.reassign(block, instance)
      case 'query_init_container_data': {
        const entry = await thirdParty.entry(block)
        if (entry === undefined) throw new MeshError('NOT_FOUND', `no init lifecycle of ${block === '' ? 'a block without a name (send block_id)' : block} is on record`)
        return entry
      }
      case 'init_create_status_update': case 'init_remove_status_update': throw new MeshError('BAD_INPUT', `${action}: an init container reports over its own frames here, and nobody else may speak for it: ask query_init_container_data how far it is`)
      case 'parameter_update': return (await blocks.updateParameters(block, parameters ?? (isJsonObject(asked['payload']) ? asked['payload'] : {}), signal)).instances
      case 'failed_pods': return failed()
      default: throw new MeshError('NOT_FOUND', `there is no action ${action.slice(0, 60)}: create_block, dry_run, remove_block, scale, remove_instance, reassign, parameter_update, query_init_container_data and failed_pods are`)
    }
  }
  const failed = (): Json => view.ads().flatMap(ad => ad.instances.filter(({ state }) => state === 'failed').map(({ block, instance, because }) => ({ block_id: block, instance_id: instance, node_id: ad.peer, failure_reason: because ?? 'pod_failed' })))
  const inCluster = (cluster: string): string => {
    if (!view.ads().some(ad => ad.cluster === cluster)) throw new MeshError('NOT_FOUND', `no live host is of cluster ${cluster}`)
    return cluster
  }

  for (const [path, action] of [['createBlock', 'create_block'], ['removeBlock', 'remove_block'], ['removeInstance', 'remove_instance'], ['block-scaling', 'scale'], ['reassign-instance', 'reassign']] as const) {
    app.post(`/controller/${path}/:cluster`, async context => told(context, await perform(action, await body(context, z.record(z.string(), json)), context.req.raw.signal, inCluster(context.req.param('cluster')))))
  }
  app.post('/executeAction', async context => {
    const fields = z.record(z.string(), json).optional()
    // `data` in AIOS's documentation, beside the action in its code.
    const { action, payload, data, ...rest } = await body(context, z.looseObject({ action: z.string(), payload: fields, data: fields }).catchall(json))
    return told(context, await perform(action, data ?? payload ?? rest, context.req.raw.signal))
  })

  // Commands, as the gateway takes them, as the controller does, and at the block's own services -------------------
  const manage = async (context: Context, asked: z.infer<typeof command>): Promise<Response> => {
    const [block, action, data] = [asked.block_id ?? asked.blockId ?? '', asked.action ?? asked.mgmt_action ?? '', asked.payload ?? asked.mgmt_data ?? null]
    if (action === '') throw new MeshError('BAD_INPUT', 'name the command: { "action": … } or { "mgmt_action": … }')
    // Of no block it is for the checker of a cluster's stability: this host's own, unless another is named.
    if (block === '' && (asked.service ?? 'stability_checker') === 'stability_checker') return told(context, await clusters.manage(asked.cluster_id ?? view.ad(view.self)?.cluster ?? view.self, action, data))
    if (block === '') throw new MeshError('BAD_INPUT', `${asked.service} belongs to a block: name it as block_id`)
    return told(context, await blocks.command({ block, instance: asked.instance_id ?? asked.instanceId ?? undefined, service: asked.service ?? 'instances', action, data }, context.req.raw.signal))
  }
  for (const path of ['/blocks/mgmt', '/cluster/mgmt', '/mgmt']) app.post(path, async context => manage(context, await body(context, command)))
  app.post('/block/:id/:service/mgmt', async context => manage(context, { ...await body(context, command), block_id: context.req.param('id'), service: service.parse(context.req.param('service')) }))
  app.get('/block/:id/getInstances', async context => told(context, (await peer.catalogue.block(context.req.param('id'))) === undefined ? null : view.instancesOf(context.req.param('id')).filter(({ ad }) => ad.state === 'ready').map(({ ad }) => ad.instance)))
  app.get('/block/:id/getInstancesCount', context => told(context, view.instancesOf(context.req.param('id')).filter(({ ad }) => ad.state === 'ready').length))

  app.post('/executeFailurePolicy', async context => {
    const { failure_policy_id, inputs, parameters } = await body(context, failure)
    // Asked for by name: one that is not there is the asker's mistake, and no failure for a person to look into.
    await peer.catalogue.policy(failure_policy_id, AbortSignal.any([context.req.raw.signal, AbortSignal.timeout(CALL_MS)]))
    const { success, ...handled } = await failures.execute({ policyRuleURI: failure_policy_id, parameters, settings: {} }, inputs)
    return context.json({ success, ...toObject(handled) })
  })

  // Our own shapes -------------------------------------------------------------------------------------------------
  app.get('/mesh/blocks/:id/status', async context => context.json(await blocks.status(context.req.param('id'), context.req.raw.signal)))
  app.post('/mesh/blocks/:id/parameters', async context => context.json(toJson(await blocks.updateParameters(context.req.param('id'), await body(context, z.record(z.string(), json)), context.req.raw.signal))))
  app.post('/mesh/blocks/:id/instances/:instance/reassign', async context => context.json(await blocks.reassign(context.req.param('id'), context.req.param('instance'))))
  app.get('/mesh/blocks/:id/logs/follow', async context => {
    const { id } = context.req.param()
    await blocks.known(id)
    const tail = Math.max(0, Number(context.req.query('tail') ?? '100') || 0)
    return lines(context, async (write, signal) => {
      let from: Readonly<Record<string, number>> = {}
      while (!signal.aborted) {
        const read = await invoker.logsFrom(id, context.req.query('instance'), from, { deadlineMs: CALL_MS, signal }).catch((error: unknown) => {
          // Nobody runs at the moment: who follows waits for the next one.
          if (asMeshError(error).code === 'NO_INSTANCE' || signal.aborted) return {}
          throw error
        })
        for (const [instance, { lines: said }] of Object.entries(read)) for (const line of instance in from ? said : said.slice(-tail || said.length)) write({ instance, line })
        from = { ...from, ...Object.fromEntries(Object.entries(read).map(([instance, { next }]) => [instance, next])) }
        await peer.ports.clock.sleep(FOLLOW_EVERY_MS, signal).catch(() => undefined)
      }
    }, error => ({ error: asMeshError(error).toJSON() }))
  })
}

function toObject(value: unknown): JsonObject {
  const made = toJson(value)
  return isJsonObject(made) ? made : {}
}
