import assert from 'node:assert/strict'
import { refusal, Town } from '../clusters/town.ts'

const NEVER = new AbortController().signal

describe('what waits for a person', function () {
  this.timeout(60_000)

  it('is shown by every peer, outlives the peer at which it arose, and is answered once, at any', async () => {
    for (const seed of [1, 2, 3]) {
      const town = new Town(5, () => ({}), seed)
      await town.world.startAll()
      await town.pass(4_000)
      const large = 'x'.repeat(40_000)
      town.peer(1).reviews.escalate({ subject: 'block b', failure: { what: 'a fire' }, outcome: null, because: 'no rule settles it' })
      town.peer(1).reviews.ask({ vdag: 'v:1-s', request: { large }, response: 'short', opinion: { review: true, reason: 'doubtful' } })
      await town.pass(2_000)
      town.world.crash(town.world.hosts[1]!, seed === 2)
      await town.pass(10_000)
      const seen = await town.do(town.peer(3).reviews.list())
      assert.deepEqual(seen.map(({ vdag, request, decided, peer }) => [vdag, request, decided, peer]), [['v:1-s', null, 'open', town.id(1)], ['', { what: 'a fire' }, 'open', town.id(1)]])
      const [doubted, failed] = seen
      assert.deepEqual(Object((await town.do(town.peer(4).reviews.get(doubted!.id, NEVER))).request), { large }, 'all of it, from who fetched it while it could be had')

      const decide = (at: number, how: 'approved' | 'rejected') => town.peer(at).reviews.decide(failed!.id, how).then(({ decided }) => decided, (error: { readonly code: string; readonly message: string }) => error)
      const [one, two, three] = await town.do(Promise.all([decide(0, 'approved'), decide(2, 'rejected'), decide(3, 'approved')]))
      await town.pass(2_000)
      const told = await Promise.all([0, 2, 3, 4].map(async at => (await town.do(town.peer(at).reviews.list())).find(({ id }) => id === failed!.id)?.decided))
      assert.equal(new Set(told).size, 1)
      const said = told[0]
      for (const [answer, asked] of [[one, 'approved'], [two, 'rejected'], [three, 'approved']] as const) {
        if (asked === said) assert.equal(answer, said)
        else assert.match(String(Object(answer).message), new RegExp(`was ${said} by`))
      }
      const late = await town.do(refusal(town.peer(4).reviews.decide(failed!.id, said === 'approved' ? 'rejected' : 'approved')))
      assert.equal(late.code, 'CONFLICT')
      assert.equal((await town.do(refusal(town.peer(4).reviews.decide('review-never', 'approved')))).code, 'NOT_FOUND')
    }
  })

  it('is bounded: of many the oldest that is decided makes room, then the oldest', async () => {
    const town = await Town.started(2)
    const { reviews } = town.peer(0)
    const ask = async (from: number, to: number): Promise<void> => {
      for (let n = from; n < to; n += 1) reviews.ask({ vdag: 'v:1-s', request: n, response: null, opinion: null })
      await town.pass(12_000)
    }
    await ask(0, 200)
    await ask(200, 256)
    const all = await town.do(reviews.list())
    assert.equal(all.length, 256)
    await town.do(reviews.decide(all.find(({ request }) => request === 100)!.id, 'approved'))
    await ask(256, 258)
    const numbers = (await town.do(town.peer(1).reviews.list())).map(({ request }) => Number(request))
    assert.equal(numbers.length, 256)
    assert.deepEqual([numbers.includes(100), numbers.includes(0), numbers.includes(1), numbers[0]], [false, false, true, 257])
  })
})
