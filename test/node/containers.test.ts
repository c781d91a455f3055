import assert from 'node:assert/strict'
import { containerCommand, type ContainerOrder } from '../../node/adapters/containers/command.ts'
import { bringImage, readImage } from '../../node/adapters/containers/image.ts'
import { readContainers, readExternal } from '../../node/other-runtimes.ts'
import { MeshError } from '../../protocols/errors.ts'

const order: ContainerOrder = { engine: 'podman', name: 'aios-in-1', image: '127.0.0.1:1/team/app@sha256:0', needs: { cpuMilli: 250, memoryMb: 128, diskMb: 40, gpus: 0, gpuMemoryMb: 0 }, gpus: [], network: 'none', labels: ['ai.aios.host=x'], env: { BLOCK_ID: 'b' } }
const never = new AbortController().signal

describe('the command line of a container', () => {
  it('bounds memory, processor and processes, drops every privilege and has no network', () => {
    const line = containerCommand(order).join(' ')
    for (const part of ['--read-only', '--cap-drop all', '--security-opt no-new-privileges', '--user 65534:65534', '--network none', '--memory 288m --memory-swap 288m', '--cpus 0.25', '--pids-limit 256', 'size=40m', '--pull never']) assert.ok(line.includes(part), part)
    for (const part of ['--volume', '--mount', '--privileged', '--publish', '--device', '--gpus']) assert.ok(!line.includes(part), part)
    assert.equal(line.endsWith(order.image), true)
  })

  it('gives the GPUs of the contract as each engine knows them, and a port of the loopback where a network was granted', () => {
    assert.ok(containerCommand({ ...order, gpus: ['GPU-1', 'GPU-2'] }).join(' ').includes('--device nvidia.com/gpu=GPU-1 --device nvidia.com/gpu=GPU-2'))
    assert.ok(containerCommand({ ...order, engine: 'docker', gpus: ['GPU-1', 'GPU-2'] }).join(' ').includes('--gpus "device=GPU-1,GPU-2"'))
    const networked = containerCommand({ ...order, network: { port: 18_001 } }).join(' ')
    assert.ok(networked.includes('--publish 127.0.0.1::18001') && !networked.includes('--network'))
  })
})

describe('where a container’s image comes from', () => {
  const ran: string[][] = []
  const engine = (present: readonly string[]) => ({
    name: 'podman' as const, version: '5',
    async run(args: readonly string[]) {
      ran.push([...args])
      if (args[0] === 'image' && !present.includes(args.at(-1) ?? '')) throw new MeshError('RUNTIME_UNAVAILABLE', 'no such image')
      return ''
    },
  })
  const digest = `sha256:${'a'.repeat(64)}`
  const mesh = { door: () => ({ address: '127.0.0.1:5', loopback: true, token: 't' }), digest: async (repository: string, reference: string) => (repository === 'team/app' && reference === 'v1' ? digest : undefined) }

  it('is the mesh first, by the digest its tag stands for', async () => {
    ran.length = 0
    assert.equal(await bringImage(engine([]), 'team/app:v1', new Set(['mesh', 'pull']), mesh, never), `127.0.0.1:5/team/app@${digest}`)
    assert.deepEqual(ran.at(-1), ['pull', '--quiet', '--tls-verify=false', `127.0.0.1:5/team/app@${digest}`])
  })

  it('is the engine or another registry only where the operator allows it, and says so otherwise', async () => {
    await assert.rejects(bringImage(engine(['docker.io/x:1']), 'docker.io/x:1', new Set(['mesh']), mesh, never), /--containers mesh,local/)
    assert.equal(await bringImage(engine(['docker.io/x:1']), 'docker.io/x:1', new Set(['mesh', 'local']), mesh, never), 'docker.io/x:1')
    await assert.rejects(bringImage(engine([]), 'docker.io/x:1', new Set(['mesh', 'local']), mesh, never), { code: 'NOT_FOUND' })
    ran.length = 0
    await bringImage(engine([]), 'docker.io/x:1', new Set(['pull']), mesh, never)
    assert.deepEqual(ran.at(-1), ['pull', '--quiet', 'docker.io/x:1'])
    // A name that belongs to another registry is not looked for in ours.
    await assert.rejects(bringImage(engine([]), 'other.io/team/app:v1', new Set(['mesh']), mesh, never), { code: 'NOT_FOUND' })
  })

  it('is read as container tools read it, and refused where it is none or could be an option', () => {
    assert.deepEqual(readImage('team/app'), { repository: 'team/app', reference: 'latest' })
    assert.deepEqual(readImage('host:5000/app:v2'), { repository: 'host:5000/app', reference: 'v2' })
    assert.deepEqual(readImage(`app@${digest}`), { repository: 'app', reference: digest })
    for (const bad of ['', ':v1', 'app:', 'app@sha256:1', '--privileged', '-v/:/host:x', 'a b:c']) assert.throws(() => readImage(bad), { code: 'SPEC_INVALID' }, bad)
  })
})

describe('what an operator allows', () => {
  it('is read from --containers and --external, and refused where it says nothing known', () => {
    assert.equal(readContainers('none'), 'none')
    assert.deepEqual(readContainers('mesh,network'), { sources: new Set(['mesh']), network: true })
    assert.throws(() => readContainers('mesh,root'), { code: 'BAD_INPUT' })
    assert.deepEqual(readExternal(['http://127.0.0.1:8000/v1', '*']), ['http://127.0.0.1:8000', '*'])
    assert.throws(() => readExternal(['ftp://x']), { code: 'BAD_INPUT' })
  })
})
