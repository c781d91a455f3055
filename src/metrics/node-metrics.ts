import type { CapacityAd } from '../../protocols/capacity.ts'
import type { Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { Resources } from '../../protocols/resources.ts'
import type { JsonObject } from '../lib/json.ts'
import type { HostCounters, MachineUsage } from '../ports.ts'

export type NodeFacts = { readonly peer: PeerId; readonly cluster: string; readonly at: Millis; readonly total: Resources; readonly usage: MachineUsage; readonly counters: HostCounters | undefined }

/** AIOS's metrics document of a node: `metrics.resource.node.*`. Memory in MB, utilisation in percent. What the host's system does not tell is absent. */
export function nodeMetrics({ peer, cluster, at, total, usage, counters }: NodeFacts): JsonObject {
  const freeMem = counters?.memory?.freeMb ?? usage.memoryFreeMb
  const totalMem = counters?.memory?.totalMb ?? total.memoryMb
  const disk = counters?.disk ?? { totalMb: total.diskMb, freeMb: usage.diskFreeMb }
  const usedDisk = Math.max(0, disk.totalMb - disk.freeMb)
  const cores = total.cpuMilli / 1_000
  const gpus = usage.gpus.map(({ id, freeMb, utilisation, memoryUtilisation, powerUtilisation, temperature }) => {
    const totalMb = total.gpus.find(gpu => gpu.id === id)?.memoryMb ?? freeMb
    return present({
      gpu_id: id, usedMem: Math.max(0, totalMb - freeMb), freeMem: freeMb, totalMem: totalMb,
      memUtilization: memoryUtilisation === undefined ? (totalMb === 0 ? 0 : percent(totalMb - freeMb, totalMb)) : memoryUtilisation * 100,
      cudaUtilization: utilisation === undefined ? undefined : utilisation * 100, powerUtilization: powerUtilisation === undefined ? undefined : powerUtilisation * 100, temperature,
    })
  })
  const [load1m, load5m, load15m] = counters?.load ?? [usage.cpuLoad * cores, usage.cpuLoad * cores, usage.cpuLoad * cores]
  return document(peer, cluster, at, {
    vcpu: present({ load1m, load5m, load15m, count: cores, ...counters?.processes }),
    memory: present({ freeMem, usedMem: Math.max(0, totalMem - freeMem), averageUtil: percent(totalMem - freeMem, totalMem), usedSwap: counters?.memory?.swapUsedMb, freeSwap: counters?.memory?.swapFreeMb, pageFaultsPerSec: counters?.memory?.pageFaultsPerSec }),
    storage: {
      disks: present({ memory: { freeMem: disk.freeMb, usedMem: usedDisk, maxDisk: disk.totalMb, minDisk: disk.totalMb }, iops: counters?.iops === undefined ? undefined : { ...counters.iops } }),
      freeMem: disk.freeMb, usedMem: usedDisk,
    },
    ...(counters?.network === undefined ? {} : { network: { ...counters.network } }),
    gpu: gpuTotals(gpus),
    gpus,
  })
}

/** The same of a host that was not asked, or did not answer: what its ad says. */
export function advertisedNode(ad: CapacityAd): JsonObject {
  return nodeMetrics({
    peer: ad.peer, cluster: ad.cluster, at: ad.issuedAt, total: ad.total, counters: undefined,
    usage: { cpuLoad: ad.cpuLoad, memoryFreeMb: ad.free.memoryMb, diskFreeMb: ad.free.diskMb, gpus: ad.free.gpus.map(({ id, freeMb }) => ({ id, freeMb })) },
  })
}

/** A node document holds only its own peer's word: whoever passes it on writes who that is. */
export function document(peer: PeerId, cluster: string, at: Millis, node: JsonObject): JsonObject {
  return { nodeId: peer, clusterId: cluster, timestamp: at / 1_000, metrics: { resource: { node } } }
}

/** Sums of memory, means of the rest: AIOS sums the means of several nodes. */
export function gpuTotals(gpus: readonly JsonObject[]): JsonObject {
  const sum = (field: string): number => gpus.reduce((all, gpu) => all + number(gpu[field]), 0)
  const mean = (field: string): number | undefined => {
    const known = gpus.filter(gpu => typeof gpu[field] === 'number')
    return known.length === 0 ? undefined : known.reduce((all, gpu) => all + number(gpu[field]), 0) / known.length
  }
  return present({
    count: gpus.length, totalUsedMem: sum('usedMem'), totalFreeMem: sum('freeMem'), totalMem: sum('totalMem'),
    avgMemUtilization: mean('memUtilization'), avgCudaUtilization: mean('cudaUtilization'), avgPowerUtilization: mean('powerUtilization'), avgTemperature: mean('temperature'),
  })
}

function number(value: Json | undefined): number {
  return typeof value === 'number' ? value : 0
}

function percent(part: number, whole: number): number {
  return whole <= 0 ? 0 : Math.min(100, Math.max(0, (part / whole) * 100))
}

function present(fields: Readonly<Record<string, Json | undefined>>): JsonObject {
  const out: Record<string, Json> = {}
  for (const [key, value] of Object.entries(fields)) if (value !== undefined) out[key] = value
  return out
}
