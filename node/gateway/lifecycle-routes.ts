import type { Hono } from 'hono'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { blockId } from '../../protocols/ids.ts'
import type { InitContainerEntry } from '../../protocols/lifecycle.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

const named = z.looseObject({ block_id: blockId.optional(), blockId: blockId.optional() })

/** How far init lifecycles are, over AIOS's path: any peer answers for any cluster. Their instances report over their frames, so there is nothing to post. */
export function addLifecycleRoutes(app: Hono, { peer: { thirdParty } }: GatewayParts): void {
  const entryOf = async (id: string | undefined): Promise<InitContainerEntry> => {
    const entry = id === undefined ? undefined : await thirdParty.entry(id)
    if (entry === undefined) throw new MeshError('NOT_FOUND', `no init lifecycle of ${id ?? 'a block without a name (send block_id)'} is on record`)
    return entry
  }
  for (const path of ['/initContainer/queryInitContainerData', '/initContainer/queryInitContainerData/:cluster']) {
    app.post(path, async context => {
      const { block_id, blockId: id = block_id } = await body(context, named)
      return context.json({ success: true, data: await entryOf(id) })
    })
  }
  app.get('/initContainers', async context => context.json({ success: true, data: await thirdParty.entries() }))
  app.get('/initContainer/:block', async context => context.json({ success: true, data: await entryOf(context.req.param('block')) }))
}
