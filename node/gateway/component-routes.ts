import type { Hono } from 'hono'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import { isJsonObject } from '../../src/lib/json.ts'
import { parseTemplate, validate } from '../../src/specs/template.ts'
import { answerGraphQuery } from '../../src/stores/component-graph.ts'
import { query } from '../../src/stores/shelf.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

const named = z.looseObject({ uri: z.string().min(1).max(300) })
const changing = named.extend({ data: z.record(z.string(), json) })
const checking = z.looseObject({ template: json.optional(), schema: json.optional(), uri: z.string().optional(), protocol: z.string().optional(), data: json.optional(), input: json.optional() })

/** AIOS's component registry under `/api/`, and its two template validators behind one door. */
export function addComponentRoutes(app: Hono, { peer }: GatewayParts): void {
  const { components } = peer.shelves
  app.post('/api/registerComponent', async context => context.json({ success: true, data: { componentURI: await components.create(await body(context, json)) } }, 201))
  app.post('/api/unregisterComponent', async context => {
    const { uri } = await body(context, named)
    await components.remove(uri)
    return context.json({ success: true, data: { componentURI: uri } })
  })
  app.post('/api/updateComponent', async context => {
    const { uri, data } = await body(context, changing)
    return context.json({ success: true, data: await components.update(uri, data) })
  })
  app.post('/api/addMetadata', async context => {
    const { uri, data } = await body(context, changing)
    return context.json({ success: true, data: await components.update(uri, { $set: { componentMetadata: data } }) })
  })
  // AIOS writes its paths with and without the field they are in.
  app.post('/api/updateMetadata', async context => {
    const { uri, data } = await body(context, changing)
    const within = (fields: Json): Json => (isJsonObject(fields) ? Object.fromEntries(Object.entries(fields).map(([path, value]) => [`componentMetadata.${path.replace(/^(?:componentMetadata|metadata)\./, '')}`, value])) : fields)
    const change = Object.keys(data).some(name => name.startsWith('$')) ? Object.fromEntries(Object.entries(data).map(([operator, fields]) => [operator, within(fields)])) : within(data)
    return context.json({ success: true, data: await components.update(uri, change) })
  })
  app.post('/api/getByType', async context => {
    const { typeString } = await body(context, z.looseObject({ typeString: z.string().min(1).max(300) }))
    return context.json({ success: true, data: await query(components, { componentType: { $regex: typeString } }) })
  })
  app.post('/api/getByURI', async context => {
    const { uriString } = await body(context, z.looseObject({ uriString: z.string().min(1).max(300) }))
    // A whole URI is that component and no other, though as a pattern it fits more.
    const exact = await query(components, { componentURI: uriString })
    return context.json({ success: true, data: exact.length > 0 ? exact : await query(components, { componentURI: { $regex: uriString } }) })
  })
  app.post('/api/query', async context => context.json({ success: true, data: await query(components, await body(context, json)) }))

  // As GraphQL answers: `data`, or `errors` with what is wrong.
  app.post('/gql', async context => {
    const { query: source, variables } = await body(context, z.looseObject({ query: z.string().max(100_000), variables: z.record(z.string(), json).nullish() }))
    try {
      return context.json({ data: await answerGraphQuery(components, source, variables ?? {}) })
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      return context.json({ errors: [{ message: error.message, extensions: { code: error.code } }] }, 400)
    }
  })

  app.post('/api/validate', async context => {
    const asked = await body(context, checking)
    const given = asked.template ?? asked.schema ?? (asked.uri === undefined ? undefined : (await components.get(asked.uri))[asked.protocol ?? 'componentInputProtocol'])
    if (given === undefined) throw new MeshError('BAD_INPUT', 'give a template (and data to hold to it), or the uri of a component and which protocol: "componentInputProtocol"')
    const template = parseTemplate(given, 'template')
    const data = asked.data ?? asked.input
    const problems = data === undefined ? [] : validate(template, data)
    return context.json({ success: problems.length === 0, data: { valid: problems.length === 0, problems, template } })
  })
}
