import assert from 'node:assert/strict'
import { peerId } from '../../protocols/ids.ts'
import { Newcomer } from '../../src/capacity/newcomer.ts'
import { Kernel } from '../../simulations/kernel.ts'

const [A, B, C] = ['newcomer-a', 'newcomer-b', 'newcomer-c'].map(name => peerId.parse(name))

/** When a peer that started at 0 knows most, by what is said to it. */
async function knowsMostAt(connected: number, story: readonly (readonly [at: number, (newcomer: Newcomer) => void])[]): Promise<number> {
  const kernel = new Kernel(1)
  const newcomer = new Newcomer(kernel.clock(), () => connected)
  newcomer.start()
  newcomer.knows(1)
  for (const [at, happens] of story) kernel.clock().after(at, () => happens(newcomer))
  await kernel.drive(newcomer.knowsMost())
  return kernel.now
}

describe('a newcomer', () => {
  it('knows most as soon as two others know no more', async () => {
    assert.equal(await knowsMostAt(5, [[100, one => one.knows(50)], [600, one => one.told(A!, 50, 50)], [700, one => one.told(A!, 50, 50)], [900, one => one.told(B!, 52, 51)]]), 900)
  })

  it('believes none that know less, and none that make it know more', async () => {
    assert.equal(await knowsMostAt(5, [[600, one => one.told(A!, 3, 50)], [650, one => one.told(B!, 100, 100)], [700, one => one.told(C!, 20, 100)], [800, one => one.told(A!, 100, 100)], [950, one => one.told(C!, 104, 104)]]), 950)
  })

  it('does with the word of the only one it is connected with, though not in its first moments', async () => {
    assert.equal(await knowsMostAt(1, [[50, one => one.knows(2)], [60, one => one.told(A!, 2, 2)], [520, one => one.told(A!, 2, 2)]]), 520)
  })

  it('waits for nobody for ever: less alone than among others that do not answer', async () => {
    const alone = await knowsMostAt(0, [])
    const among = await knowsMostAt(3, [[100, one => one.knows(4)]])
    assert.ok(alone < 1_000 && among > alone && among < 3_000, `${alone} ${among}`)
  })

  it('asks sooner than others while it is new, and for no longer where nobody tells it that it knows most', async () => {
    const kernel = new Kernel(1)
    const newcomer = new Newcomer(kernel.clock(), () => 3)
    newcomer.start()
    newcomer.knows(4)
    await kernel.run(9_000)
    newcomer.told(A!, 1, 4)
    assert.ok(newcomer.growing)
    await kernel.run(11_000)
    assert.ok(!newcomer.growing)
  })
})
