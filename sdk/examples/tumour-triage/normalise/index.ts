import { ComponentError, defineBlock, list, number, record, text, type Assets, type Json } from 'aios-mesh/sdk'

/** What the training records were like: the same numbers the models were trained with. */
type Scaling = {
  readonly features: readonly string[]
  readonly mean: readonly number[]
  readonly deviation: readonly number[]
  readonly median: readonly number[]
  readonly minimum: readonly number[]
  readonly maximum: readonly number[]
}

/**
 * A record of thirty named measurements → the standardised vector both models take. A missing measurement is replaced
 * by the median of the training records and named in `imputed`; one far outside what was seen in training is named in
 * `outOfRange`. Too many missing ones, or text where a number belongs, are refused: no model should guess those.
 */
export default defineBlock({
  load: async context => ({ scaling: await readScaling(context.assets) }),
  data(entry, context) {
    const { scaling } = context.state
    const most = number(context.parameters['maxImputed'] ?? 3, 'parameters.maxImputed')
    const input = record(entry.data, 'the record')
    const measured = record(input['record'] ?? input, 'record')
    const imputed: string[] = []
    const outOfRange: string[] = []
    const features = scaling.features.map((name, index) => {
      const value = measure(measured, name)
      if (value === undefined) imputed.push(name)
      else if (beyond(value, scaling.minimum[index]!, scaling.maximum[index]!)) outOfRange.push(name)
      return ((value ?? scaling.median[index]!) - scaling.mean[index]!) / scaling.deviation[index]!
    })
    if (imputed.length > most) throw new ComponentError(`${imputed.length} of ${features.length} measurements are missing (${imputed.slice(0, 4).join(', ')}, …); at most ${most} may be`)
    return { id: typeof input['id'] === 'string' ? input['id'] : entry.sessionId, features, imputed, outOfRange }
  },
})

function measure(measured: Readonly<Record<string, Json>>, name: string): number | undefined {
  const value = measured[name] ?? measured[name.replaceAll('_', ' ')]
  if (value === undefined || value === null || value === '') return undefined
  const read = number(value, `record.${name}`)
  if (read < 0) throw new ComponentError(`record.${name} is ${read}; measurements are not negative`)
  return read
}

/** More than half the training range outside it. */
function beyond(value: number, minimum: number, maximum: number): boolean {
  const margin = (maximum - minimum) / 2
  return value < minimum - margin || value > maximum + margin
}

async function readScaling(assets: Assets): Promise<Scaling> {
  const file = record(await assets.json('scaling.json'), 'scaling.json')
  const numbers = (name: string): readonly number[] => list(file[name], `scaling.${name}`).map(value => number(value, `scaling.${name}`))
  return {
    features: list(file['features'], 'scaling.features').map(name => text(name, 'scaling.features')),
    mean: numbers('mean'), deviation: numbers('deviation'), median: numbers('median'), minimum: numbers('minimum'), maximum: numbers('maximum'),
  }
}
