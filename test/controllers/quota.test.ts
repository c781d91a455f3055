import assert from 'node:assert/strict'
import { assert as holds, array, constantFrom, integer, property, record } from 'fast-check'
import { NOTHING_TO_SEE } from '../../simulations/checkers.ts'
import { World, type SimPeer } from '../../simulations/world.ts'
import type { Ports } from '../../src/ports.ts'
import { Escrow } from '../../src/controllers/escrow.ts'
import { Quotas, type Quota } from '../../src/controllers/quota.ts'

const WINDOW = 60_000
const LIMIT = 1_000

/** The most admissions that any window of `WINDOW` ms holds. */
function worst(times: readonly number[]): number {
  const sorted = [...times].sort((a, b) => a - b)
  let most = 0
  for (let first = 0, last = 0; last < sorted.length; last += 1) {
    while ((sorted[last] ?? 0) - (sorted[first] ?? 0) >= WINDOW) first += 1
    most = Math.max(most, last - first + 1)
  }
  return most
}

describe('escrow', () => {
  it('together holders admit no more than their rights in any window, however rights move, messages are lost and holders crash', () => {
    const step = record({ do: constantFrom('admit', 'move', 'move-lost', 'retry', 'crash'), who: integer({ min: 0, max: 2 }), whom: integer({ min: 0, max: 2 }), want: integer({ min: 1, max: 10 }), waitMs: integer({ min: 0, max: 20_000 }) })
    holds(property(array(step, { maxLength: 200 }), steps => {
      let now = 0
      const escrows = [4, 3, 0].map(rights => new Escrow(WINDOW, { rights, given: {}, asked: {}, taken: {} }, 0, false))
      const times: number[] = []
      for (const [at, { do: what, who, whom, want, waitMs }] of steps.entries()) {
        now += waitMs
        const [one, other] = [escrows[who]!, escrows[whom]!]
        if (what === 'admit') while (one.admit(now)) times.push(now)
        else if (what === 'crash') escrows[who] = new Escrow(WINDOW, one.state, now, true)
        else if (who !== whom && what === 'retry') for (const [id, of] of Object.entries(one.state.asked)) one.take(id, escrows[Number(of)]!.give(id, want, now))
        else if (who !== whom) {
          one.ask(`t${at}`, `${whom}`)
          const amount = other.give(`t${at}`, want, now)
          if (what === 'move') {
            one.take(`t${at}`, amount)
            other.settle([`t${at}`])
          }
        }
      }
      assert.ok(worst(times) <= 7, `${worst(times)} of 7`)
      const moving = escrows.flatMap(({ state }) => Object.entries(state.given)).filter(([id]) => !escrows.some(({ state }) => state.taken[id] !== undefined)).reduce((sum, [, amount]) => sum + amount, 0)
      assert.equal(escrows.reduce((sum, { state }) => sum + state.rights, 0) + moving, 7)
    }))
  })
})

class Holder implements SimPeer {
  readonly ports: Ports
  readonly quota: Quota
  constructor(ports: Ports, quota: Quota) {
    this.ports = ports
    this.quota = quota
  }
  inspect() {
    return NOTHING_TO_SEE
  }
  async stop(): Promise<void> {}
}

describe('a quota over several controllers', () => {
  const village = async (seed: number, weather?: ConstructorParameters<typeof World>[0]['weather']): Promise<{ world: World<Holder>; offer: (index: number, perSecond: number, seconds: number) => Promise<void>; meet: (index: number) => Promise<unknown>; times: () => number[] }> => {
    const times: number[] = []
    const world: World<Holder> = new World<Holder>({
      seed, peers: 5, ...(weather === undefined ? {} : { weather }),
      factory: async ports => {
        const quotas = new Quotas(ports, async () => undefined)
        quotas.start()
        ports.network.onConnection(peer => ports.network.admit(peer))
        return new Holder(ports, await quotas.open('vdag', { terms: { limit: LIMIT, windowMs: WINDOW }, initial: LIMIT / 5, others: () => world.hosts.map(({ peer }) => peer) }))
      },
    })
    await world.startAll()
    const meet = (index: number): Promise<unknown> => {
      const ports = world.peers.get(world.hosts[index]?.peer ?? '')?.ports
      return Promise.all(world.hosts.filter(host => host.index !== index && host.running).map(({ address }) => ports?.network.dial([address], new AbortController().signal).catch(() => undefined)))
    }
    for (const { index } of world.hosts) await world.drive(meet(index), 10_000)
    const clock = world.kernel.clock()
    const offer = async (index: number, perSecond: number, seconds: number): Promise<void> => {
      for (let at = 0; at < perSecond * seconds; at += 1) {
        const host = world.hosts[index]
        const holder = host === undefined ? undefined : world.peers.get(host.peer)
        void holder?.quota.admit().then(({ ok }) => {
          if (ok) times.push(world.now)
        })
        await clock.sleep(Math.round(1_000 / perSecond))
      }
    }
    return { world, offer, meet, times: () => times }
  }
  it('a hot controller uses what the others do not need, and never more than the quota', async () => {
    const { world, offer, times } = await village(1)
    await world.drive(offer(0, 40, 170), 400_000)
    assert.ok(worst(times()) <= LIMIT, `${worst(times())}`)
    assert.ok(worst(times()) > LIMIT * 0.9, `${worst(times())} of ${LIMIT} were used`)
  })

  it('one that is cut off keeps to its own share; with loss, crashes and all of them hot no minute has more than the quota', async () => {
    for (const seed of [1, 2, 3]) {
      const { world, offer, meet, times } = await village(seed, { delayMs: [1, 20], loss: 0.05, duplicate: 0.02 })
      const all = Promise.all(world.hosts.map(({ index }) => offer(index, 12, 150)))
      const [alone, ...others] = world.hosts
      assert.ok(alone !== undefined && others[0] !== undefined)
      const second = others[0]
      const story = (async () => {
        await world.kernel.clock().sleep(20_000)
        const heal = world.partition([alone], others)
        await world.kernel.clock().sleep(40_000)
        world.crash(second)
        await world.kernel.clock().sleep(3_000)
        world.restart(second)
        heal()
        await world.kernel.clock().sleep(2_000)
        for (const { index } of world.hosts) await meet(index)
      })()
      await world.drive(Promise.all([all, story]), 400_000)
      assert.ok(worst(times()) <= LIMIT, `seed ${seed}: ${worst(times())}`)
      assert.ok(times().length > LIMIT, `seed ${seed}: ${times().length} in all`)
    }
  })
})
