import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { z } from 'zod'
import { Devnet } from '../../node/devnet/devnet.ts'

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
const digestOf = (bytes: Uint8Array): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`
const failure = z.object({ errors: z.array(z.object({ code: z.string() })) })

type Image = { readonly manifest: Uint8Array; readonly config: Uint8Array; readonly layer: Uint8Array }

function image(layer: Uint8Array, more: object = {}): Image {
  const config = Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', config: {}, rootfs: { type: 'layers', diff_ids: [digestOf(layer)] } }))
  const part = (bytes: Uint8Array, mediaType: string): object => ({ mediaType, digest: digestOf(bytes), size: bytes.byteLength })
  return { layer, config, manifest: Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST, config: part(config, 'application/vnd.oci.image.config.v1+json'), layers: [part(layer, 'application/vnd.oci.image.layer.v1.tar+gzip')], ...more })) }
}

/** An OCI layout on disk, as container tools read it. */
async function layout(dir: string, { manifest, config, layer }: Image): Promise<void> {
  await mkdir(join(dir, 'blobs/sha256'), { recursive: true })
  for (const bytes of [manifest, config, layer]) await writeFile(join(dir, 'blobs/sha256', digestOf(bytes).slice(7)), bytes)
  await writeFile(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
  await writeFile(join(dir, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType: MANIFEST, digest: digestOf(manifest), size: manifest.byteLength, annotations: { 'org.opencontainers.image.ref.name': 'v1' } }] }))
}

describe('container images on real peers', function () {
  this.timeout(120_000)
  let dir: string
  let net: Devnet

  const registry = (peer: number, path: string, init: RequestInit = {}): Promise<Response> => fetch(path.startsWith('http') ? path : `http://${net.peer(peer).oci}${path}`, init)
  const upload = async (peer: number, repository: string, bytes: Uint8Array<ArrayBuffer>): Promise<Response> => {
    const begun = await registry(peer, `/v2/${repository}/blobs/uploads/`, { method: 'POST' })
    return registry(peer, `${begun.headers.get('location')}?digest=${digestOf(bytes)}`, { method: 'PUT', body: bytes })
  }
  const push = async (peer: number, repository: string, tag: string, made: Image): Promise<Response> => {
    for (const bytes of [made.config, made.layer]) assert.equal((await upload(peer, repository, new Uint8Array(bytes))).status, 201)
    return registry(peer, `/v2/${repository}/manifests/${tag}`, { method: 'PUT', body: new Uint8Array(made.manifest), headers: { 'content-type': MANIFEST } })
  }
  const code = async (response: Response): Promise<readonly [number, string | undefined]> => [response.status, failure.parse(await response.json()).errors[0]?.code]
  /** What was pushed to one peer a moment ago reaches the next one soon. */
  const eventually = async (work: () => Promise<Response>): Promise<Response> => {
    for (let attempt = 0; ; attempt += 1) {
      const response = await work()
      if (response.status !== 404 || attempt === 100) return response
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-images-'))
    net = await Devnet.start(dir, 3)
  })
  after(async () => {
    await net?.[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })

  it('what is pushed to one peer is pulled from another, by tag and by digest, in whole and in ranges', async () => {
    const made = image(randomBytes(3_000_000))
    const pushed = await push(0, 'team/app', 'v1', made)
    assert.deepEqual([pushed.status, pushed.headers.get('docker-content-digest')], [201, digestOf(made.manifest)])
    const manifest = await eventually(() => registry(2, '/v2/team/app/manifests/v1'))
    assert.deepEqual(new Uint8Array(await manifest.arrayBuffer()), new Uint8Array(made.manifest))
    assert.equal(manifest.headers.get('content-type'), MANIFEST)
    assert.equal((await registry(2, `/v2/team/app/manifests/${digestOf(made.manifest)}`, { method: 'HEAD' })).headers.get('content-length'), String(made.manifest.byteLength))
    const layer = await registry(2, `/v2/team/app/blobs/${digestOf(made.layer)}`)
    assert.deepEqual(new Uint8Array(await layer.arrayBuffer()), new Uint8Array(made.layer))
    const part = await registry(2, `/v2/team/app/blobs/${digestOf(made.layer)}`, { headers: { range: 'bytes=1000000-1000099' } })
    assert.deepEqual([part.status, part.headers.get('content-range')], [206, 'bytes 1000000-1000099/3000000'])
    assert.deepEqual(new Uint8Array(await part.arrayBuffer()), new Uint8Array(made.layer.subarray(1_000_000, 1_000_100)))
    assert.equal((await registry(2, `/v2/team/app/blobs/${digestOf(made.layer)}`, { headers: { range: 'bytes=3000000-' } })).status, 416)
  })

  it('takes an upload in pieces that follow one another, and no others', async () => {
    const bytes = randomBytes(300_000)
    const begun = await registry(1, '/v2/pieces/blobs/uploads/', { method: 'POST' })
    const at = String(begun.headers.get('location'))
    const add = (from: number, end: number): Promise<Response> => registry(1, at, { method: 'PATCH', body: new Uint8Array(bytes.subarray(from, end)), headers: { 'content-range': `${from}-${end - 1}` } })
    assert.deepEqual([(await add(0, 100_000)).status, (await add(150_000, 200_000)).status, (await add(100_000, 300_000)).status], [202, 416, 202])
    assert.equal((await registry(1, at)).headers.get('range'), '0-299999')
    assert.deepEqual(await code(await registry(1, `${at}?digest=sha256:${'0'.repeat(64)}`, { method: 'PUT' })), [400, 'DIGEST_INVALID'])
    assert.deepEqual(await code(await registry(1, at)), [404, 'BLOB_UPLOAD_UNKNOWN'])
  })

  it('mounts a blob from another repository without moving it', async () => {
    const blob = new Uint8Array(randomBytes(50_000))
    await upload(0, 'first', blob)
    const mounted = await registry(0, `/v2/second/blobs/uploads/?mount=${digestOf(blob)}&from=first`, { method: 'POST' })
    assert.deepEqual([mounted.status, mounted.headers.get('docker-content-digest')], [201, digestOf(blob)])
    assert.equal((await registry(0, `/v2/second/blobs/uploads/?mount=${digestOf(randomBytes(9))}&from=first`, { method: 'POST' })).status, 202)
  })

  it('lists tags in pages, repositories, and what refers to an image', async () => {
    const made = image(randomBytes(1_000))
    for (const tag of ['a', 'b', 'c']) await push(0, 'many', tag, made)
    const first = await registry(0, '/v2/many/tags/list?n=2')
    assert.deepEqual([await first.json(), first.headers.get('link')], [{ name: 'many', tags: ['a', 'b'] }, '</v2/many/tags/list?n=2&last=b>; rel="next"'])
    assert.deepEqual(await (await registry(0, '/v2/many/tags/list?n=2&last=b')).json(), { name: 'many', tags: ['c'] })
    const about = image(randomBytes(500), { subject: { mediaType: MANIFEST, digest: digestOf(made.manifest), size: made.manifest.byteLength }, artifactType: 'application/x-signature' })
    const pushed = await push(0, 'many', digestOf(about.manifest), about)
    assert.equal(pushed.headers.get('oci-subject'), digestOf(made.manifest))
    const referrers = z.object({ manifests: z.array(z.object({ digest: z.string(), artifactType: z.string() }).loose()) }).loose()
    assert.deepEqual(referrers.parse(await (await registry(0, `/v2/many/referrers/${digestOf(made.manifest)}`)).json()).manifests.map(({ digest, artifactType }) => [digest, artifactType]), [[digestOf(about.manifest), 'application/x-signature']])
    assert.deepEqual(referrers.parse(await (await registry(0, `/v2/many/referrers/${digestOf(made.manifest)}?artifactType=other`)).json()).manifests, [])
    assert.match(JSON.stringify(await (await registry(0, '/v2/_catalog')).json()), /"many"/)
  })

  it('refuses what does not add up, in the words of the specification', async () => {
    const made = image(randomBytes(100))
    const put = (path: string, bytes: Uint8Array): Promise<Response> => registry(0, path, { method: 'PUT', body: new Uint8Array(bytes), headers: { 'content-type': MANIFEST } })
    assert.deepEqual(await code(await put('/v2/bad/manifests/v1', made.manifest)), [404, 'MANIFEST_BLOB_UNKNOWN'])
    assert.deepEqual(await code(await put('/v2/bad/manifests/v1', Buffer.from('{'))), [400, 'MANIFEST_INVALID'])
    assert.deepEqual(await code(await put(`/v2/bad/manifests/sha256:${'1'.repeat(64)}`, made.manifest)), [400, 'DIGEST_INVALID'])
    assert.deepEqual(await code(await put('/v2/bad/manifests/not%20a%20tag', made.manifest)), [400, 'MANIFEST_INVALID'])
    assert.deepEqual(await code(await registry(0, '/v2/Bad/Name/tags/list')), [400, 'NAME_INVALID'])
    assert.deepEqual(await code(await registry(0, '/v2/nothing/tags/list')), [404, 'NAME_UNKNOWN'])
    assert.deepEqual(await code(await registry(0, '/v2/nothing/manifests/v1')), [404, 'MANIFEST_UNKNOWN'])
    assert.deepEqual(await code(await registry(0, `/v2/nothing/blobs/sha256:${'2'.repeat(64)}`)), [404, 'BLOB_UNKNOWN'])
    assert.deepEqual(await code(await registry(0, '/v2/a/b', { method: 'POST' })), [405, 'UNSUPPORTED'])
  })

  it('a deleted tag and a deleted manifest are gone', async () => {
    const made = image(randomBytes(1_000))
    await push(0, 'going', 'v1', made)
    assert.equal((await registry(0, '/v2/going/manifests/v1', { method: 'DELETE' })).status, 202)
    assert.equal((await registry(0, '/v2/going/manifests/v1')).status, 404)
    assert.equal((await registry(0, `/v2/going/manifests/${digestOf(made.manifest)}`, { method: 'DELETE' })).status, 202)
    assert.deepEqual(await code(await registry(0, `/v2/going/manifests/${digestOf(made.manifest)}`)), [404, 'MANIFEST_UNKNOWN'])
  })

  it('every peer is listed as a container registry and an asset store, beside those that were filed, each with its health', async () => {
    const documents = z.object({ success: z.literal(true), data: z.array(z.looseObject({})) })
    const http = (path: string, init: RequestInit = {}): Promise<Response> => fetch(`${net.peer(1).http}${path}`, init)
    const healthy = async (path: string): Promise<boolean> => z.object({ data: z.object({ healthy: z.boolean() }) }).parse(await (await http(path)).json()).data.healthy
    for (const [kind, list, check, good] of [['container_registry', '/container_registries', '/check_container_health', `http://${net.peer(0).oci}`], ['asset_registry', '/asset_registries', '/check_health', net.peer(0).http]] as const) {
      assert.equal((await http(`/${kind}`, { method: 'POST', body: JSON.stringify({ [`${kind}_id`]: 'near', [`${kind}_public_url`]: good, [`${kind}_tags`]: ['ours'] }) })).status, 201)
      assert.equal((await http(`/${kind}`, { method: 'POST', body: JSON.stringify({ [`${kind}_id`]: 'away', [`${kind}_public_url`]: 'http://127.0.0.1:1' }) })).status, 201)
      const all = documents.parse(await (await http(list)).json()).data.map(document => document[`${kind}_id`])
      assert.deepEqual([...all].sort(), [...net.running().map(({ peer }) => peer), 'near', 'away'].sort())
      assert.deepEqual(documents.parse(await (await http(list, { method: 'POST', body: JSON.stringify({ [`${kind}_tags`]: 'ours' }) })).json()).data.map(document => document[`${kind}_id`]), ['near'])
      assert.deepEqual([await healthy(`${check}/near`), await healthy(`${check}/away`), await healthy(`${check}/${net.peer(2).peer}`)], [true, false, true])
      assert.equal((await http(`${check}/nobody`)).status, 404)
      assert.equal((await http(`/${kind}/away`, { method: 'DELETE' })).status, 200)
      assert.equal((await http(`/${kind}/away`)).status, 404)
    }
  })

  it('skopeo copies an image to one peer and from another, bit for bit', async function () {
    const skopeo = (...args: readonly string[]): void => {
      const { status, stderr } = spawnSync('skopeo', args, { encoding: 'utf8' })
      assert.equal(status, 0, stderr)
    }
    // Where skopeo is not installed the same requests are made above, by hand.
    if (spawnSync('skopeo', ['--version']).error !== undefined) return this.skip()
    const made = image(gzipSync(randomBytes(2_000_000)))
    await layout(join(dir, 'pushed'), made)
    skopeo('copy', '--dest-tls-verify=false', `oci:${join(dir, 'pushed')}:v1`, `docker://${net.peer(0).oci}/tools/image:v1`)
    await eventually(() => registry(2, '/v2/tools/image/manifests/v1'))
    skopeo('copy', '--src-tls-verify=false', `docker://${net.peer(2).oci}/tools/image:v1`, `oci:${join(dir, 'pulled')}:v1`)
    for (const name of await readdir(join(dir, 'pushed/blobs/sha256'))) assert.deepEqual(await readFile(join(dir, 'pulled/blobs/sha256', name)), await readFile(join(dir, 'pushed/blobs/sha256', name)))
  })
})
