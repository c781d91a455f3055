import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Gpu } from '../../protocols/resources.ts'
import type { GpuUsage } from '../../src/ports.ts'

export type GpuReading = Gpu & Pick<GpuUsage, 'utilisation' | 'memoryUtilisation' | 'powerUtilisation' | 'temperature'>

const NVIDIA = '/proc/driver/nvidia/gpus'
const DRM = '/sys/class/drm'
const QUERY = 'uuid,name,memory.total,memory.free,driver_version,utilization.gpu,utilization.memory,power.draw,power.limit,temperature.gpu'
const VENDORS: Readonly<Record<string, string>> = { '0x10de': 'NVIDIA', '0x1002': 'AMD', '0x8086': 'Intel' }
const MB = 1_048_576
const SMI_MS = 5_000

/** What the kernel says of GPUs at once, without starting a program; NVIDIA's memory is not in it (0). */
export function listGpus(): readonly Gpu[] {
  return [...nvidiaFromProc(), ...fromDrm()]
}

/** All GPUs with memory and load; NVIDIA's from nvidia-smi. Never throws: a host without the tool has what `listGpus` says. */
export async function readGpus(): Promise<readonly GpuReading[]> {
  const smi = await nvidiaSmi()
  return smi.length > 0 ? [...smi, ...fromDrm()] : listGpus()
}

/** One line for `aios doctor` where GPUs are there but cannot be asked. */
export async function gpuNotes(): Promise<readonly string[]> {
  const listed = nvidiaFromProc()
  if (listed.length === 0 || (await nvidiaSmi()).length > 0) return []
  return [`${listed.length} NVIDIA GPU(s) found, but nvidia-smi does not answer: their memory is unknown, so nothing is placed on them`]
}

function nvidiaSmi(): Promise<readonly GpuReading[]> {
  return new Promise(resolve => {
    execFile('nvidia-smi', [`--query-gpu=${QUERY}`, '--format=csv,noheader,nounits'], { timeout: SMI_MS }, (error, stdout) => {
      resolve(error === null ? parseNvidiaSmi(stdout) : [])
    })
  })
}

/** Rows of `nvidia-smi --format=csv,noheader,nounits`; what is not a number counts as 0. */
export function parseNvidiaSmi(csv: string): readonly GpuReading[] {
  return csv.split('\n').flatMap(line => {
    const [id, name, total, free, driver, utilisation, memoryLoad, power, powerLimit, temperature] = line.split(',').map(part => part.trim())
    if (id === undefined || id === '' || name === undefined || total === undefined) return []
    // A card that cannot tell says "[N/A]".
    const told = (text: string | undefined): number | undefined => (text === undefined || text === '' || !Number.isFinite(Number(text)) ? undefined : Number(text))
    const [load, memory, watts, limit, celsius] = [utilisation, memoryLoad, power, powerLimit, temperature].map(told)
    return [{
      id, name: name.startsWith('NVIDIA') ? name : `NVIDIA ${name}`, memoryMb: count(total), freeMb: count(free),
      ...(driver === undefined || driver === '' ? {} : { driver }), ...(load === undefined ? {} : { utilisation: load / 100 }), ...(memory === undefined ? {} : { memoryUtilisation: memory / 100 }),
      ...(watts === undefined || limit === undefined || limit <= 0 ? {} : { powerUtilisation: watts / limit }), ...(celsius === undefined ? {} : { temperature: celsius }),
    }]
  })
}

function nvidiaFromProc(): readonly Gpu[] {
  const driver = /Kernel Module\s+(?:for \S+\s+)?(\d[\d.]*)/.exec(read('/proc/driver/nvidia/version') ?? '')?.[1]
  return names(NVIDIA).flatMap(bus => {
    const information = read(join(NVIDIA, bus, 'information'))
    if (information === undefined) return []
    const model = /^Model:\s*(.+)$/m.exec(information)?.[1] ?? 'GPU'
    const uuid = /^GPU UUID:\s*(GPU-[0-9a-f-]+)/m.exec(information)?.[1] ?? bus
    return [{ id: uuid, name: model.startsWith('NVIDIA') ? model : `NVIDIA ${model}`, memoryMb: 0, freeMb: 0, ...(driver === undefined ? {} : { driver }) }]
  })
}

/** AMD and Intel cards; AMD's driver also tells their memory. */
function fromDrm(): readonly Gpu[] {
  return names(DRM).filter(name => /^card\d+$/.test(name)).flatMap(card => {
    const device = join(DRM, card, 'device')
    const vendor = VENDORS[read(join(device, 'vendor'))?.trim() ?? '']
    if (vendor === undefined || vendor === 'NVIDIA') return []
    const total = count(read(join(device, 'mem_info_vram_total'))) / MB
    const used = count(read(join(device, 'mem_info_vram_used'))) / MB
    const driver = /^DRIVER=(.+)$/m.exec(read(join(device, 'uevent')) ?? '')?.[1]
    return [{ id: card, name: `${vendor} ${read(join(device, 'product_name'))?.trim() || read(join(device, 'device'))?.trim() || 'GPU'}`, memoryMb: Math.floor(total), freeMb: Math.max(0, Math.floor(total - used)), ...(driver === undefined ? {} : { driver }) }]
  })
}

function count(value: string | undefined): number {
  const number = Number(value?.trim())
  return Number.isFinite(number) && number > 0 ? Math.floor(number) : 0
}

function names(folder: string): readonly string[] {
  try {
    return readdirSync(folder).sort()
  } catch {
    return []
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}
