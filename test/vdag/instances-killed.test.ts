import assert from 'node:assert/strict'
import { MeshError } from '../../protocols/errors.ts'
import { Town } from '../blocks/town.ts'

const BLOCKS = 10
const TASKS = 100

describe('a vDAG whose instances are killed', function () {
  this.timeout(120_000)

  it('of ten blocks of three instances, one of each killed while tasks go through, answers all of them', async () => {
    const town = await new Town(4).open()
    const blocks = Array.from({ length: BLOCKS }, (_, at) => `step-${at}`)
    for (const blockId of blocks) await town.block({ blockId, minInstances: 3, maxInstances: 3 })
    for (const block of blocks) await town.untilReady(block, 3)
    const nodes = blocks.map(block => ({ nodeLabel: block, manualBlockId: block }))
    const connections = blocks.slice(1).map((nodeLabel, at) => ({ nodeLabel, inputs: [{ nodeLabel: blocks[at] ?? '' }] }))
    await town.world.drive(town.at(0).actions.createVdag({ vdagName: 'steps', vdagVersion: { version: '1.0', releaseTag: 'x' }, nodes, graph: { connections } }))
    await town.later(1_000)
    let answered = 0
    const failed: string[] = []
    const task = async (at: number): Promise<void> => {
      try {
        const { actions, runs, ports } = town.at(at % 4)
        const { run } = await actions.submit('steps:1.0-x', { at }, {})
        await runs.result(run, ports.clock.deadline(30_000))
        answered += 1
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
        failed.push(`${error.code}: ${error.message}`)
      }
    }
    const tasks: Promise<void>[] = []
    let killed = 0
    for (let at = 0; at < TASKS; at += 1) {
      tasks.push(task(at))
      await town.later(50)
      if (at % (TASKS / BLOCKS) !== TASKS / BLOCKS / 2) continue
      const [victim] = town.ready(blocks[killed] ?? '')
      assert.ok(victim !== undefined)
      town.crash.get(victim)?.()
      killed += 1
    }
    await town.world.drive(Promise.all(tasks))
    assert.equal(killed, BLOCKS)
    assert.deepEqual(failed, [])
    assert.equal(answered, TASKS)
    for (const block of blocks) await town.untilReady(block, 3)
  })
})
