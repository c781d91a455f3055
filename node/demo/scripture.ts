import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { AloneModel } from '../bench/llm-alone.ts'
import type { Devnet, DevPeer } from '../devnet/devnet.ts'

const MODEL = fileURLToPath(new URL('../../sdk/examples/scripture-chat/model/', import.meta.url))
const SERVICE = 'scripture'
const QUESTION = 'Write a verse from Psalms.'
const TOKENS = 96
const KILL_AT = 30
const READY_MS = 60_000

const service = z.object({ stages: z.array(z.object({ first: z.int(), end: z.int(), instances: z.array(z.object({ host: z.string(), state: z.string() })) })) }).loose()
const piece = z.object({ choices: z.array(z.object({ delta: z.object({ content: z.string().nullish() }).loose() }).loose()) }).loose()

/** Serves the example's language model in as many stages as there are peers, kills one of them in the middle of an answer, and says whether the text is the unsplit model's. */
export async function splitModel(net: Devnet, say: (line: string) => void): Promise<boolean> {
  const peers = net.running()
  const at = (peer: string): string => `peer ${peers.find(one => one.peer === peer)?.index ?? '?'}`
  const [first] = peers
  if (first === undefined) throw new MeshError('BAD_INPUT', 'the demo needs at least one peer')
  for await (const line of first.client.lines('POST', '/mesh/models', { path: MODEL, name: `${SERVICE}:1.0.0-stable` })) {
    const failed = z.object({ error: z.object({ message: z.string() }) }).safeParse(line)
    if (failed.success) throw new MeshError('INTERNAL', failed.data.error.message)
  }
  await first.client.send('POST', '/mesh/services', { model: `${SERVICE}:1.0.0-stable`, service: SERVICE, shards: peers.length, standbys: 1, aim: 'throughput', contextTokens: 256, sessions: 4, wait: true })
  const { stages } = await settled(first)
  for (const { first: from, end, instances } of stages) say(`layers ${from} to ${end - 1} run on ${instances.map(({ host }) => at(host)).join(', with ')}${instances.length > 1 ? ' standing by' : ''}`)
  const client = peers.at(1) ?? first
  const victim = peers.find(peer => peer !== client && stages.some(({ instances }) => instances[0]?.host === peer.peer)) ?? peers.at(-1)
  const whole = await unsplit(client)
  say(`asking peer ${client.index}: "${QUESTION}"`)
  const text = await answer(client, TOKENS, count => {
    if (count !== KILL_AT || victim === undefined) return
    process.stdout.write(` [kill -9 of peer ${victim.index}] `)
    void net.kill(victim.index)
  })
  process.stdout.write('\n')
  const same = text === whole
  say(same ? `the answer is the unsplit model's, character for character (${text.length}), although a peer died in it` : `the unsplit model says otherwise: ${whole}`)
  return same
}

/** Waits until each stage has the instance it stands on and one beside. */
async function settled(peer: DevPeer): Promise<z.infer<typeof service>> {
  const ends = performance.now() + READY_MS
  for (;;) {
    const now = service.parse(await peer.client.get(`/mesh/services/${SERVICE}`))
    if (now.stages.every(({ instances }) => instances.filter(({ state }) => state === 'ready').length >= 2)) return now
    if (performance.now() > ends) throw new MeshError('DEADLINE', 'the stages of the model did not come up')
    await new Promise(resolve => setTimeout(resolve, 100))
  }
}

/** The same prompt through the whole model, in one process without a mesh. */
async function unsplit(peer: DevPeer): Promise<string> {
  const { tokens } = z.object({ tokens: z.array(z.int()) }).loose().parse(await peer.client.send('POST', '/v1/tokenize', { model: SERVICE, messages: [{ role: 'user', content: QUESTION }] }))
  const ends = z.object({ facts: z.object({ endTokens: z.array(z.int()) }).loose() }).loose().parse(await peer.client.get(`/v1/models/${SERVICE}`)).facts.endTokens
  using alone = await AloneModel.open(MODEL, 1)
  const { ids } = await alone.greedy(tokens, TOKENS)
  const end = ids.findIndex(id => ends.includes(id))
  return z.object({ prompt: z.string() }).parse(await peer.client.send('POST', '/v1/detokenize', { model: SERVICE, tokens: end < 0 ? ids : ids.slice(0, end) })).prompt
}

/** Streams an answer to the terminal as it comes. */
async function answer(peer: DevPeer, tokens: number, onPiece: (count: number) => void): Promise<string> {
  const response = await fetch(`${peer.http}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model: SERVICE, messages: [{ role: 'user', content: QUESTION }], temperature: 0, repetition_penalty: 1, max_tokens: tokens, stream: true }) })
  if (!response.ok || response.body === null) throw new MeshError('RUN_FAILED', `${response.status}: ${await response.text()}`)
  let [text, rest, count] = ['', '', 0]
  const decoder = new TextDecoder()
  process.stdout.write('         ')
  for await (const bytes of response.body) {
    const events = (rest + decoder.decode(bytes, { stream: true })).split('\n\n')
    rest = events.pop() ?? ''
    for (const event of events) {
      const data = /^data: (\{.*)$/m.exec(event)?.[1]
      const parsed = data === undefined ? undefined : piece.safeParse(JSON.parse(data))
      if (parsed?.success === false) throw new MeshError('RUN_FAILED', data ?? '')
      const content = parsed?.data.choices.map(({ delta }) => delta.content ?? '').join('') ?? ''
      if (content === '') continue
      text += content
      process.stdout.write(content)
      onPiece(count += 1)
    }
  }
  return text
}
