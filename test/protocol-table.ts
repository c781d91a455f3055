import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './source.ts'

export type ProtocolRow = { readonly id: string; readonly file: string; readonly kind: string; readonly limits: string }
type Limits = Readonly<Record<string, number>>

/** What `protocols/` defines, in the words of its README. Sorted by id. */
export async function describeProtocols(): Promise<readonly ProtocolRow[]> {
  const rows: ProtocolRow[] = []
  for (const file of readdirSync(join(ROOT, 'protocols')).filter(name => name.endsWith('.ts')).sort()) {
    const exported: Readonly<Record<string, unknown>> = await import(join(ROOT, 'protocols', file))
    for (const value of Object.values(exported)) {
      if (typeof value === 'string' && /^\/aios\/[a-z-]+\/\d+$/.test(value)) rows.push({ id: value, file, kind: 'transport', limits: 'those of what it carries' })
      if (!isDefinition(value)) continue
      rows.push({ id: value.id, file, kind: 'request' in value ? 'request' : 'message' in value ? 'topic' : 'stream', limits: describeLimits(value.limits) })
    }
  }
  return rows.sort((a, b) => (a.id < b.id ? -1 : 1))
}

function isDefinition(value: unknown): value is { readonly id: string; readonly limits: Limits } {
  return value !== null && typeof value === 'object' && 'id' in value && typeof value.id === 'string' && value.id.startsWith('/aios/') && 'limits' in value
}

function describeLimits(limits: Limits): string {
  const { requestBytes, responseBytes, messageBytes, frameBytes, queuedFrames, perPeerPerSecond, deadlineMs, idleMs } = limits
  const parts: string[] = []
  if (requestBytes !== undefined && responseBytes !== undefined) parts.push(`${size(requestBytes)} → ${size(responseBytes)}`)
  if (messageBytes !== undefined) parts.push(size(messageBytes))
  if (frameBytes !== undefined) parts.push(`${size(frameBytes)} a frame`)
  if (queuedFrames !== undefined) parts.push(`${queuedFrames} unread`)
  if (perPeerPerSecond !== undefined) parts.push(`${perPeerPerSecond}/s`)
  if (deadlineMs !== undefined) parts.push(`${deadlineMs / 1_000} s`)
  if (idleMs !== undefined) parts.push(`${idleMs / 1_000} s idle`)
  return parts.join(', ')
}

function size(bytes: number): string {
  if (bytes >= 1_048_576) return `${round(bytes / 1_048_576)} MiB`
  return bytes >= 1_024 ? `${round(bytes / 1_024)} KiB` : `${bytes} B`
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
