import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { Devnet } from '../../node/devnet/devnet.ts'
import { foremost } from '../../src/lib/rendezvous.ts'

const answer = z.object({ success: z.boolean(), data: z.unknown(), error: z.object({ code: z.string() }).optional() })
const asset = z.looseObject({ asset_uri: z.string(), asset_public_url: z.string(), asset_id: z.string(), asset_file_info: z.object({ file_size: z.number(), file_type: z.string() }), replicas: z.number().nullable() })
const health = z.object({ wanted: z.number(), holders: z.array(z.string()), healthy: z.boolean() })
const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

describe('AIOS’s assets registry on real peers', function () {
  this.timeout(120_000)
  let dir: string
  let net: Devnet

  const ask = (peer: number, path: string, init: RequestInit = {}): Promise<Response> => fetch(`${net.peer(peer).http}${path}`, init)
  const read = async (response: Response): Promise<z.infer<typeof answer>> => answer.parse(await response.json())
  const until = async <T>(look: () => Promise<T | undefined>): Promise<T> => {
    for (;;) {
      const found = await look()
      if (found !== undefined) return found
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }
  const rss = async (peer: number): Promise<number> => z.looseObject({ rssMb: z.number() }).parse(await (await ask(peer, '/mesh/status')).json()).rssMb

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-assets-'))
    net = await Devnet.start(dir, 4)
  })
  after(async () => {
    await net?.[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })

  const bytes = randomBytes(5_000_000)
  const uri = 'weights:1.0.0-stable'

  it('takes a form as AIOS’s clients send it, and gives the same bytes on every peer, in whole and in ranges', async () => {
    const form = new FormData()
    form.append('asset', new File([bytes], 'weights.bin', { type: 'application/x-weights' }))
    form.append('asset_metadata', JSON.stringify({ asset_name: 'weights', asset_version: { version: '1.0.0', tag: 'stable' }, asset_tags: ['vision'], asset_metadata: { rows: 7 } }))
    const made = await ask(0, '/upload_asset', { method: 'POST', body: form })
    const document = asset.parse((await read(made)).data)
    assert.deepEqual([made.status, document.asset_uri, document.asset_file_info], [201, uri, { file_size: 5_000_000, file_type: 'application/x-weights' }])
    await until(async () => ((await ask(3, `/asset/${uri}`)).ok ? true : undefined))
    const object = `/asset-object/${encodeURIComponent(uri)}`
    const whole = await fetch(asset.parse((await read(await ask(3, `/asset/${uri}`))).data).asset_public_url)
    assert.equal(sha(new Uint8Array(await whole.arrayBuffer())), sha(bytes))
    assert.equal(whole.headers.get('etag'), `"${document.asset_id}"`)
    // Whoever has read all of it holds it for others.
    await until(async () => (health.parse((await read(await ask(1, `/asset/${uri}/health`))).data).holders.join() === [net.peer(0).peer, net.peer(3).peer].sort().join() ? true : undefined))
    const head = await ask(2, object, { method: 'HEAD' })
    assert.deepEqual([head.status, head.headers.get('content-length'), head.headers.get('accept-ranges'), (await head.arrayBuffer()).byteLength], [200, '5000000', 'bytes', 0])
    for (const [range, from, to] of [['bytes=1048570-1048590', 1_048_570, 1_048_591], ['bytes=-7', 4_999_993, 5_000_000], ['bytes=4999999-', 4_999_999, 5_000_000]] as const) {
      const part = await ask(2, object, { headers: { range } })
      assert.deepEqual([part.status, part.headers.get('content-range')], [206, `bytes ${from}-${to - 1}/5000000`])
      assert.deepEqual(new Uint8Array(await part.arrayBuffer()), new Uint8Array(bytes.subarray(from, to)))
    }
    const beyond = await ask(2, object, { headers: { range: 'bytes=5000000-' } })
    assert.deepEqual([beyond.status, beyond.headers.get('content-range')], [416, 'bytes */5000000'])
    assert.equal((await ask(2, object, { headers: { 'if-none-match': `"${document.asset_id}"` } })).status, 304)
    assert.equal((await ask(2, `/asset-object/${document.asset_id}`, { headers: { range: 'bytes=0-0' } })).status, 206)
    assert.equal((await ask(1, '/health')).status, 200)
  })

  it('answers queries in Mongo’s words, and never changes a version', async () => {
    const found = async (filter: object): Promise<number> => z.array(asset).parse((await read(await ask(1, '/assets', { method: 'POST', body: JSON.stringify(filter) }))).data).length
    assert.deepEqual([await found({ asset_tags: { $in: ['vision'] }, 'asset_metadata.rows': { $gte: 7 } }), await found({ asset_name: { $regex: '^x' } })], [1, 0])
    const code = async (response: Response): Promise<readonly [number, string | undefined]> => [response.status, z.object({ error: z.object({ code: z.string() }) }).parse(await response.json()).error.code]
    assert.deepEqual(await code(await ask(0, '/upload_asset?name=weights&version=1.0.0', { method: 'POST', body: 'other bytes' })), [409, 'IMMUTABLE'])
    assert.deepEqual(await code(await ask(0, `/asset/${uri}`, { method: 'PUT', body: '{"$set":{"asset_name":"x"}}' })), [409, 'IMMUTABLE'])
    assert.deepEqual(await code(await ask(0, '/asset/none:1.0.0-stable')), [404, 'NOT_FOUND'])
    assert.deepEqual(await code(await ask(0, '/upload_asset', { method: 'POST', body: 'x' })), [400, 'BAD_INPUT'])
  })

  it('keeps an asset on as many live hosts as its author wants, also when one of them dies', async () => {
    const made = await ask(0, '/upload_asset?name=kept&version=1.0.0&replicas=2', { method: 'POST', body: bytes.subarray(0, 2_000_000) })
    const { asset_id: content } = asset.parse((await read(made)).data)
    /** The two whose turn it is hold it, whoever else does. */
    const kept = (): Promise<readonly string[]> => until(async () => {
      const { wanted, holders, healthy } = health.parse((await read(await ask(0, '/asset/kept:1.0.0-stable/health'))).data)
      const turn = foremost(content, net.running().map(({ peer }) => peer), 2)
      return wanted === 2 && healthy && turn.every(peer => holders.includes(peer)) ? turn : undefined
    })
    const before = await kept()
    const victim = net.running().find(({ index, peer }) => index !== 0 && before.includes(peer))
    assert.ok(victim !== undefined)
    await net.kill(victim.index)
    assert.notDeepEqual(await kept(), before)
  })

  it('lets an author alone take a version back, and an upload never lie whole in memory', async () => {
    const other = net.running().find(({ index }) => index !== 0)
    assert.ok(other !== undefined)
    assert.equal((await ask(other.index, `/asset/${uri}`, { method: 'DELETE' })).status, 403)
    assert.equal((await ask(0, `/asset/${uri}`, { method: 'DELETE' })).status, 200)
    await until(async () => ((await ask(other.index, `/asset/${uri}`)).status === 404 ? true : undefined))
    assert.equal(z.array(asset).parse((await read(await ask(other.index, '/assets'))).data).some(({ asset_uri }) => asset_uri === uri), false)
    const before = await rss(0)
    const piece = randomBytes(1_048_576)
    let most = before
    const body = new ReadableStream<Uint8Array>({
      start: controller => controller.enqueue(piece),
      async pull(controller) {
        sent += 1
        if (sent % 32 === 0) most = Math.max(most, await rss(0))
        if (sent === 192) controller.close()
        else controller.enqueue(piece)
      },
    })
    let sent = 1
    const made = await ask(0, '/upload_asset?name=large', { method: 'POST', body, duplex: 'half' })
    assert.equal(asset.parse((await read(made)).data).asset_file_info.file_size, 191 * 1_048_576)
    assert.ok(most - before < 150, `191 MB came in and memory rose by ${most - before} MB`)
  })
})
