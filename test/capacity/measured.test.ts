import assert from 'node:assert/strict'
import { NOTHING_TO_SEE } from '../../simulations/checkers.ts'
import { World, type SimPeer } from '../../simulations/world.ts'
import { Capacity, CAPACITY } from '../../src/capacity/capacity.ts'
import type { Machine } from '../../src/ports.ts'
import { enter } from '../placement/mesh.ts'

type Host = SimPeer & { readonly capacity: Capacity; readonly machine: Machine }

describe('a machine measured after the first ad', () => {
  it('tells its speed, and others still believe what it says it has', async () => {
    let measured = false
    const world: World<Host> = new World<Host>({
      seed: 3,
      peers: 2,
      factory: async (ports, host) => {
        // A disk fills while the machine is measured: what it then reports is less than what the ledger counts with.
        const machine: Machine = {
          usage: () => ports.machine.usage(),
          probe: async () => {
            const report = await ports.machine.probe()
            return measured ? { ...report, memoryGBs: 12.5, total: { ...report.total, diskMb: report.total.diskMb - 1 } } : report
          },
        }
        const capacity = new Capacity({ ...ports, machine }, CAPACITY)
        enter(ports, world.hosts.filter(({ index }) => index < host.index).map(({ address }) => address))
        const { total } = await machine.probe()
        // Nor does the ledger look at the very moment of the first ad.
        await capacity.start({ free: () => ({ ...total, diskMb: total.diskMb + 5 }), instances: () => [], holds: () => [] })
        return { capacity, machine, inspect: () => NOTHING_TO_SEE, stop: () => capacity.stop() }
      },
    })
    await world.startAll()
    await world.run(world.now + 2_000)
    const [one, other] = world.hosts.map(({ peer }) => world.peers.get(peer))
    assert(one && other)
    measured = true
    await world.drive(one.capacity.measured(), 1_000)
    await world.run(world.now + 2_000)
    assert.equal(other.capacity.ad(one.capacity.self)?.memoryGBs, 12.5)
    assert.deepEqual(world.telemetry.events().filter(({ level }) => level === 'error'), [])
  })
})
