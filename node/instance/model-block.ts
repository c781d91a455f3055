import { OnDataResult, type BlockDefinition } from '../../sdk/definition.ts'
import { describe, fromOutputs, readMapping, toFeeds, type Mapping } from '../../sdk/mapping.ts'
import type { Model } from '../../sdk/tensor.ts'

/** The block that a model without code is: JSON to tensors, run, tensors to JSON, as its initData maps them. */
export function modelBlock(path: string): BlockDefinition<{ readonly model: Model; readonly mapping: Mapping }> {
  return {
    async load(context) {
      const model = await context.model(path)
      return { model, mapping: readMapping(context.blockInitData, model) }
    },
    async data(entry, context) {
      const { model, mapping } = context.state
      const { feeds, batched } = toFeeds(mapping, entry.data, entry.files)
      return new OnDataResult(fromOutputs(mapping, await model.run(feeds, context.signal), batched))
    },
    health(context) {
      const { model } = context.state
      const listed = (infos: Model['inputs']) => Object.fromEntries(infos.map(info => [info.name, describe(info)]))
      return { status: 'healthy', model: path, provider: model.provider, inputs: listed(model.inputs), outputs: listed(model.outputs) }
    },
  } satisfies BlockDefinition<{ readonly model: Model; readonly mapping: Mapping }>
}
