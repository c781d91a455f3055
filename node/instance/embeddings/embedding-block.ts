import { z } from 'zod'
import { check } from '../../../protocols/codec.ts'
import { MeshError } from '../../../protocols/errors.ts'
import type { BlockDefinition } from '../../../sdk/definition.ts'
import type { Context } from '../../../sdk/context.ts'
import { describe } from '../../../sdk/mapping.ts'
import { tensor, values, type Model, type Tensor, type TensorInfo } from '../../../sdk/tensor.ts'
import { ModelText } from '../../../src/llm/text/model-text.ts'
import { pool, unit } from './pooling.ts'
import { embeddingSettings, type EmbeddingSettings } from './settings.ts'

/** Texts of one run: more of them wait longer for the longest. */
const BATCH = 16
const TEXTS = 2_048
const tokens = z.array(z.int().nonnegative()).min(1).max(1_048_576)
const request = z.looseObject({ input: z.union([z.string().min(1), z.array(z.string().min(1)).min(1).max(TEXTS), tokens, z.array(tokens).min(1).max(TEXTS)]) })

type State = { readonly model: Model; readonly text: ModelText; readonly settings: EmbeddingSettings; readonly output: TensorInfo }

/**
 * The block that an ONNX encoder with a tokenizer is when its initData declares `embeddings`: `{ input: text | texts | tokens | lists of
 * tokens }` in, `{ embeddings, tokens }` out, a vector and a count of tokens for each. Longer texts are cut, keeping the last special token.
 */
export function embeddingBlock(path: string): BlockDefinition<State> {
  return {
    async load(context) {
      const file = async (name: string): Promise<unknown> => context.assets.json(name).catch(() => undefined)
      const settings = await embeddingSettings(context.blockInitData['embeddings'] ?? true, file)
      const tokenizer = await file('tokenizer.json')
      if (tokenizer === undefined) throw new MeshError('SPEC_INVALID', 'a model of embeddings needs its tokenizer.json in the bundle')
      const text = new ModelText({ 'tokenizer.json': tokenizer, 'tokenizer_config.json': await file('tokenizer_config.json'), 'special_tokens_map.json': await file('special_tokens_map.json') })
      const model = await context.model(path)
      return { model, text, settings, output: outputOf(model, settings) }
    },
    async data(entry, context) {
      const { text, settings } = context.state
      const { input } = check(request, typeof entry.data === 'object' && entry.data !== null && !Array.isArray(entry.data) ? entry.data : { input: entry.data }, 'data', 'BAD_INPUT')
      const texts = listed(input).map(item => (typeof item === 'string' ? cut(text.encode(settings.prefix + item, true), settings.maxTokens) : cut(item, settings.maxTokens)))
      const empty = texts.findIndex(ids => ids.length === 0)
      if (empty >= 0) throw new MeshError('BAD_INPUT', `text ${empty} has no tokens`)
      const vectors: number[][] = texts.map(() => [])
      // Texts of like length go together, so that little is padded.
      const order = [...texts.keys()].sort((a, b) => texts[a]!.length - texts[b]!.length)
      for (let from = 0; from < order.length; from += BATCH) {
        const places = order.slice(from, from + BATCH)
        const made = await embed(context, places.map(place => texts[place]!))
        places.forEach((place, at) => (vectors[place] = made[at]!))
      }
      return { embeddings: vectors, tokens: texts.map(ids => ids.length) }
    },
    health(context) {
      const { model, output, settings } = context.state
      return { status: 'healthy', model: path, provider: model.provider, output: describe(output), maxTokens: settings.maxTokens }
    },
  } satisfies BlockDefinition<State>
}

async function embed({ state, signal }: Context<State>, texts: readonly (readonly number[])[]): Promise<readonly number[][]> {
  const { model, settings, output } = state
  const length = Math.max(...texts.map(ids => ids.length))
  const padded = (fill: (ids: readonly number[], at: number) => number): number[] => texts.flatMap(ids => Array.from({ length }, (_, at) => fill(ids, at)))
  const feed = ({ name, dtype }: TensorInfo): Tensor => {
    const shape = [texts.length, length]
    if (name === 'attention_mask') return tensor(dtype, shape, padded((ids, at) => (at < ids.length ? 1 : 0)))
    if (name === 'token_type_ids') return tensor(dtype, shape, padded(() => 0))
    if (name === 'position_ids') return tensor(dtype, shape, padded((_, at) => at))
    return tensor(dtype, shape, padded((ids, at) => ids[at] ?? 0))
  }
  const result = (await model.run(Object.fromEntries(model.inputs.map(info => [info.name, feed(info)])), signal))[output.name]
  if (result === undefined) throw new MeshError('COMPONENT_ERROR', `the model gave no output "${output.name}"`)
  const width = result.shape.at(-1) ?? 0
  const numbers = values(result).map(Number)
  const row = numbers.length / texts.length
  return texts.map((ids, at) => {
    const states = numbers.slice(at * row, (at + 1) * row)
    const vector = row === width ? states : pool(states, width, ids.length, settings.pooling ?? 'mean')
    return settings.normalise ? unit(vector) : vector
  })
}

/** The model's own sentence vector where it has one and no pooling is asked for, else the states of the tokens. Throws SPEC_INVALID. */
function outputOf(model: Model, { pooling }: EmbeddingSettings): TensorInfo {
  const needed = ['input_ids', 'attention_mask', 'token_type_ids', 'position_ids']
  const unknown = model.inputs.find(({ name }) => !needed.includes(name))
  if (unknown !== undefined) throw new MeshError('SPEC_INVALID', `the model wants "${unknown.name}"; a model of embeddings takes ${needed.join(', ')}`)
  const whole = model.outputs.find(({ shape }) => shape.length === 2)
  const states = model.outputs.find(({ shape }) => shape.length === 3)
  const output = pooling === undefined ? whole ?? states : states
  if (output === undefined) throw new MeshError('SPEC_INVALID', `the model gives ${model.outputs.map(({ name, ...info }) => `${name} ${describe(info)}`).join(', ')}; embeddings come from states [batch, length, width] or vectors [batch, width]`)
  return output
}

function listed(input: z.infer<typeof request>['input']): readonly (string | readonly number[])[] {
  if (typeof input === 'string') return [input]
  const numbers = input.filter(item => typeof item === 'number')
  return numbers.length > 0 ? [numbers] : input.filter(item => typeof item !== 'number')
}

function cut(ids: readonly number[], most: number): readonly number[] {
  return ids.length <= most ? ids : [...ids.slice(0, most - 1), ids.at(-1)!]
}
