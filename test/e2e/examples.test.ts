import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { Devnet } from '../../node/devnet/devnet.ts'
import { asMeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { SIDE, walk, type Figure } from '../fixtures/vision/scenes.ts'
import { ROOT } from '../source.ts'

const EXAMPLE = join(ROOT, 'sdk/examples/figure-tracking')
const FRAMES = 10
const point = z.tuple([z.number(), z.number()])
/** By the label of the node that gave it. */
const answer = z.object({ pose: z.object({
  frame: z.number(),
  figures: z.array(z.object({ id: z.number(), box: z.object({ x: z.number(), y: z.number(), w: z.number(), h: z.number() }), keypoints: z.object({ head: point, left_hand: point, right_hand: point, foot: point }) })),
}) })

describe('the examples, on one mesh', function () {
  this.timeout(120_000)
  let dir: string
  let net: Devnet

  const send = (path: string, body: Json): Promise<Json> => net.peer(0).client.send('POST', path, body)
  const read = async (path: string): Promise<Json> => z.json().parse(JSON.parse(await readFile(join(EXAMPLE, path), 'utf8')))

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-examples-'))
    net = await Devnet.start(dir, 2)
    for (const part of ['detect', 'track', 'pose']) {
      for await (const _ of net.peer(0).client.lines('POST', '/mesh/components', { directory: join(EXAMPLE, part) }));
      await send('/mesh/blocks', { spec: await read(`blocks/${part}.json`) })
    }
    await send('/mesh/vdags', { spec: await read('vdag.json') })
  })
  after(async () => {
    await net?.[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })

  it('figure tracking: follows figures that walk, each by a number of its own, and finds their heads, hands and feet', async () => {
    const scenes = walk(3, FRAMES)
    const ids = new Map<number, Set<number>>()
    let [found, error, points] = [0, 0, 0]
    for (const [frame, { image, figures }] of scenes.entries()) {
      const rows = Array.from({ length: SIDE }, (_, row) => [...image.subarray(row * SIDE, (row + 1) * SIDE)])
      // Asked at the peer that nobody published at.
      const response = await fetch(`${net.peer(1).http}/v1/infer`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model: 'figure-tracking:1.0.0-stable', session_id: 'camera', seq_no: frame, data: { frame, image: rows } }) })
      const body = z.looseObject({ data: z.json().default(null) }).parse(await response.json())
      assert.equal(response.status, 200, JSON.stringify(body).slice(0, 500))
      const { pose: said } = answer.parse(body.data)
      assert.equal(said.frame, frame)
      for (const [index, truth] of figures.entries()) {
        const match = said.figures.find(({ box }) => near(box, truth) < truth.w / 2)
        if (match === undefined) continue
        found += 1
        ids.set(index, (ids.get(index) ?? new Set()).add(match.id))
        for (const [at, name] of (['head', 'left_hand', 'right_hand', 'foot'] as const).entries()) {
          const [x, y] = match.keypoints[name]
          const [wantedX, wantedY] = truth.keypoints[at] ?? [0, 0]
          error += Math.hypot(x - wantedX, y - wantedY)
          points += 1
        }
      }
    }
    const told = `${found} of ${2 * FRAMES} found, keypoints ${(error / points).toFixed(2)} px off, ids ${JSON.stringify([...ids].map(([index, set]) => [index, [...set]]))}`
    assert.ok(found >= 2 * FRAMES - 2, told)
    assert.ok(error / points < 2, told)
    assert.deepEqual([...ids.values()].map(set => set.size), [1, 1], told)
    assert.equal(new Set([...ids.values()].flatMap(set => [...set])).size, 2, told)
  })

  it('split chat: the splitter’s cut becomes AIOS’s model plan, and the model answers from two hosts', async () => {
    const examples = join(ROOT, 'sdk/examples')
    const done = async (path: string, body: Json): Promise<void> => {
      for await (const _ of net.peer(0).client.lines('POST', path, body));
    }
    await done('/mesh/models', { path: join(examples, 'scripture-chat/model'), name: 'scripture-chat:1.0.0-stable' })
    await done('/mesh/components', { directory: join(examples, 'split-chat/splitter') })
    const json = async (path: string): Promise<Json> => z.json().parse(JSON.parse(await readFile(join(examples, 'split-chat', path), 'utf8')))
    await send('/mesh/blocks', { spec: await json('block.json') })
    const { result } = z.looseObject({ result: z.looseObject({ block_specs: z.array(z.looseObject({ blockComponentURI: z.string() })), finish: z.looseObject({ cut: z.looseObject({ ranges: z.array(z.array(z.number())) }) }) }) }).parse(await send('/api/startModelSplitJob', await json('job.json')))
    const [first, second] = result.finish.cut.ranges
    const all = second?.[1] ?? 0
    assert.deepEqual([first, second], [[0, Math.round(all * 0.75)], [Math.round(all * 0.75), all]])
    assert.deepEqual(result.block_specs.map(({ blockComponentURI: uri }) => uri), [`llm.scripture-chat-l0-${first?.[1]}:1.0.0-stable`, `llm.scripture-chat-l${first?.[1]}-${all}:1.0.0-stable`])
    await assert.rejects(send('/api/startModelSplitJob', { task_data: { model_name: 'scripture-chat', splitter: 'share-splitter', share: 2 } }), /share is between 0 and 1/)
    // Who serves it may ask another peer at once, though that one has yet to hear of its name, or of the instances that came in the place of others.
    for (const service of ['scripture-chat', 'chat', 'chat']) {
      while (!await send('/mesh/services', { model: 'scripture-chat', shards: 2, ...(service === 'scripture-chat' ? {} : { service }) }).then(() => true, roomComes)) await new Promise(resolve => setTimeout(resolve, 50))
      const response = await fetch(`${net.peer(1).http}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model: service, messages: [{ role: 'user', content: 'Who made the heavens?' }], max_tokens: 12, temperature: 0 }) })
      const said = await response.text()
      assert.equal(response.status, 200, said)
      const { choices } = z.looseObject({ choices: z.array(z.looseObject({ message: z.looseObject({ content: z.string() }) })) }).parse(JSON.parse(said))
      assert.notEqual(choices[0]?.message.content.trim(), '')
      await net.peer(0).client.send('DELETE', `/mesh/services/${service}`)
    }
  })
})

/** The instances of what was served before drain for a moment, and the hosts are small. */
function roomComes(error: unknown): false {
  assert.equal(asMeshError(error).code, 'NO_CAPACITY')
  return false
}

function near(box: { readonly x: number; readonly y: number }, figure: Figure): number {
  return Math.hypot(box.x - figure.x, box.y - figure.y)
}
