import type { Json } from '../../protocols/ids.ts'
import { METRICS_BYTES } from './frames.ts'

/** Counted as JSON. A short fraction has nine bytes in DAG-CBOR, which makes a whole report half as long again at most. */
const JSON_BYTES = METRICS_BYTES / 2

/** As many metrics as one report may have, the smallest first: one that has a label for each of its users must not hide the others. */
export function fitting(metrics: Readonly<Record<string, Json>>): Readonly<Record<string, Json>> {
  const sized = Object.entries(metrics).map(([name, family]) => ({ name, family, bytes: JSON.stringify(family).length + name.length + 8 }))
  if (sized.reduce((sum, { bytes }) => sum + bytes, 0) <= JSON_BYTES) return metrics
  let left = JSON_BYTES
  return Object.fromEntries(sized.sort((a, b) => a.bytes - b.bytes).filter(({ bytes }) => (left -= bytes) >= 0).map(({ name, family }) => [name, family]))
}
