import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import { keyName } from '../../src/lib/key-name.ts'
import { Town } from '../clusters/town.ts'

const NEVER = new AbortController().signal

describe('a key given to several peers in the same instant', function () {
  this.timeout(60_000)
  const block = (blockId: string): Json => ({ blockId, blockComponentURI: 'node.sample:1-stable', minInstances: 0, maxInstances: 1 })

  it('begins one action, and all who asked get its task', async () => {
    for (const seed of [1, 2, 3]) {
      const town = new Town(5, () => ({}), seed)
      await town.world.startAll()
      await town.pass(3_000)
      await town.component()
      for (let round = 0; round < 4; round += 1) {
        const asked = await town.do(Promise.all([0, 1, 2, 4].map(at => town.peer(at).parser.perform('createBlock', block(`b-${round}`), NEVER, { key: `k-${round}` }))))
        assert.equal(new Set(asked.map(({ taskId }) => taskId)).size, 1, JSON.stringify(asked.map(({ taskId }) => taskId)))
        assert.equal(asked.filter(({ existing }) => !existing).length, 1)
        for (const answer of asked) assert.equal(Object(answer.result).blockId, `b-${round}`)
      }
      await town.pass(2_000)
      const tasks = await town.do(town.peer(3).tasks.list({ action: 'createBlock' }))
      assert.deepEqual(tasks.map(({ key }) => key).sort(), ['k-0', 'k-1', 'k-2', 'k-3'])
    }
  })

  it('that was used for an action that failed begins another one, once', async () => {
    const town = await Town.started(3)
    await town.component()
    const bad: Json = { blockId: 'b', blockComponentURI: 'node.nothing:1-stable', minInstances: 0, maxInstances: 1 }
    const attempt = (at: number, document: Json) => town.peer(at).parser.perform('createBlock', document, NEVER, { key: 'again' }).then(({ taskId }) => taskId, (error: Error) => error)
    const failed = await town.do(attempt(0, bad))
    assert.ok(failed instanceof Error)
    await town.pass(500)
    const [one, two] = await town.do(Promise.all([attempt(1, block('b')), attempt(2, block('b'))]))
    assert.equal(typeof one, 'string')
    assert.equal(one, two)
    await town.pass(500)
    assert.deepEqual((await town.do(town.peer(0).tasks.list({ action: 'createBlock' }))).map(({ task_status }) => task_status).sort(), ['completed', 'failed'])
  })

  it('is given to somebody else when its holder dies before it began, and to nobody while it stands', async () => {
    const town = await Town.started(4)
    const key = keyName('task', 'k')
    const [{ keys: mine }, { keys: theirs, view }] = [town.peer(0), town.peer(1)]
    let free: () => void = () => undefined
    const holding = new Promise<void>(resolve => (free = resolve))
    const held = mine.claim(key, 'task-a', 1, () => holding)
    held.catch(() => undefined)
    await town.pass(100)
    const lost = await town.do(theirs.claim(key, 'task-b', 1, async () => 'begun'))
    assert.deepEqual(lost, { won: false, holder: town.id(0), epoch: 1, what: 'task-a' })
    assert.equal((await town.do(theirs.claim(key, 'task-b', 2, async () => 'begun'))).won, false, 'it is about to begin')
    town.world.crash(town.world.hosts[0]!)
    await town.until('its death is known', () => view.state(town.id(0)) === 'dead')
    assert.deepEqual(await town.do(theirs.claim(key, 'task-b', 2, async () => 'begun')), { won: true, value: 'begun' })
    free()
  })
})
