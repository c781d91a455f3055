import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import { asMeshError } from '../../protocols/errors.ts'
import { askForBid, award, bid as bidSchema, contract as contractSchema, lease } from '../../protocols/placement.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import type { World } from '../../simulations/world.ts'
import { seal, unseal } from '../../src/trust/seal.ts'
import { mesh, running, started, type HostingPeer } from './mesh.ts'

/** A steward that does exactly as it is told, to a real host across the simulated network. */
class Buyer {
  readonly #world: World<HostingPeer>
  readonly #self: HostingPeer
  readonly #host: string
  #asks = 0

  constructor(world: World<HostingPeer>, self: number, host: number) {
    this.#world = world
    this.#self = world.peers.get(world.hosts[self]!.peer)!
    this.#host = world.hosts[host]!.peer
  }

  async ask(block: BlockRecord, over: { readonly epoch?: number; readonly holdMs?: number; readonly dryRun?: boolean } = {}) {
    this.#asks += 1
    const { identity, network } = this.#self.ports
    const ask = { id: `ask-${this.#asks}`, block, needs: block.needs, steward: identity.peer, epoch: over.epoch ?? 1, holdMs: over.holdMs ?? 5_000, action: 'allocation' as const, dryRun: over.dryRun ?? false }
    const answer = await this.#world.drive(network.request(this.#host, askForBid, ask))
    return 'bid' in answer ? { ok: true as const, ...unseal(identity, 'bid', bidSchema, answer.bid).value } : { ok: false as const, because: answer.refusal.because }
  }

  award(block: BlockRecord, bid: { readonly ask: string; readonly hold: string }, instance: string, epoch = 1) {
    const { clock, identity, network } = this.#self.ports
    return network.request(this.#host, award, seal(identity, 'award', { ask: bid.ask, hold: bid.hold, block, instance, epoch, leaseMs: 20_000, issuedAt: clock.unix() })).then(answer => this.#read(answer))
  }

  async lease(block: string, contract: string, epoch: number, what: 'renew' | 'release' = 'renew') {
    const { clock, identity, network } = this.#self.ports
    return this.#read(await this.#world.drive(network.request(this.#host, lease, seal(identity, 'lease', { do: what, block, contract, epoch, leaseMs: 20_000, because: 'test', issuedAt: clock.unix() }))))
  }

  #read(answer: { readonly contract: Parameters<typeof unseal>[3] } | { readonly refusal: { readonly because: string; readonly highestEpoch?: number | undefined } }) {
    if ('refusal' in answer) return { ok: false as const, ...answer.refusal }
    return { ok: true as const, contract: unseal(this.#self.ports.identity, 'contract', contractSchema, answer.contract).value }
  }
}

async function pair(): Promise<{ readonly world: World<HostingPeer>; readonly buyer: Buyer; readonly other: Buyer; readonly host: HostingPeer; readonly block: (over?: Partial<BlockRecord>) => BlockRecord }> {
  const { world, block } = await started({ peers: 3 })
  return { world, buyer: new Buyer(world, 1, 0), other: new Buyer(world, 2, 0), host: world.peers.get(world.hosts[0]!.peer)!, block }
}

describe('a host that bids', () => {
  it('keeps what it offers until the hold ends, and refuses the award after that', async () => {
    const { world, buyer, host, block } = await pair()
    const before = host.placement.free()
    const bid = await buyer.ask(block(), { holdMs: 2_000 })
    assert.ok(bid.ok)
    assert.equal(host.placement.free().cpuMilli, before.cpuMilli - 500)
    assert.deepEqual(host.placement.uncontracted(), before, 'a hold is not advertised')
    await world.run(world.now + 2_100)
    assert.deepEqual(host.placement.free(), before)
    const late = await world.drive(buyer.award(block(), bid, 'in-late'))
    assert.ok(!late.ok && /expired/.test(late.because))
  })

  it('answers one award that arrives many times, also after a crash, with one contract', async () => {
    const { world, buyer, block } = await pair()
    const bid = await buyer.ask(block())
    assert.ok(bid.ok)
    const answers = await world.drive(Promise.all([1, 2, 3, 4].map(() => buyer.award(block(), bid, 'in-one'))))
    const host = world.hosts[0]!
    world.crash(host)
    await world.drive(world.start(host))
    await world.run(world.now + 500)
    answers.push(await world.drive(buyer.award(block(), bid, 'in-one')))
    const contracts = new Set(answers.map(answer => (answer.ok ? answer.contract.id : answer.because)))
    assert.equal(contracts.size, 1)
    assert.ok(answers.every(({ ok }) => ok))
    assert.equal(running(world, 'b').length, 1)
  })

  it('reserves nothing for a dry run', async () => {
    const { buyer, host, block } = await pair()
    const bid = await buyer.ask(block(), { dryRun: true })
    assert.ok(bid.ok)
    assert.deepEqual(host.placement.promised(), [])
  })

  it('does not give one steward what it holds for another, nor run another block than it was asked about', async () => {
    const { world, buyer, other, block } = await pair()
    const bid = await buyer.ask(block())
    assert.ok(bid.ok)
    const stolen = await world.drive(other.award(block(), bid, 'in-stolen'))
    assert.ok(!stolen.ok && /somebody else/.test(stolen.because))
    const swapped = await world.drive(buyer.award(block({ parameters: { evil: true } }), bid, 'in-swapped'))
    assert.ok(!swapped.ok && /not the one/.test(swapped.because))
  })

  it('obeys the highest epoch it has seen, also after a restart: an old steward changes nothing', async () => {
    const { world, buyer, other, block } = await pair()
    const bid = await buyer.ask(block(), { epoch: 3 })
    assert.ok(bid.ok)
    const made = await world.drive(buyer.award(block(), bid, 'in-one', 3))
    assert.ok(made.ok)
    const { id } = made.contract
    const same = await other.lease('b', id, 3)
    assert.ok(!same.ok, 'an epoch belongs to the steward that came first')
    const taken = await other.lease('b', id, 5)
    assert.ok(taken.ok && taken.contract.epoch === 5 && taken.contract.instance === 'in-one')
    for (const restart of [false, true]) {
      if (restart) {
        world.crash(world.hosts[0]!)
        await world.drive(world.start(world.hosts[0]!))
        await world.run(world.now + 500)
      }
      for (const what of ['renew', 'release'] as const) {
        const old = await buyer.lease('b', id, 4, what)
        assert.ok(!old.ok)
        assert.equal(old.highestEpoch, 5)
      }
      const ask = await buyer.ask(block(), { epoch: 4 })
      assert.ok(!ask.ok && /epoch 4/.test(ask.because))
    }
    assert.equal(running(world, 'b')[0]?.epoch, 5)
  })

  it('fences callers that believe in an instance it has not, or in a steward it has not heard of', async () => {
    const { world, buyer, other, host, block } = await pair()
    const bid = await buyer.ask(block(), { epoch: 2 })
    assert.ok(bid.ok)
    const made = await world.drive(buyer.award(block(), bid, 'in-one', 2))
    assert.ok(made.ok)
    await other.lease('b', made.contract.id, 4)
    assert.deepEqual([1, 2, 3, 4, 5].map(epoch => host.placement.fence('in-one', epoch).ok), [false, true, true, true, false])
    assert.ok(!host.placement.fence('in-two', 4).ok)
  })

  it('releases once: the instance is drained and its resources are free', async () => {
    const { world, buyer, host, block } = await pair()
    const before = host.placement.free()
    const bid = await buyer.ask(block())
    assert.ok(bid.ok)
    const made = await world.drive(buyer.award(block(), bid, 'in-one'))
    assert.ok(made.ok)
    await world.run(world.now + 1_000)
    assert.ok((await buyer.lease('b', made.contract.id, 1, 'release')).ok)
    await world.run(world.now + 1_000)
    assert.deepEqual(host.placement.free(), before)
    assert.ok(!(await buyer.lease('b', made.contract.id, 1, 'release')).ok)
  })

  it('takes back a reservation that lost before its time', async () => {
    const { buyer, host, block } = await pair()
    const bid = await buyer.ask(block())
    assert.ok(bid.ok)
    await buyer.lease('b', bid.hold, 1, 'release')
    assert.deepEqual(host.placement.promised(), [])
  })

  it('obeys only those who may steward', async () => {
    const { PLACEMENT } = await import('../../src/placement/placement.ts')
    const world = mesh({ peers: 2, config: { ...PLACEMENT, maySteward: peer => (peer === world.hosts[0]!.peer ? { ok: true, value: true } : { ok: false, because: `${peer} may not operate`, retryable: false }) } })
    await world.startAll()
    await world.run(world.now + 1_000)
    const { block } = await started({ peers: 1 })
    const refused = await new Buyer(world, 1, 0).ask(block())
    assert.ok(!refused.ok && /may not operate/.test(refused.because))
    assert.ok((await new Buyer(world, 0, 1).ask(block())).ok)
  })

  it('never promises more than it has, whatever buyers ask, award and release in whatever order', async () => {
    await fc.assert(fc.asyncProperty(fc.array(fc.record({ who: fc.boolean(), do: fc.constantFrom('ask' as const, 'award' as const, 'release' as const, 'crash' as const), which: fc.nat(5), cpu: fc.integer({ min: 500, max: 3_000 }) }), { minLength: 5, maxLength: 25 }), async steps => {
      // The world's own checker looks at the ledger after every instant, and throws.
      const { world, buyer, other, block } = await pair()
      const bids: { readonly by: Buyer; readonly block: BlockRecord; readonly ask: string; readonly hold: string; contract?: string }[] = []
      for (const step of steps) {
        const by = step.who ? buyer : other
        const chosen = bids[step.which % Math.max(1, bids.length)]
        try {
          if (step.do === 'ask') {
            const wanted = block({ blockId: `x${bids.length}`, needs: { cpuMilli: step.cpu, memoryMb: 1_024, diskMb: 0, gpus: 0, gpuMemoryMb: 0 } })
            const bid = await by.ask(wanted, { holdMs: 1_500 })
            if (bid.ok) bids.push({ by, block: wanted, ask: bid.ask, hold: bid.hold })
          } else if (step.do === 'award' && chosen !== undefined) {
            const [made] = await world.drive(Promise.all([chosen.by.award(chosen.block, chosen, `in-${chosen.hold.slice(2)}`), chosen.by.award(chosen.block, chosen, `in-${chosen.hold.slice(2)}`)]))
            if (made?.ok === true) chosen.contract = made.contract.id
          } else if (step.do === 'release' && chosen?.contract !== undefined) await chosen.by.lease(chosen.block.blockId, chosen.contract, 1, 'release')
          else if (step.do === 'crash') {
            world.crash(world.hosts[0]!)
            await world.drive(world.start(world.hosts[0]!))
            await world.run(world.now + 300)
          }
        } catch (error) {
          if (asMeshError(error).code === 'INTERNAL') throw error
        }
      }
    }), { numRuns: 12 })
  })
})
