import { MeshError } from '../../protocols/errors.ts'
import type { Telemetry } from '../ports.ts'

/** Lets work go on that nobody waits for. An expected failure is told as `name`; a bug surfaces as one. */
export function background(telemetry: Telemetry, name: string, work: Promise<unknown>, level: 'debug' | 'warn' = 'debug'): void {
  work.catch(error => {
    if (!(error instanceof MeshError)) throw error
    telemetry.event(level, name, { because: error.message })
  })
}
