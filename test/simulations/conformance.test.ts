import { CALM } from '../../simulations/links.ts'
import { SimulatedDisk } from '../../simulations/journal.ts'
import { Kernel } from '../../simulations/kernel.ts'
import { World } from '../../simulations/world.ts'
import type { Ports } from '../../src/ports.ts'
import { NOTHING_TO_SEE } from '../../simulations/checkers.ts'
import { pair } from './pair.ts'
import { hello } from '../../protocols/membership.ts'
import { journalConformance } from '../conformance/journal.ts'
import { networkConformance } from '../conformance/network.ts'
import { registryConformance } from '../conformance/registry.ts'

journalConformance('simulated', async () => {
  const kernel = new Kernel(1)
  const stop = kernel.runFreely()
  const disk = new SimulatedDisk(kernel, kernel.random.fork('disk'))
  let life = { alive: true }
  return {
    journal: disk.journal(life),
    reopen: async () => {
      life.alive = false
      disk.crash()
      life = { alive: true }
      return disk.journal(life)
    },
    close: async () => stop(),
  }
})

registryConformance('simulated', async () => {
  const ports = new Map<number, Ports>()
  const world = new World({
    seed: 1,
    peers: 2,
    weather: { ...CALM, loss: 0.02 },
    factory: async (mine, host) => {
      ports.set(host.index, mine)
      mine.network.onConnection(peer => mine.network.admit(peer))
      mine.network.handle(hello, async () => ({}))
      const [first] = world.hosts
      if (first !== undefined && first !== host) void mine.network.dial([first.address], mine.clock.deadline(5_000)).catch(() => {})
      return { inspect: () => NOTHING_TO_SEE, stop: async () => {} }
    },
  })
  await world.startAll()
  await world.run(2_000)
  const [one, two] = world.hosts
  const [mine, theirs] = [ports.get(0), ports.get(1)]
  if (one === undefined || two === undefined || mine === undefined || theirs === undefined) throw new Error('two hosts were asked for')
  const stop = world.kernel.runFreely()
  let heal = (): void => {}
  return {
    mine: mine.registries,
    theirs: theirs.registries,
    reopenMine: async () => {
      world.crash(one)
      await world.start(one)
      return ports.get(0)?.registries ?? mine.registries
    },
    until: async condition => {
      const { clock } = ports.get(1) ?? theirs
      for (let tries = 0; !(await condition()); tries += 1) {
        if (tries > 600) throw new Error('the condition did not come true within a virtual minute')
        await clock.sleep(100)
      }
    },
    apart: () => {
      heal = world.partition([one], [two])
    },
    together: () => heal(),
    close: async () => stop(),
  }
})

networkConformance('simulated', async () => {
  const { kernel, net, a, b } = pair()
  const stranger = net.connect(net.addHost('12D3KooWstranger', 'another secret'), { alive: true })
  const stop = kernel.runFreely()
  return { mine: a, theirs: b, stranger, clock: kernel.clock(), close: async () => stop() }
})
