import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { live, type Outcome } from '../../simulations/scenario.ts'
import { drawMesh } from '../../simulations/scenarios/mesh.ts'
import type { Planted } from '../../simulations/scenarios/planted.ts'

const ROOT = join(import.meta.dirname, '../..')
const run = promisify(execFile)

function lived(seed: number, options: { readonly bug?: Planted; readonly churn?: number; readonly cuts?: boolean; readonly changeEveryMs?: number } = {}): Promise<Outcome> {
  return live(drawMesh({ seed, peers: 6, seconds: 4, loss: 0.05, ...options }), 4)
}

/** Lives seeds until one breaks this property, and says how: the rarest shows in one of four. A mistake may break others sooner: peers who know nobody finish runs apart. */
async function found(bug: Planted, property: RegExp, seeds = 16): Promise<string> {
  let last = 'nothing'
  for (let seed = 1; seed <= seeds; seed += 1) {
    const { violation } = await lived(seed, { bug, churn: 2, cuts: false })
    if (violation !== undefined && property.test(violation)) return violation
    last = violation ?? last
  }
  return last
}

describe('the whole peer in the virtual world', function () {
  this.timeout(60_000)

  it('publishes, places and runs through crashes, cuts and loss, and is well again after', async () => {
    const outcome = await lived(1, { churn: 2 })
    assert.equal(outcome.violation, undefined)
    assert.ok(outcome.crashes > 0 && outcome.partitions > 0 && outcome.runs > 0 && outcome.executions > 0, JSON.stringify(outcome))
  })

  it('has every block as it was changed to last, however soon after another and whoever died meanwhile', async () => {
    for (let seed = 1; seed <= 4; seed += 1) assert.equal((await lived(seed, { churn: 1, changeEveryMs: 300 })).violation, undefined)
  })

  const planted: readonly (readonly [Planted, RegExp])[] = [
    ['believes-in-more-hardware', /ledger never over-promised/],
    ['forgets-whom-it-obeys', /highest epoch obeyed/],
    ['forgets-ended-runs', /acknowledged survives/],
    ['never-starts-an-instance', /blocks reach their least instances|acknowledged runs end/],
    ['keeps-quiet', /views converge/],
    ['tells-another-result', /one result per run/],
    ['runs-done-nodes-again', /no completed vDAG node run again/],
    ['floods-its-disk', /queues bounded/],
  ]
  for (const [bug, checker] of planted) it(`a peer that ${bug.replaceAll('-', ' ')} is found`, async () => assert.match(await found(bug, checker), checker))

  it('one seed is one story, in any process and on any number of threads', async () => {
    const story = async (threads: string): Promise<unknown> => {
      const { stdout } = await run(process.execPath, ['simulations/run.ts', '--scenario', 'mesh', '--peers', '5', '--seeds', '2', '--seconds', '2', '--loss', '0.05', '--churn', '2', '--threads', threads, '--json'], { cwd: ROOT })
      const figures: { fingerprint: string; violations: number } = JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
      return [figures.fingerprint, figures.violations]
    }
    const [one, two] = await Promise.all([story('1'), story('2')])
    assert.deepEqual(one, two)
  })
})
