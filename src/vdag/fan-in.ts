import { MeshError } from '../../protocols/errors.ts'
import type { Packet } from '../../protocols/invoke.ts'
import { assert } from '../lib/assert.ts'
import { isJsonObject } from '../lib/json.ts'
import { MUXED_INPUTS } from '../specs/template.ts'
import type { PlanPlayer } from './plan.ts'

/** Of a packet. */
const FILES = 64

/**
 * One packet of those that arrived, in edge order, as AIOS's muxer does: data `{"inputs": […]}`, files one after the
 * other, session and number of the first. `merge` overlays their fields instead, the later source winning.
 */
export function fanIn(packets: readonly Packet[], join: PlanPlayer['join']): Packet {
  const [first] = packets
  assert(first !== undefined, 'a node runs only when something arrived')
  if (packets.length === 1 && join !== 'list') return first
  const files = packets.flatMap(packet => packet.files)
  if (files.length > FILES) throw new MeshError('BAD_INPUT', `${files.length} files arrive together; a packet carries ${FILES}`)
  const ts = Math.max(...packets.map(packet => packet.ts))
  const objects = packets.map(({ data }) => data).filter(data => isJsonObject(data))
  const merges = join === 'merge' && objects.length === packets.length
  return { ...first, ts, files, data: merges ? Object.fromEntries(objects.flatMap(data => Object.entries(data))) : { [MUXED_INPUTS]: packets.map(({ data }) => data) } }
}
