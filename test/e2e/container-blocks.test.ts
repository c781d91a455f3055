import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { findEngine, type Engine } from '../../node/adapters/containers/engine.ts'
import { Devnet } from '../../node/devnet/devnet.ts'
import type { Json } from '../../protocols/ids.ts'
import { initContainerEntry, type InitContainerEntry } from '../../protocols/lifecycle.ts'
import { blockLayer, engineSettings, pushImage } from './block-image.ts'

const BLOCK = `
import { readFileSync, writeFileSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { defineBlock, record } from 'aios-mesh/sdk'

const attempt = (work) => { try { return String(work()) } catch (error) { return error.code ?? String(error) } }
export default defineBlock({
  load() { console.log('loaded in a container') },
  async *data(entry, context) {
    const { what, n } = record(entry.data)
    if (what === 'count') for (let at = 0; at < n; at++) yield at
    else if (what === 'facts') yield { uid: process.getuid(), root: attempt(() => writeFileSync('/written', 'x')), tmp: attempt(() => writeFileSync('/tmp/written', 'x')), shadow: attempt(() => readFileSync('/etc/shadow')), interfaces: Object.keys(networkInterfaces()), block: context.blockData.id, setting: context.parameters.setting ?? null }
    else if (what === 'die') process.exit(7)
    else if (what === 'fill') { const all = []; for (;;) all.push(Buffer.alloc(50_000_000, 1)) }
    else { console.log('said to the log'); process.stdout.write('and no frame\\n'); yield { echo: entry.data } }
  },
  management: (action, data) => ({ action, data }),
})
`

/** What sets a third-party system up and takes it down: here it only says what it sees, and fails as it is told to. */
const INIT = `
import { writeFileSync } from 'node:fs'
import { defineLifecycle } from 'aios-mesh/sdk'

export default defineLifecycle(class {
  constructor(envs, block, cluster, k8s, mode) { Object.assign(this, { envs, block, mode }) }
  begin() { return [true, { mode: this.mode, for: this.envs.BLOCK_ID }] }
  main(extra) {
    if (this.mode === 'create' && this.block.initSettings.fails) return [false, 'the system does not come up']
    try { writeFileSync('/written', 'x'); return [false, 'its root can be written'] } catch { return [true, extra] }
  }
  finish(extra) { return [true, this.mode === 'remove' ? 'taken down' : { inference_url: this.envs.URL, uid: process.getuid(), begun: extra }] }
})
`

const SERVER = `
import { createServer } from 'node:http'
let parameters = JSON.parse(process.env.CUSTOM_INIT_DATA).parameters
createServer((request, response) => {
  let text = ''
  request.on('data', chunk => { text += chunk }).on('end', () => {
    const body = text === '' ? null : JSON.parse(text)
    const say = data => response.end(JSON.stringify({ success: true, data }))
    if (request.url === '/health') return say({ status: 'healthy' })
    if (request.url === '/setParameters') { parameters = body; return say(parameters) }
    if (request.url === '/mgmt') return say({ did: body.mgmt_action, with: body.mgmt_data })
    if (body.data === 'refuse') return response.writeHead(400).end(JSON.stringify({ error: 'not this' }))
    return say({ shouted: String(body.data).toUpperCase(), parameters, session: body.session_id })
  })
}).listen(18001)
`

describe('blocks that are containers', function () {
  this.timeout(180_000)
  let dir: string
  let net: Devnet
  let engine: Engine

  const send = (peer: number, method: 'POST' | 'DELETE' | 'PUT', path: string, body: Json = {}): Promise<Json> => net.peer(peer).client.send(method, path, body)
  const publish = (name: string, info: Readonly<Record<string, Json>>): Promise<Json> => send(0, 'POST', '/api/addComponent', { componentId: { name, version: '1.0.0', releaseTag: 'stable' }, componentType: 'container', containerRegistryInfo: info, resources: { cpu: 0.5, memory: 128 } })
  const create = (blockId: string, component: string, more: Readonly<Record<string, Json>> = {}, wait = true): Promise<Json> => send(0, 'POST', '/mesh/blocks', { wait, spec: { blockId, blockComponentURI: `container.${component}:1.0.0-stable`, minInstances: 1, maxInstances: 1, ...more } })
  const infer = async (peer: number, model: string, data: Json, session = '', deadline = 60_000): Promise<{ readonly status: number; readonly data: Json }> => {
    const response = await fetch(`${net.peer(peer).http}/v1/infer`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model, data, session_id: session, seq_no: 1, deadline_ms: deadline }) })
    return { status: response.status, data: z.looseObject({ data: z.json().default(null) }).parse(await response.json()).data }
  }
  const running = async (): Promise<number> => (await engine.run(['ps', '--quiet', '--filter', 'label=ai.aios.block'])).split('\n').filter(line => line !== '').length

  before(async function () {
    dir = await mkdtemp(join(tmpdir(), 'aios-containers-'))
    await engineSettings(dir)
    const found = await findEngine()
    if (!found.ok || process.platform !== 'linux') {
      console.log(`      skipped: ${found.ok ? 'containers are run on Linux only' : found.because}`)
      // Without podman or docker there is nothing to try: hosts without one are tried below, by configuration.
      return this.skip()
    }
    engine = found.value
    const layer = await blockLayer(dir, BLOCK, SERVER, INIT)
    net = new Devnet(dir)
    const first = await net.up(0, { extra: ['--containers', 'none'] })
    const join_ = await net.invite(first)
    await net.up(1, { join: join_, extra: ['--containers', 'mesh,network'] })
    // Pushed to a peer that runs no containers; pulled by the engine from the peer that does.
    await pushImage(net.peer(0).oci, 'team/block', 'v1', layer, ['/bin/node', '/aios/main.mjs'])
    await pushImage(net.peer(0).oci, 'team/server', 'v1', layer, ['/bin/node', '/block/server.mjs'])
    await pushImage(net.peer(0).oci, 'team/init', 'v1', layer, ['/bin/node', '/aios/main.mjs'], ['AIOS_BLOCK=/init'])
    await publish('made-on-the-sdk', { containerImage: 'team/block:v1' })
    await publish('plain-http', { containerImage: 'team/server:v1', protocol: 'http' })
    await publish('nowhere', { containerImage: 'team/nothing:v1' })
    // A tag that moves afterwards changes no component that is published.
    await pushImage(net.peer(0).oci, 'team/block', 'v1', Buffer.from('another layer'), ['/bin/none'])
  })
  after(async () => {
    const door = net?.running().find(({ index }) => index === 1)?.oci
    await net?.[Symbol.asyncDispose]()
    const pulled = door === undefined ? [] : (await engine.run(['images', '--format', '{{.Repository}} {{.ID}}'])).split('\n').filter(line => line.startsWith(door)).map(line => line.split(' ')[1] ?? '')
    if (pulled.length > 0) await engine.run(['rmi', '--force', ...pulled])
    await rm(dir, { recursive: true, force: true })
  })

  it('run only where an engine is, from an image that was pushed to another peer, behind the engine’s walls', async () => {
    const made = z.looseObject({ ready: z.number() }).parse(await create('boxed', 'made-on-the-sdk', { parameters: { setting: 4 } }))
    assert.equal(made.ready, 1)
    const shown = z.looseObject({ instances: z.array(z.looseObject({ host: z.string() })) }).parse(await net.peer(0).client.get('/mesh/blocks/boxed'))
    assert.deepEqual(shown.instances.map(({ host }) => host), [net.peer(1).peer])
    const facts = await infer(0, 'boxed', { what: 'facts' })
    assert.deepEqual(facts.data, { uid: 65_534, root: 'EROFS', tmp: 'undefined', shadow: 'ENOENT', interfaces: ['lo'], block: 'boxed', setting: 4 })
    const streamed = await infer(0, 'boxed', { what: 'count', n: 20 })
    assert.deepEqual(streamed.data, Array.from({ length: 20 }, (_, at) => at))
    assert.deepEqual((await infer(0, 'boxed', { what: 'echo' })).data, { echo: { what: 'echo' } })
    const logs = z.record(z.string(), z.array(z.string())).parse(await net.peer(0).client.get('/mesh/blocks/boxed/logs'))
    assert.deepEqual(Object.values(logs).flat().filter(line => /log|container|frame/.test(line)), ['loaded in a container', 'said to the log', 'and no frame'])
  })

  it('start anew when they end by themselves or for their memory, and take their container along when they are removed', async () => {
    for (const what of ['die', 'fill']) {
      assert.notEqual((await infer(0, 'boxed', { what }, '', 1_000)).status, 200)
      for (let alive = false; !alive;) alive = (await infer(0, 'boxed', { what: 'count', n: 1 }, '', 3_000)).status === 200
    }
    assert.equal(await running(), 1)
    await send(0, 'DELETE', '/mesh/blocks/boxed')
    while (await running() > 0) await new Promise(resolve => setTimeout(resolve, 100))
  })

  it('speak AIOS’s HTTP of an instance where their image was made for that', async () => {
    await create('served', 'plain-http', { parameters: { volume: 1 } })
    assert.deepEqual(await infer(0, 'served', 'loud', 'me'), { status: 200, data: { shouted: 'LOUD', parameters: { volume: 1 }, session: 'me' } })
    assert.equal((await infer(0, 'served', 'refuse')).status, 422)
    const result = z.looseObject({ result: z.record(z.string(), z.json()) }).parse(await send(0, 'POST', '/api/executeMgmtCommand', { blockId: 'served', service: 'instances', mgmtCommand: 'reset', mgmtData: { hard: true } })).result
    assert.deepEqual(Object.values(result), [{ did: 'reset', with: { hard: true } }])
    await send(0, 'DELETE', '/mesh/blocks/served')
  })

  it('an init container is run from its image when its block is made and when it is removed, and rolled back when it fails', async () => {
    await send(1, 'POST', '/api/addComponent', { componentId: { name: 'set-up', version: '1.0.0', releaseTag: 'stable' }, componentType: 'chat', containerRegistryInfo: { componentMode: 'third_party', initContainer: { containerImage: 'team/init:v1' } }, runtime: { name: 'external' } })
    const spec = (blockId: string, fails: boolean): Json => ({ wait: false, spec: { blockId, blockComponentURI: 'chat.set-up:1.0.0-stable', minInstances: 1, maxInstances: 1, initSettings: { fails }, blockInitData: { initContainer: { envs: { URL: 'http://127.0.0.1:9' } } } } })
    const entry = async (block: string): Promise<InitContainerEntry | undefined> => initContainerEntry.optional().parse((await net.peer(1).client.get(`/initContainer/${block}`).then(found => Object(found).data, () => undefined)))
    await send(1, 'POST', '/mesh/blocks', spec('third', false))
    const { initData } = z.looseObject({ block: z.looseObject({ initData: z.looseObject({ initContainer: z.json() }) }) }).parse(await net.peer(1).client.get('/mesh/blocks/third')).block
    assert.deepEqual(initData.initContainer, { envs: { URL: 'http://127.0.0.1:9' }, inference_url: 'http://127.0.0.1:9', uid: 65_534, begun: { mode: 'create', for: 'third' } })
    assert.deepEqual((await entry('third'))?.status_data.stages.map(({ stage, ok }) => [stage, ok]), [['begin', true], ['main', true], ['finish', true]])
    await send(1, 'DELETE', '/mesh/blocks/third')
    while (await entry('third') !== undefined) await new Promise(resolve => setTimeout(resolve, 100))

    await assert.rejects(send(1, 'POST', '/mesh/blocks', spec('fourth', true)), /main failed: the system does not come up/)
    const failed = await entry('fourth')
    assert.deepEqual([failed?.status, failed?.status_data.rolled_back, failed?.status_data.stages.map(({ operating_mode, stage, ok }) => `${operating_mode} ${stage} ${ok}`)], ['failed', true, ['create begin true', 'create main false', 'remove begin true', 'remove main true', 'remove finish true']])
    await assert.rejects(send(0, 'POST', '/mesh/blocks', spec('fifth', false)), /container/, 'a peer that runs no containers says so')
    assert.equal(await running(), 0, 'no container is left')
  })

  it('are refused with the reason: no engine allowed, or no such image', async () => {
    const explained = z.looseObject({ explanation: z.looseObject({ candidates: z.array(z.looseObject({ peer: z.string(), ok: z.boolean(), because: z.string() })) }) }).parse(await create('tried', 'made-on-the-sdk', { mode: 'dry_run' }))
    const refusal = explained.explanation.candidates.find(({ peer }) => peer === net.peer(0).peer)
    assert.match(refusal?.because ?? '', /has no container runtime/)
    await create('missing', 'nowhere', {}, false)
    const because = async (): Promise<string> => z.looseObject({ instances: z.array(z.looseObject({ because: z.string() })) }).parse(await net.peer(0).client.get('/mesh/blocks/missing')).instances.map(each => each.because).join()
    while (!/no peer was given the image team\/nothing:v1/.test(await because())) await new Promise(resolve => setTimeout(resolve, 100))
    await send(0, 'DELETE', '/mesh/blocks/missing')
    assert.match(JSON.stringify(z.looseObject({ ad: z.json() }).array().parse(await net.peer(0).client.get('/mesh/peers'))), /"container","version":"(podman|docker) /)
  })
})
