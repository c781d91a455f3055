import { definePolicy, list, record, text, type Json } from 'aios-mesh/sdk'

/** Rendezvous hashing: an instance that comes or goes moves its own sessions only. */
export default definePolicy({
  eval(_parameters, input): Json {
    const instances = list(input['instances'] ?? [], 'instances').map(instance => text(instance, 'instance'))
    const session = record(input['packet'] ?? {})['session_id'] ?? ''
    let best: { readonly instance: string; readonly weight: number } | undefined
    for (const instance of instances) {
      const weight = hash(`${String(session)}/${instance}`)
      if (best === undefined || weight > best.weight) best = { instance, weight }
    }
    return best === undefined ? null : { instance_id: best.instance }
  },
})

/** FNV-1a, then mixed: its high bits alone hardly differ between names that differ at their end. */
function hash(name: string): number {
  let value = 0x811c9dc5
  for (let at = 0; at < name.length; at += 1) value = Math.imul(value ^ name.charCodeAt(at), 0x01000193)
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35)
  return (value ^ (value >>> 16)) >>> 0
}
