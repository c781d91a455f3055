import { definePolicy, number, record, text, type Json } from 'aios-mesh/sdk'

/** `quota` counts this request already. Management: `credit` with `{ session_id, requests }`. */
export default definePolicy({
  init: () => new Map<string, number>(),
  eval(parameters, input, _context, { state }): Json {
    const most = number(parameters['most'] ?? 100, 'most') + (state.get(String(input['session_id'])) ?? 0)
    return { allowed: number(input['quota'] ?? 0, 'quota') <= most }
  },
  management(action, data, { state }): Json {
    if (action !== 'credit') throw new Error(`this rule knows credit, not ${action}`)
    const { session_id, requests } = record(data)
    const session = text(session_id, 'session_id')
    state.set(session, (state.get(session) ?? 0) + number(requests, 'requests'))
    return { session_id: session, credit: state.get(session) ?? 0 }
  },
})
