import { z } from 'zod'
import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { InstanceId, Json, Millis } from '../../protocols/ids.ts'
import type { InstanceInit } from '../../protocols/placement.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { isJsonObject } from '../lib/json.ts'
import type { Spot } from '../placement/stewardship.ts'
import type { InstanceLoad } from './instance-load.ts'

const seconds = z.coerce.number().positive().max(86_400)
const settingsOf = z.object({
  intervalSeconds: seconds.optional(),
  firstRunSeconds: seconds.optional(),
  idleSeconds: seconds.default(300),
  upCooldownSeconds: z.coerce.number().nonnegative().max(86_400).default(0),
  downCooldownSeconds: z.coerce.number().nonnegative().max(86_400).optional(),
  targetLoad: z.coerce.number().min(0.05).max(1).default(0.7),
  targetLatencyMs: z.coerce.number().positive().optional(),
  spareInstances: z.coerce.number().int().min(0).max(100).default(0),
})

export type AutoscaleSettings = {
  readonly intervalMs: Millis
  /** After the block was taken up. */
  readonly firstMs: Millis
  /** Without a call for so long, a block of `minInstances` 0 goes to sleep. */
  readonly idleMs: Millis
  readonly upCooldownMs: Millis
  readonly downCooldownMs: Millis
  /** Part of the calls that an instance takes at a time which it should have on average. */
  readonly targetLoad: number
  readonly targetLatencyMs: number | undefined
  /** Kept warm beyond what is needed, while the block is awake. */
  readonly spare: number
}

/** AIOS asks a rule every 30 s, first after 60 s, and leaves it to it how often to change. The built-in rule costs nothing, so it is asked sooner. */
const RULE = { intervalSeconds: 30, firstRunSeconds: 60, downCooldownSeconds: 0 }
const BUILT_IN = { intervalSeconds: 10, firstRunSeconds: 10, downCooldownSeconds: 60 }

/** `settings` and `parameters` of the block's `autoscaler`; what cannot be read is as if it was not there. */
export function autoscaleSettings({ policies }: Pick<BlockRecord, 'policies'>, builtIn: boolean): AutoscaleSettings {
  const rule = policies['autoscaler']
  const parsed = settingsOf.safeParse({ ...rule?.parameters, ...rule?.settings })
  const said = parsed.success ? parsed.data : settingsOf.parse({})
  const usual = builtIn ? BUILT_IN : RULE
  const intervalMs = 1_000 * (said.intervalSeconds ?? usual.intervalSeconds)
  return {
    intervalMs, firstMs: 1_000 * (said.firstRunSeconds ?? usual.firstRunSeconds), idleMs: 1_000 * said.idleSeconds,
    upCooldownMs: 1_000 * said.upCooldownSeconds, downCooldownMs: 1_000 * (said.downCooldownSeconds ?? usual.downCooldownSeconds),
    targetLoad: said.targetLoad, targetLatencyMs: said.targetLatencyMs, spare: said.spareInstances,
  }
}

/** An instance's load since somebody last looked. `busy` and `waiting`: calls that ran and that waited, on average. */
export type Demand = { readonly busy: number; readonly waiting: number; readonly width: number; readonly latencyMs: number; readonly idleMs: Millis }

export function demandSince(before: { readonly at: Millis; readonly load: InstanceLoad } | undefined, load: InstanceLoad, now: Millis): Demand {
  const { width, latencyMs, idleMs } = load
  const passed = before === undefined ? 0 : now - before.at
  // A restarted instance counts from nothing again.
  if (before === undefined || passed <= 0 || load.ranMs < before.load.ranMs) return { busy: load.inFlight, waiting: load.queued, width, latencyMs, idleMs }
  return { busy: (load.ranMs - before.load.ranMs) / passed, waiting: (load.waitedMs - before.load.waitedMs) / passed, width, latencyMs, idleMs }
}

export type ScaleSituation = {
  readonly min: number
  readonly max: number
  /** Instances wanted now. */
  readonly want: number
  /** Of instances that answered. */
  readonly demands: readonly Demand[]
  readonly settings: AutoscaleSettings
}
export type Wanted = { readonly want: number; readonly because: string }

/**
 * The built-in rule: as many instances as keep the calls under way and waiting at `targetLoad` of what they take (the ratio of Kubernetes'
 * horizontal autoscaler, with its tolerance of a tenth), more where answers take longer than `targetLatencyMs`, at most twice as many at a
 * time; fewer by one at a time; none where a block may sleep and nobody has called it for `idleMs`.
 */
export function defaultScale({ min, max, want, demands, settings }: ScaleSituation): Wanted {
  const { targetLoad, targetLatencyMs, idleMs, spare } = settings
  if (want === 0) return { want: 0, because: 'it sleeps' }
  if (demands.length === 0) return { want, because: 'no instance tells how busy it is' }
  const idle = Math.min(...demands.map(demand => demand.idleMs))
  if (min === 0 && idle >= idleMs) return { want: 0, because: `nobody has called it for ${Math.round(idle / 1_000)} s` }
  const load = demands.reduce((sum, { busy, waiting }) => sum + busy + waiting, 0)
  const room = demands.reduce((sum, { width }) => sum + width, 0) / demands.length
  const latency = demands.reduce((sum, demand) => sum + demand.latencyMs, 0) / demands.length
  const byLoad = load / (room * targetLoad)
  const byLatency = targetLatencyMs === undefined || load === 0 ? 0 : want * (latency / targetLatencyMs)
  const exact = Math.max(byLoad, byLatency, 1)
  const because = `${load.toFixed(1)} calls on average, ${want} instances of ${room.toFixed(0)} each${targetLatencyMs === undefined ? '' : `, ${Math.round(latency)} ms an answer`}`
  const steady = Math.abs(exact / want - 1) <= 0.1
  const needed = (steady ? want : Math.ceil(exact)) + spare
  const next = needed > want ? Math.min(needed, want * 2 + spare) : needed < want ? want - 1 : want
  return { want: bounded(next, Math.max(min, 1), max), because }
}

const more = { instances_count: z.coerce.number().int().min(1).max(1_000), allocation_data: z.array(z.looseObject({ node_id: z.string(), gpu_ids: z.array(z.coerce.string()).optional(), gpus: z.array(z.coerce.string()).optional() })).max(256).nullish() }
const order = z.discriminatedUnion('operation', [
  z.looseObject({ operation: z.literal('upscale'), ...more }),
  z.looseObject({ operation: z.literal('scale'), ...more }),
  z.looseObject({ operation: z.literal('downscale'), instances_list: z.array(z.string()).max(1_000) }),
])

export type Spots = readonly Spot[]
export type Scaling =
  | { readonly do: 'nothing'; readonly because: string }
  | { readonly do: 'up'; readonly want: number; readonly spots: Spots; readonly because: string }
  | { readonly do: 'down'; readonly want: number; readonly instances: readonly InstanceId[]; readonly because: string }

/** An autoscaling rule's answer within the block's bounds: what it asks for beyond them is not done, and `because` says so. */
export function readScaling(said: Json, { want, min, max, instances }: { readonly want: number; readonly min: number; readonly max: number; readonly instances: readonly InstanceId[] }): Verdict<Scaling> {
  if (isJsonObject(said) && said['skip'] === true) return granted({ do: 'nothing', because: 'the rule has nothing to change' })
  const parsed = order.safeParse(said)
  if (!parsed.success) return refused('an autoscaler must return { skip: true }, { skip: false, operation: "upscale", instances_count } or { skip: false, operation: "downscale", instances_list }')
  const given = parsed.data
  if (given.operation === 'downscale') return granted(shrink(want, min, given.instances_list, instances))
  return granted(grow(want, max, given.instances_count, readSpots(given.allocation_data ?? [])))
}

/** More instances, up to the block's most. */
export function grow(want: number, max: number, count: number, spots: Spots): Scaling {
  const next = Math.min(max, want + count)
  if (next <= want) return { do: 'nothing', because: `${count} more are asked for, and there may be ${max} at most` }
  return { do: 'up', want: next, spots: spots.slice(0, next - want), because: next < want + count ? `${count} more are asked for, and ${max} is the most` : `${count} more are asked for` }
}

/** These instances go, down to the block's least. */
export function shrink(want: number, min: number, named: readonly string[], instances: readonly InstanceId[]): Scaling {
  const real = [...new Set(named)].filter(one => instances.includes(one))
  const going = real.slice(0, Math.max(0, want - min))
  if (going.length === 0) return { do: 'nothing', because: real.length === 0 ? 'none of the instances named is here' : `${min} instances are the least` }
  return { do: 'down', want: want - going.length, instances: going, because: going.length < real.length ? `${real.length} are to go, and ${min} is the least` : `${real.length} are to go` }
}

type AllocationData = { readonly node_id: string; readonly gpu_ids?: readonly string[] | undefined; readonly gpus?: readonly string[] | undefined }

/** AIOS's `allocation_data` and `init_data`: where the first new instances go, and what they start with. Either list may be the shorter. */
export function readSpots(data: readonly AllocationData[], inits: readonly InstanceInit[] = []): Spots {
  return Array.from({ length: Math.max(data.length, inits.length) }, (_, at) => {
    const [place, init] = [data[at], inits[at]]
    return { ...(place === undefined ? {} : { host: place.node_id }), gpus: place?.gpu_ids ?? place?.gpus ?? [], ...(init === undefined ? {} : { init }) }
  })
}

/** May it be done now, so soon after the last time? */
export function cooledDown(scaling: Scaling, sinceMs: Millis | undefined, { upCooldownMs, downCooldownMs }: AutoscaleSettings): boolean {
  if (scaling.do === 'nothing' || sinceMs === undefined) return true
  return sinceMs >= (scaling.do === 'up' ? upCooldownMs : downCooldownMs)
}

function bounded(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value))
}
