import type { Context, Hono } from 'hono'
import { z } from 'zod'
import { json, type Json } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { isJsonObject } from '../../src/lib/json.ts'
import { query } from '../../src/stores/shelf.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

const members = z.record(z.string(), json)
const execution = z.looseObject({ policy_rule_uri: z.string('name the rule').min(1).max(300), input_data: json, parameters: members.nullish(), settings: members.nullish() })
const estimation = z.looseObject({ mode: z.string().optional(), policy: json.optional(), policy_rule_uri: z.string().optional(), type_: z.enum(['job', 'function']).default('function') })
const order = z.looseObject({ action: z.string().min(1).max(200), data: json.default({}) })
const graphRun = z.looseObject({ graph_uri: z.string('name the graph').min(1).max(300), input_data: json })
const scoped = z.looseObject({ input_data: json, parameters: members.nullish(), settings: members.nullish(), scope: z.string().max(200).default('') })
const ordered = order.extend({ parameters: members.nullish(), settings: members.nullish(), scope: z.string().max(300).optional(), adhoc: z.boolean().default(false) })
const FETCH_MS = 10_000

type Members = z.infer<typeof members>

/** Apart from the scopes of blocks and vDAGs. */
function adhocScope(scope: string): string {
  return `adhoc/${scope}`
}

/** AIOS's policies system over its own paths: rules, executors, jobs, functions and graphs. */
export function addPolicyRoutes(app: Hono, parts: GatewayParts): void {
  const { peer, authoring } = parts
  const { shelves, catalogue } = peer
  const done = (context: Context, data: unknown, status: 200 | 201 = 200): Response => context.json({ success: true, data }, status)

  app.post('/policy/query', async context => done(context, await query(shelves.policies, await body(context, json))))
  app.post('/policy', async context => {
    const { uri, cid, existing } = await authoring.publishPolicyDocument(await body(context, json), { signal: context.req.raw.signal })
    return done(context, { message: existing ? 'the policy was there already' : 'policy created', policy_rule_uri: uri, cid }, existing ? 200 : 201)
  })
  app.get('/policy/:uri', async context => done(context, await shelves.policies.get(context.req.param('uri'))))
  app.put('/policy/:uri', async context => done(context, await shelves.policies.update(context.req.param('uri'), await body(context, json))))
  app.delete('/policy/:uri', async context => {
    await shelves.policies.remove(context.req.param('uri'), context.req.query('because'))
    return done(context, { message: 'policy withdrawn', policy_rule_uri: context.req.param('uri') })
  })
  const refOf = async (uri: string, { parameters, settings }: { readonly parameters?: Members | null | undefined; readonly settings?: Members | null | undefined }): Promise<PolicyRef> => ({ policyRuleURI: (await catalogue.policy(uri, AbortSignal.timeout(FETCH_MS))).rule.policyRuleURI, parameters: { ...parameters }, settings: { ...settings } })
  /** Here, on a copy that keeps its state as long as its caller's scope is used. */
  app.post('/policy/:uri/evaluate', async context => {
    const { input_data: input, scope, ...over } = await body(context, scoped)
    return done(context, await peer.policies.evaluate(await refOf(context.req.param('uri'), over), { input }, adhocScope(scope)))
  })
  /** AIOS's `execute_mgmt_command` on the copy that answers here for a block or a vDAG, or for a caller's own scope. */
  app.post('/policy/:uri/management', async context => {
    const { action, data, scope, adhoc, ...over } = await body(context, ordered)
    return done(context, await peer.policies.management(await refOf(context.req.param('uri'), over), action, data, 'failure', adhoc ? adhocScope(scope ?? '') : scope))
  })

  addExecutors(app, parts, done)
  addRunning(app, parts, done)
  app.get('/graphs/:uri', async context => done(context, await shelves.graphs.get(context.req.param('uri'))))
  app.post('/graphs/query', async context => done(context, await query(shelves.graphs, await body(context, json))))
  app.post('/graphs', async context => done(context, { graph_uri: await shelves.graphs.create(await body(context, json)) }, 201))
  app.put('/graphs/:uri', async context => done(context, await shelves.graphs.update(context.req.param('uri'), await body(context, json))))
  app.delete('/graphs/:uri', async context => {
    await shelves.graphs.remove(context.req.param('uri'), context.req.query('because'))
    return done(context, { graph_uri: context.req.param('uri') })
  })
  app.post('/graph/execute_graph', async context => {
    const { graph_uri: uri, input_data: input } = await body(context, graphRun)
    return done(context, await peer.graphs.execute(uri, input, { signal: context.req.raw.signal }))
  })
}

type Done = (context: Context, data: unknown, status?: 200 | 201) => Response

function addExecutors(app: Hono, { peer }: GatewayParts, done: Done): void {
  const { executors } = peer
  app.post('/executor/query', async context => done(context, await query({ documents: () => executors.list() }, await body(context, json))))
  app.get('/executors', async context => done(context, await executors.list()))
  app.post('/executor', async context => done(context, await executors.create(await body(context, json)), 201))
  app.get('/executor/:id', async context => done(context, await executors.get(context.req.param('id'))))
  app.put('/executor/:id', async context => done(context, await executors.update(context.req.param('id'), await body(context, json))))
  app.delete('/executor/:id', async context => {
    await executors.remove(context.req.param('id'))
    return done(context, { message: 'executor removed' })
  })
  // An empty id leaves the choice to the mesh; clients write it as two slashes or leave it out.
  for (const path of ['/executor/execute_policy', '/executor//execute_policy', '/executor/:id/execute_policy']) {
    app.post(path, async context => {
      const { policy_rule_uri: policy, input_data: input, parameters, settings } = await body(context, execution)
      const { value } = await executors.execute(context.req.param('id') ?? '', { policy, input, parameters: parameters ?? {}, settings: settings ?? {} }, context.req.raw.signal)
      return done(context, value)
    })
  }
  app.post('/executor/:id/estimator/estimate', async context => {
    const { policy, policy_rule_uri: uri, type_ } = await body(context, estimation)
    return done(context, await executors.estimate(context.req.param('id'), policy ?? uri ?? null, type_))
  })
  // A peer that runs is an executor: there is nothing to set up on it or to take down.
  app.post('/executor/:id/create-infra', async context => done(context, await executors.get(context.req.param('id'))))
  app.delete('/executor/:id/remove-infra', async context => done(context, await executors.get(context.req.param('id'))))
}

function addRunning(app: Hono, { peer }: GatewayParts, done: Done): void {
  const { jobs, functions } = peer
  for (const [paths, estimate] of [[['/jobs/submit', '/jobs/submit/', '/jobs/submit/:executor'], false], [['/jobs/submit-with-estimate/:executor'], true]] as const) {
    for (const path of paths) {
      app.post(path, async context => {
        const { job, existing } = await jobs.submit(await body(context, json), context.req.param('executor') ?? '', { estimate })
        return context.json({ success: true, job_id: job, data: { job_id: job, existing } }, existing ? 200 : 201)
      })
    }
  }
  app.post('/jobs/query', async context => done(context, await query({ documents: () => jobs.list() }, await body(context, json))))
  app.get('/jobs/:id', async context => done(context, await jobs.get(context.req.param('id'))))

  for (const [paths, estimate] of [[['/function/deployments/create', '/function/deployments/create/', '/function/deployments/create/:executor'], false], [['/function/deployments/create-with-estimate/:executor'], true]] as const) {
    for (const path of paths) app.post(path, async context => done(context, await functions.create(await body(context, json), context.req.param('executor') ?? '', { estimate }), 201))
  }
  for (const path of ['/function/deployments/remove/:name', '/function/remove/:name']) {
    app.delete(path, async context => {
      await functions.remove(context.req.param('name') ?? '')
      return done(context, { function_id: context.req.param('name') })
    })
  }
  app.post('/function/call_function/:name', async context => done(context, await functions.call(context.req.param('name'), await body(context, json), { signal: context.req.raw.signal })))
  app.get('/function/get_logs/:name', async context => done(context, await functions.logs(context.req.param('name'), Number(context.req.query('tail') ?? '100'))))
  app.post('/function/mgmt/:name', async context => {
    const { action, data } = await body(context, order)
    return done(context, await functions.manage(context.req.param('name'), action, data))
  })
  app.post('/function/query', async context => done(context, await query({ documents: () => functions.list() }, await body(context, json))))
  app.get('/function/:id', async context => done(context, await functions.get(context.req.param('id'))))
  addAdhocGraphs(app, peer, done)
}

const adhoc = z.looseObject({
  graph: json, policies: z.array(z.looseObject({ name: z.string().min(1).optional(), policy_rule_uri: z.string().min(1).optional() })).max(200),
  deploy_parameters: members.nullish(),
})

/** AIOS's graphs that bring their functions along: deploys each, then the graph over them. */
function addAdhocGraphs(app: Hono, { functions, shelves, executors }: GatewayParts['peer'], done: Done): void {
  app.post('/graph/estimate-adhoc-graph/:executor', async context => {
    const { policies } = await body(context, z.looseObject({ policies: z.array(json).max(200) }))
    return done(context, await Promise.all(policies.map(policy => executors.estimate(context.req.param('executor'), policy, 'function'))))
  })
  app.post('/graph/deploy-adhoc-graph/:executor', async context => {
    const { graph, policies, deploy_parameters: settings } = await body(context, adhoc)
    const made: string[] = []
    try {
      for (const { name, policy_rule_uri: uri } of policies) {
        const own: Json = settings?.[name ?? uri ?? ''] ?? {}
        const wish: Json = { ...(isJsonObject(own) ? own : {}), name: name ?? uri ?? '', policy_rule_uri: uri ?? name ?? '' }
        await functions.create(wish, context.req.param('executor'))
        made.push(name ?? uri ?? '')
      }
      return done(context, { graph_uri: await shelves.graphs.create(graph), functions: made }, 201)
    } catch (error) {
      // All or nothing.
      for (const name of made) await functions.remove(name).catch(() => undefined)
      throw error
    }
  })
  app.delete('/graph/remove/:executor', async context => {
    const uri = context.req.query('graph_uri') ?? ''
    const { graph_function_ids: names } = await shelves.graphs.get(uri)
    await shelves.graphs.remove(uri)
    for (const name of Array.isArray(names) ? names : []) await functions.remove(String(name)).catch(() => undefined)
    return done(context, { graph_uri: uri })
  })
}
