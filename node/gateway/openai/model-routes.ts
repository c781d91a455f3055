import type { Hono } from 'hono'
import { z } from 'zod'
import { json } from '../../../protocols/ids.ts'
import type { ServedModel } from '../../../protocols/model.ts'
import type { BlockRecord } from '../../../protocols/specs.ts'
import { givesEmbeddings } from '../../../src/llm/embedding-model.ts'
import type { ModelTexts } from '../../../src/llm/text/model-texts.ts'
import type { Clock } from '../../../src/ports.ts'
import type { Catalogue, MeshView, Models } from '../../../src/roles.ts'
import { openAiBody } from './failure.ts'
import { noModel, speaker } from './served-model.ts'

export type ModelParts = { readonly clock: Pick<Clock, 'monotonic' | 'sleep'>; readonly models: Pick<Models, 'served' | 'services' | 'modelByCid'>; readonly texts: ModelTexts; readonly catalogue: Pick<Catalogue, 'block' | 'blocks'>; readonly view: Pick<MeshView, 'instancesOf'> }

const tokenizeRequest = z.strictObject({
  model: z.string(), prompt: z.string().optional(), messages: z.array(z.record(z.string(), json).and(z.object({ role: z.string() }))).min(1).optional(), tools: z.array(json).optional(), add_special_tokens: z.boolean().default(true),
}).refine(({ prompt, messages }) => (prompt === undefined) !== (messages === undefined), 'give a prompt or messages')
const detokenizeRequest = z.strictObject({ model: z.string(), tokens: z.array(z.int().nonnegative()).max(1_048_576) })

/** What may be asked here, who computes it, and how its text becomes tokens and back (as vLLM's `tokenize` and `detokenize`). */
export function addModelRoutes(door: Hono, { models, texts, catalogue, view, clock }: ModelParts): void {
  const entry = (id: string, owner: string, more: object): object => ({ id, object: 'model', created: 0, owned_by: owner, ...more })
  const hosts = (block: string): readonly object[] => view.instancesOf(block).map(({ host, ad }) => ({ peer: host, instance: ad.instance, state: ad.state }))
  const served = ({ service, owner, modelURI, contextTokens, stages }: ServedModel): object => entry(service, owner, { model_uri: modelURI, max_model_len: contextTokens, stages: stages.map(({ block, first, end }) => ({ block, first, end, hosts: hosts(block) })) })
  const encoder = ({ blockId, owner, componentURI }: BlockRecord): object => entry(blockId, owner, { component_uri: componentURI, task: 'embeddings', hosts: hosts(blockId) })

  door.get('/models', async context => context.json({ object: 'list', data: [...(await models.services()).map(served), ...(await catalogue.blocks()).filter(givesEmbeddings).map(encoder)] }))
  door.get('/models/:id', async context => {
    const name = context.req.param('id')
    const found = await models.served(name)
    if (found !== undefined) {
      const { facts, generation } = await models.modelByCid(found.model, context.req.raw.signal)
      // A model that came without a tokenizer is one all the same.
      const text = await texts.of(found.model, context.req.raw.signal).catch(() => undefined)
      return context.json({ ...served(found), facts, generation, chat: text?.chat.known ?? false, tokenizer: text !== undefined })
    }
    const block = await catalogue.block(name)
    if (block === undefined || !givesEmbeddings(block)) throw noModel(name)
    return context.json(encoder(block))
  })

  door.post('/tokenize', async context => {
    const asked = await openAiBody(context, tokenizeRequest)
    const { text, served: found } = await speaker(models, texts, asked.model, clock, context.req.raw.signal)
    const tokens = asked.messages === undefined ? text.encode(asked.prompt ?? '', asked.add_special_tokens) : text.prompt({ messages: asked.messages, ...(asked.tools === undefined ? {} : { tools: asked.tools }) })
    return context.json({ tokens, count: tokens.length, max_model_len: found.contextTokens })
  })
  door.post('/detokenize', async context => {
    const asked = await openAiBody(context, detokenizeRequest)
    const { text } = await speaker(models, texts, asked.model, clock, context.req.raw.signal)
    return context.json({ prompt: text.decode(asked.tokens) })
  })
}
