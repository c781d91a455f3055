import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseNvidiaSmi } from '../../node/adapters/gpu.ts'
import { HostCounter } from '../../node/adapters/host-counters.ts'
import { createMachine, measureOne } from '../../node/adapters/machine.ts'
import { diagnose } from '../../node/adapters/machine-diagnose.ts'

describe('the machine', () => {
  let dir: string
  before(async () => { dir = await mkdtemp(join(tmpdir(), 'aios-machine-')) })
  after(() => rm(dir, { recursive: true, force: true }))

  it('answers at once with what can be read, and says that nothing was measured', async () => {
    const report = await createMachine({ dir }).probe()
    assert.ok(report.total.cpuMilli >= 1_000 && report.total.memoryMb > 100 && report.total.diskMb > 0)
    assert.deepEqual(report.notes, ['not measured yet'])
    assert.ok(report.runtimes.some(runtime => runtime.name === 'onnx' && runtime.gflops === 0))
  })

  it('measures what loads, once: the next daemon reads it from disk', async () => {
    const report = await createMachine({ dir }).refine()
    const onnx = report.runtimes.find(runtime => runtime.name === 'onnx')
    const tfjs = report.runtimes.find(runtime => runtime.name === 'tfjs')
    assert.ok(onnx !== undefined && onnx.gflops > 1 && onnx.providers.includes('cpu'))
    assert.ok(tfjs !== undefined && tfjs.gflops > 0.1 && tfjs.providers.length === 1)
    assert.ok(report.memoryGBs > 0.5)
    assert.deepEqual((await createMachine({ dir }).probe()).runtimes, report.runtimes)
  }).timeout(60_000)

  it('does not believe figures of other hardware, or a torn file', async () => {
    const file = join(dir, 'machine.json')
    const kept = await readFile(file, 'utf8')
    await writeFile(file, kept.replace(/"key":"[0-9a-f]{4}/, '"key":"0000'))
    assert.deepEqual((await createMachine({ dir }).probe()).notes, ['not measured yet'])
    await writeFile(file, kept.slice(0, 50))
    assert.deepEqual((await createMachine({ dir }).probe()).notes, ['not measured yet'])
  })

  it('reports what is free now', () => {
    const usage = createMachine({ dir }).usage()
    assert.ok(usage.memoryFreeMb > 0 && usage.diskFreeMb > 0 && usage.cpuLoad >= 0)
  })

  it('counts what the system counts of the whole host, and rates since it was asked before', () => {
    const counter = new HostCounter(dir)
    const counters = counter.read()
    assert.ok(counters.load.every(load => load >= 0) && counters.disk !== undefined && counters.disk.totalMb > counters.disk.freeMb)
    assert.ok(counters.memory !== undefined && counters.memory.totalMb > counters.memory.freeMb)
    assert.equal(counter.read(), counters, 'sooner than a second is the same')
    if (process.platform !== 'linux') return
    assert.ok(counters.processes !== undefined && counters.processes.totalProcesses >= 1 && counters.processes.totalThreads >= counters.processes.totalProcesses)
    assert.ok(counters.network !== undefined && counters.iops !== undefined && counters.memory.pageFaultsPerSec >= 0)
  })

  it('says why a provider does not load, instead of falling back in silence', async () => {
    const result = await measureOne(['onnx', 'tensorrt', '1'])
    assert.ok(!result.ok && /tensorrt/i.test(result.because), JSON.stringify(result))
  }).timeout(30_000)

  it('is diagnosed line by line', async () => {
    const findings = await diagnose()
    const named = (name: string) => findings.find(finding => finding.name === name)
    assert.equal(named('onnx/cpu')?.ok, true)
    assert.ok(findings.some(finding => finding.name.startsWith('tfjs/') && finding.ok))
    assert.ok(['onnx/cuda', 'tfjs/tfjs-node-gpu', 'L1 fence'].every(name => named(name) !== undefined && named(name)?.detail !== ''))
  }).timeout(60_000)
})

describe('nvidia-smi', () => {
  it('is read row by row, with what it does not know as 0', () => {
    assert.deepEqual(parseNvidiaSmi('GPU-1, NVIDIA H200, 143771, 143000, 570.1, 12\nGPU-2, Tesla T4, 15360, [N/A], 570.1, [N/A]\n\n'), [
      { id: 'GPU-1', name: 'NVIDIA H200', memoryMb: 143_771, freeMb: 143_000, driver: '570.1', utilisation: 0.12 },
      { id: 'GPU-2', name: 'NVIDIA Tesla T4', memoryMb: 15_360, freeMb: 0, driver: '570.1' },
    ])
    assert.deepEqual(parseNvidiaSmi('GPU-1, NVIDIA H200, 143771, 143000, 570.1, 12, 4, 70.00, 700.00, 31\n'), [
      { id: 'GPU-1', name: 'NVIDIA H200', memoryMb: 143_771, freeMb: 143_000, driver: '570.1', utilisation: 0.12, memoryUtilisation: 0.04, powerUtilisation: 0.1, temperature: 31 },
    ])
  })
})
