import type { Hono } from 'hono'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { decision } from '../../protocols/reviews.ts'
import { toJson } from '../../src/lib/json.ts'
import { body } from './request-body.ts'
import type { GatewayParts } from './server.ts'

/** By its id, or by the time that it shows. */
const decided = z.object({ id: z.string().max(100).optional(), at: z.number().optional(), decided: decision })

/** What waits for a person, of every peer, and what people say of it: the same at each of them. */
export function addReviewRoutes(app: Hono, { peer: { reviews } }: GatewayParts): void {
  app.get('/mesh/reviews', async context => context.json(toJson(await reviews.list())))
  app.get('/mesh/reviews/:id', async context => context.json(toJson(await reviews.get(context.req.param('id'), context.req.raw.signal))))
  app.post('/mesh/reviews', async context => {
    const asked = await body(context, decided)
    const id = asked.id ?? (asked.at === undefined ? undefined : await reviews.named(asked.at))
    if (id === undefined) throw new MeshError('BAD_INPUT', 'name the review: { "id": …, "decided": "approved" }')
    return context.json(toJson(await reviews.decide(id, asked.decided)))
  })
}
