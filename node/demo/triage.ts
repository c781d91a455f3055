import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json } from '../../protocols/ids.ts'
import type { DevPeer } from '../devnet/devnet.ts'

export const EXAMPLE = fileURLToPath(new URL('../../sdk/examples/tumour-triage/', import.meta.url))
const COMPONENTS = ['normalise', 'classify', 'novelty', 'rules', 'report']

const heldOut = z.object({ id: z.string(), label: z.string(), record: z.record(z.string(), json) })
export type HeldOut = z.infer<typeof heldOut>

export type Triage = { readonly vdag: string; readonly blocks: readonly string[]; readonly records: readonly HeldOut[] }

/** Publishes the example's components, each from another of `peers` and at the same time, starts its blocks and publishes its vDAG. */
export async function publishTriage(peers: readonly DevPeer[], say: (line: string) => void): Promise<Triage> {
  const at = (index: number): DevPeer => {
    const peer = peers[index % peers.length]
    if (peer === undefined) throw new MeshError('BAD_INPUT', 'the demo needs at least one peer')
    return peer
  }
  await Promise.all(COMPONENTS.map(async (name, index) => {
    const peer = at(index)
    const { uri, bytes } = await publish(peer, join(EXAMPLE, name))
    say(`peer ${peer.index} published ${uri} (${(bytes / 1_024).toFixed(0)} KiB)`)
  }))
  const files = (await readdir(join(EXAMPLE, 'blocks'))).sort()
  const blocks = await Promise.all(files.map(async (file, index) => {
    const peer = at(index + 1)
    const spec = json.parse(JSON.parse(await readFile(join(EXAMPLE, 'blocks', file), 'utf8')))
    const made = z.object({ blockId: z.string(), ready: z.int() }).loose().parse(await retried(() => peer.client.send('POST', '/mesh/blocks', { spec, wait: true })))
    const { instances } = z.object({ instances: z.array(z.object({ host: z.string() }).loose()) }).loose().parse(await peer.client.get(`/mesh/blocks/${made.blockId}`))
    const hosts = instances.map(({ host }) => `peer ${peers.find(({ peer }) => peer === host)?.index ?? '?'}`)
    say(`peer ${peer.index} asked for block ${made.blockId}: negotiated onto ${hosts.join(' and ')}`)
    return made.blockId
  }))
  const spec = json.parse(JSON.parse(await readFile(join(EXAMPLE, 'vdag.json'), 'utf8')))
  const { uri } = z.object({ uri: z.string() }).loose().parse(await at(0).client.send('POST', '/mesh/vdags', { spec }))
  say(`peer ${at(0).index} published vDAG ${uri}`)
  const records = (await readFile(join(EXAMPLE, 'held-out.jsonl'), 'utf8')).split('\n').filter(line => line !== '').map(line => heldOut.parse(JSON.parse(line)))
  return { vdag: uri, blocks, records }
}

async function publish(peer: DevPeer, directory: string): Promise<{ uri: string; bytes: number }> {
  for await (const line of peer.client.lines('POST', '/mesh/components', { directory })) {
    const done = z.object({ result: z.object({ uri: z.string(), bytes: z.number() }).loose() }).safeParse(line)
    if (done.success) return done.data.result
  }
  throw new MeshError('INTERNAL', `publishing ${directory} ended without a result`)
}

/** A record published a moment ago on one peer may not have reached the next one yet. */
async function retried<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'NOT_FOUND' || attempt === 50) throw error
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }
}
