import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { recordCid, utf8 } from '../../protocols/codec.ts'
import type { Json } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import { blockRecord, componentManifest, type ComponentManifest } from '../../protocols/specs.ts'
import { compiledFolder } from '../../node/compiled.ts'
import { createBackend, type BackendOptions } from '../../node/adapters/backend.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Backend, Clock, InstanceStart, MachineReport, Telemetry } from '../../src/ports.ts'

export type Parts = {
  readonly files: Readonly<Record<string, string | Uint8Array>>
  readonly runtime?: ComponentManifest['runtime']
  readonly initData?: Record<string, Json>
  readonly parameters?: Record<string, Json>
  readonly memoryMb?: number
  readonly diskMb?: number
  readonly gpus?: readonly string[]
  readonly policies?: Record<string, Json>
  readonly packetPolicy?: InstanceStart['packetPolicy']
  readonly initSettings?: Record<string, Json>
}

/** A backend over a folder of its own, with bundles that live in memory. */
export type Bench = AsyncDisposable & {
  readonly dir: string
  readonly backend: Backend
  readonly events: readonly { readonly name: string; readonly fields: Readonly<Record<string, unknown>> }[]
  request(parts: Parts): InstanceStart
}

const PEER = '12D3KooWTestTestTestTest'

export async function openBench(more: Partial<BackendOptions> & { readonly report?: Partial<MachineReport> } = {}): Promise<Bench> {
  const dir = await mkdtemp(join(tmpdir(), 'aios-backend-'))
  const stored = new Map<string, Uint8Array>()
  const events: { name: string; fields: Readonly<Record<string, unknown>> }[] = []
  const telemetry: Telemetry = { count() {}, gauge() {}, observe() {}, event: (_level, name, fields) => void events.push({ name, fields }) }
  const report: MachineReport = { total: { cpuMilli: 2_000, memoryMb: 4_096, diskMb: 1_000, gpus: [] }, runtimes: [], memoryGBs: 0, os: 'test', cpuModel: 'test', isolation: ['L1'], notes: [], ...more.report }
  const backend = createBackend({
    dir, clock: realClock, telemetry, isolation: 'L1', compileCache: compiledFolder(),
    content: {
      async *cat(cid) {
        const bytes = stored.get(cid)
        if (bytes === undefined) throw new MeshError('CONTENT_UNAVAILABLE', `nobody holds ${cid}`)
        yield bytes
      },
    },
    machine: { probe: async () => report },
    ...more,
  })
  let instances = 0
  return {
    dir, backend, events,
    request(parts) {
      const files = Object.entries(parts.files).map(([path, content]) => {
        const bytes = typeof content === 'string' ? utf8(content) : content
        const cid = recordCid(bytes)
        stored.set(cid, bytes)
        return { path, cid, size: bytes.byteLength }
      })
      const runtime = parts.runtime ?? { name: 'node' as const, entry: Object.keys(parts.files)[0]! }
      const needs = { cpuMilli: 1_000, memoryMb: parts.memoryMb ?? 256, diskMb: parts.diskMb ?? 0, gpus: parts.gpus?.length ?? 0, gpuMemoryMb: 0 }
      const componentURI = 'test.component:1.0.0-stable'
      const manifest = componentManifest.parse({ componentURI, componentId: { name: 'component', version: '1.0.0', releaseTag: 'stable' }, componentType: 'test', runtime, files, needs, author: PEER })
      const block = blockRecord.parse({
        blockId: 'test-block', componentURI, component: recordCid(utf8(componentURI)), runtime, minInstances: 1, maxInstances: 1, needs, owner: PEER, revision: 0,
        initData: parts.initData ?? {}, parameters: parts.parameters ?? {}, policies: parts.policies ?? {}, initSettings: parts.initSettings ?? {},
      })
      return { instance: `in-${process.pid.toString(36)}${(instances++).toString(36)}`, block, manifest, gpus: parts.gpus ?? [], peer: PEER, clusterId: 'cluster', packetPolicy: parts.packetPolicy ?? (async (_hook, packet) => packet) }
    },
    async [Symbol.asyncDispose]() {
      await rm(dir, { recursive: true, force: true, maxRetries: 5 })
    },
  }
}

export const never = new AbortController().signal

export function packetOf(data: Json, more: Partial<Packet> = {}): Packet {
  return { sessionId: 's', seqNo: 0, ts: 1, data, files: [], ...more }
}

/** The data of every answer. */
export async function answers(run: AsyncIterable<Packet>): Promise<readonly Json[]> {
  const out: Json[] = []
  for await (const packet of run) out.push(packet.data)
  return out
}

export const realClock: Clock = {
  monotonic: () => Math.floor(performance.now()),
  unix: () => Date.now(),
  sleep: duration => new Promise(resolve => { setTimeout(resolve, duration) }),
  after(duration, run) {
    const timer = setTimeout(run, duration)
    timer.unref()
    return () => clearTimeout(timer)
  },
  deadline(duration, parent) {
    const late = new AbortController()
    setTimeout(() => late.abort(new MeshError('DEADLINE', `not done in ${duration} ms`)), duration).unref()
    return parent === undefined ? late.signal : AbortSignal.any([parent, late.signal])
  },
}
