import { ComponentError, defineBlock, list, number, record, type Json } from 'aios-mesh/sdk'

export type Decision = 'refer-urgent' | 'review' | 'routine'

/**
 * Fan-in: what each source says of one record, as `{ inputs: […] }` in any order → one decision with its reasons.
 * Nothing is routine unless the model is sure, has seen records like it, and no measurement was made up.
 */
export default defineBlock({
  data(entry, context) {
    const sources = list(record(entry.data)['inputs'] ?? [entry.data], 'inputs').map((source, index) => record(source, `inputs[${index}]`))
    const said = (name: string): Json | undefined => sources.find(source => source[name] !== undefined && source[name] !== null)?.[name]
    const setting = (name: string, otherwise: number): number => number(context.parameters[name] ?? otherwise, `parameters.${name}`)
    const probability = number(said('probability') ?? missing('probability', sources), 'probability')
    const novelty = number(said('novelty') ?? missing('novelty', sources), 'novelty')
    const [urgent, routine, unlike] = [setting('urgentFrom', 0.5), setting('routineBelow', 0.12), setting('unlikeFrom', 0.67)]
    const doubts = [
      ...(novelty >= unlike ? [`unlike the records the models were trained on (novelty ${novelty.toFixed(2)}, from ${unlike})`] : []),
      ...named('measurements missing and filled in', said('imputed')),
      ...named('measurements far outside the usual range', said('outOfRange')),
    ]
    const certainty = probability >= urgent
      ? `probability of malignancy ${percent(probability)}, from ${percent(urgent)} is urgent`
      : probability < routine
        ? `probability of malignancy ${percent(probability)}, below ${percent(routine)}`
        : `probability of malignancy ${percent(probability)}, between ${percent(routine)} and ${percent(urgent)}`
    const decision: Decision = probability >= urgent ? 'refer-urgent' : probability < routine && doubts.length === 0 ? 'routine' : 'review'
    context.metrics.counter(`decisions_${decision.replace('-', '_')}`).increment()
    const id = said('id')
    return { id: typeof id === 'string' ? id : entry.sessionId, decision, probability, novelty, reasons: [certainty, ...doubts] }
  },
})

function missing(name: string, sources: readonly Readonly<Record<string, Json>>[]): never {
  throw new ComponentError(`no source gave "${name}"; they gave ${sources.map(source => Object.keys(source).join(', ')).join('; ')}`)
}

function named(what: string, value: Json | undefined): readonly string[] {
  const names = value === undefined ? [] : list(value, what)
  return names.length === 0 ? [] : [`${what}: ${names.join(', ')}`]
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)}%`
}
