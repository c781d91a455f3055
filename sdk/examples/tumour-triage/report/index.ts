import { ComponentError, defineBlock, list, number, record, text } from 'aios-mesh/sdk'

const ACTIONS: Readonly<Record<string, { readonly title: string; readonly action: string }>> = {
  'refer-urgent': { title: 'Refer urgently', action: 'Refer to the breast clinic on the urgent pathway.' },
  'review': { title: 'Review by a person', action: 'A cytologist looks at the sample before anything is decided.' },
  'routine': { title: 'Routine follow-up', action: 'No sign of malignancy found; follow up as usual.' },
}

const NOTICE = 'Research example on public data. Not a medical device; no decision about a person may rest on it.'

/** A decision → the report a person reads, as fields and as text. */
export default defineBlock({
  data(entry) {
    const input = record(entry.data)
    const decision = text(input['decision'], 'decision')
    const known = Object.hasOwn(ACTIONS, decision) ? ACTIONS[decision] : undefined
    if (known === undefined) throw new ComponentError(`"${decision}" is not a decision; use one of ${Object.keys(ACTIONS).join(', ')}`)
    const id = text(input['id'], 'id')
    const probability = number(input['probability'], 'probability')
    const novelty = number(input['novelty'], 'novelty')
    const reasons = list(input['reasons'], 'reasons').map(reason => text(reason, 'reasons'))
    return {
      id, decision, probability, novelty, reasons,
      title: known.title,
      action: known.action,
      text: [`${id}: ${known.title.toUpperCase()}`, known.action, ...reasons.map(reason => `  - ${reason}`), NOTICE].join('\n'),
    }
  },
})
