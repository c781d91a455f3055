import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { Devnet } from '../devnet/devnet.ts'
import { rounded } from './peers.ts'

const LAYERS = 4
const LAYER_BYTES = 50_000_000
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
const NAME = 'bench/image:v1'
const run_ = promisify(execFile)
const manifest = z.object({ config: z.object({ digest: z.string() }), layers: z.array(z.object({ digest: z.string(), size: z.number() })) })

/**
 * An image of 200 MB (four layers of noise) over real peers: skopeo pushes it to peer A, pulls it from peer C, bit for bit, and
 * then from peer D, which finds A and C holding it. `holders_of_second_pull` is how many peers D's blocks came from, as they counted what they sent.
 */
export async function run(): Promise<Record<string, number>> {
  await run_('skopeo', ['--version']).catch(() => {
    throw new MeshError('RUNTIME_UNAVAILABLE', 'this bench needs skopeo: install it (Debian: apt-get install skopeo)')
  })
  const dir = await mkdtemp(join(tmpdir(), 'aios-image-bench-'))
  const net = await Devnet.start(join(dir, 'net'), 4)
  try {
    const layers = await layout(join(dir, 'made'))
    const push_s = await timed(() => skopeo(`oci:${join(dir, 'made')}:v1`, `docker://${net.peer(0).oci}/${NAME}`))
    const pull_s = await timed(() => pulled(net, 2, join(dir, 'first')))
    const identical = await same(join(dir, 'first'), layers)
    const sent = await sentBy(net)
    const second_pull_s = await timed(() => pulled(net, 3, join(dir, 'second')))
    const after = await sentBy(net)
    const holders = after.filter((bytes, index) => index !== 3 && bytes - (sent[index] ?? 0) > LAYER_BYTES / 10).length
    const again = await same(join(dir, 'second'), layers)
    if (!identical || !again) throw new MeshError('CONTENT_CORRUPT', 'what was pulled is not what was pushed')
    const megabytes = (LAYERS * LAYER_BYTES) / 1e6
    return { megabytes, push_s: rounded(push_s, 2), pull_s: rounded(pull_s, 2), second_pull_s: rounded(second_pull_s, 2), holders_of_second_pull: holders, bit_identical: 1, pull_mb_s: rounded(megabytes / pull_s, 1) }
  } finally {
    await net[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  }
}

/** An OCI layout on disk, as container tools read it. Answers the digests of its layers. */
async function layout(dir: string): Promise<readonly string[]> {
  await mkdir(join(dir, 'blobs/sha256'), { recursive: true })
  const put = async (bytes: Uint8Array): Promise<string> => {
    const hex = createHash('sha256').update(bytes).digest('hex')
    await writeFile(join(dir, 'blobs/sha256', hex), bytes)
    return `sha256:${hex}`
  }
  // As layers are: what is not compressed, container tools compress on their way.
  const layers = Array.from({ length: LAYERS }, () => gzipSync(randomBytes(LAYER_BYTES), { level: 1 }))
  const digests: string[] = []
  for (const layer of layers) digests.push(await put(layer))
  const config = Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', config: {}, rootfs: { type: 'layers', diff_ids: digests } }))
  const body = Buffer.from(JSON.stringify({
    schemaVersion: 2, mediaType: MANIFEST, config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: await put(config), size: config.byteLength },
    layers: digests.map((digest, at) => ({ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest, size: layers[at]?.byteLength })),
  }))
  await writeFile(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
  await writeFile(join(dir, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType: MANIFEST, digest: await put(body), size: body.byteLength, annotations: { 'org.opencontainers.image.ref.name': 'v1' } }] }))
  return digests
}

async function pulled(net: Devnet, peer: number, to: string): Promise<void> {
  // The names reach every peer within moments of the push.
  for (;;) {
    const known = await fetch(`http://${net.peer(peer).oci}/v2/${NAME.replace(':', '/manifests/')}`, { method: 'HEAD', headers: { accept: MANIFEST } })
    if (known.ok) break
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  await skopeo(`docker://${net.peer(peer).oci}/${NAME}`, `dir:${to}`)
}

async function skopeo(from: string, to: string): Promise<void> {
  await run_('skopeo', ['copy', '--insecure-policy', '--src-tls-verify=false', '--dest-tls-verify=false', from, to])
}

async function same(dir: string, layers: readonly string[]): Promise<boolean> {
  const held = manifest.parse(JSON.parse(await readFile(join(dir, 'manifest.json'), 'utf8')))
  if (held.layers.map(({ digest }) => digest).join() !== layers.join()) return false
  for (const digest of layers) if (`sha256:${createHash('sha256').update(await readFile(join(dir, digest.slice(7)))).digest('hex')}` !== digest) return false
  return true
}

/** Bytes of content that each peer has sent to others, by its own counter. */
async function sentBy(net: Devnet): Promise<readonly number[]> {
  return Promise.all(net.running().map(async ({ http }) => {
    const text = await (await fetch(`${http}/metrics`)).text()
    return [...text.matchAll(/^aios_content_served_bytes_total(?:\{[^}]*\})? (\S+)$/gm)].reduce((sum, [, value]) => sum + Number(value), 0)
  }))
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now()
  await work()
  return (performance.now() - began) / 1_000
}
