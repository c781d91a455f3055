import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmod, copyFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { build } from 'esbuild'
import { bundleComponent } from '../../node/authoring/bundle.ts'
import { ROOT } from '../source.ts'

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
const digestOf = (bytes: Uint8Array): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

/** Settings under which podman also runs inside a container of its own, where the tests may run. */
export async function engineSettings(dir: string): Promise<void> {
  const file = join(dir, 'containers.conf')
  const runc = (() => {
    try {
      return execFileSync('runc', ['--version']).length > 0
    } catch {
      return false
    }
  })()
  await writeFile(file, `[engine]\ncgroup_manager = "cgroupfs"\n${runc ? 'runtime = "runc"\n' : ''}[containers]\ndefault_ulimits = ["nofile=1024:1024","nproc=1024:1024"]\n`)
  process.env['CONTAINERS_CONF'] ??= file
}

/** A root file system with this host's Node, our instance code in one file, and a block in `/block`, an init lifecycle in `/init`: what `docker/Dockerfile.block` makes with a network. */
export async function blockLayer(dir: string, block: string, server: string, init: string): Promise<Uint8Array> {
  const root = join(dir, 'root')
  const put = async (from: string, to: string): Promise<void> => {
    await mkdir(dirname(join(root, to)), { recursive: true })
    await copyFile(from, join(root, to))
  }
  await put(process.execPath, '/bin/node')
  const libraries = execFileSync('ldd', [process.execPath], { encoding: 'utf8' }).match(/\/\S+/g) ?? []
  for (const library of libraries) await put(library, library)
  // The engine mounts over it with the mode it finds.
  await mkdir(join(root, 'tmp'), { recursive: true })
  await chmod(join(root, 'tmp'), 0o1777)
  await mkdir(join(root, 'block'), { recursive: true })
  await mkdir(join(root, 'aios'), { recursive: true })
  const source = join(dir, 'source')
  await mkdir(source, { recursive: true })
  await writeFile(join(source, 'main.ts'), block)
  await writeFile(join(root, 'block/main.mjs'), (await bundleComponent(source, 'main.ts')).code)
  await writeFile(join(source, 'init.ts'), init)
  await mkdir(join(root, 'init'), { recursive: true })
  await writeFile(join(root, 'init/main.mjs'), (await bundleComponent(source, 'init.ts')).code)
  await writeFile(join(root, 'block/server.mjs'), server)
  await build({ entryPoints: [join(ROOT, 'node/instance/main.ts')], outfile: join(root, 'aios/main.mjs'), bundle: true, format: 'esm', platform: 'node', target: 'node24', external: ['onnxruntime-node', '@tensorflow/*', 'koffi'], logLevel: 'silent', banner: { js: "import{createRequire as __require_of}from'node:module';const require=__require_of(import.meta.url);" } })
  execFileSync('tar', ['--create', '--file', join(dir, 'layer.tar'), '--numeric-owner', '--owner=0', '--group=0', '--mode=a+rX', '--directory', root, '.'])
  return readFile(join(dir, 'layer.tar'))
}

/** Pushes an image of one layer to a peer's registry, as container tools do. */
export async function pushImage(oci: string, repository: string, tag: string, layer: Uint8Array, command: readonly string[], env: readonly string[] = []): Promise<void> {
  const config = Buffer.from(JSON.stringify({ architecture: process.arch === 'arm64' ? 'arm64' : 'amd64', os: 'linux', config: { Entrypoint: command, Env: env }, rootfs: { type: 'layers', diff_ids: [digestOf(layer)] } }))
  for (const bytes of [config, layer]) {
    const held = await fetch(`http://${oci}/v2/${repository}/blobs/${digestOf(bytes)}`, { method: 'HEAD' })
    if (held.ok) continue
    const begun = await fetch(`http://${oci}/v2/${repository}/blobs/uploads/`, { method: 'POST' })
    const put = await fetch(`http://${oci}${begun.headers.get('location')}?digest=${digestOf(bytes)}`, { method: 'PUT', body: new Uint8Array(bytes) })
    if (put.status !== 201) throw new Error(`the blob was not taken: ${put.status} ${await put.text()}`)
  }
  const part = (bytes: Uint8Array, mediaType: string): object => ({ mediaType, digest: digestOf(bytes), size: bytes.byteLength })
  const manifest = JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST, config: part(config, 'application/vnd.oci.image.config.v1+json'), layers: [part(layer, 'application/vnd.oci.image.layer.v1.tar')] })
  const put = await fetch(`http://${oci}/v2/${repository}/manifests/${tag}`, { method: 'PUT', body: manifest, headers: { 'content-type': MANIFEST } })
  if (put.status !== 201) throw new Error(`the image was not taken: ${put.status} ${await put.text()}`)
}
