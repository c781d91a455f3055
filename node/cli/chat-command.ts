import { createInterface } from 'node:readline'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { stagePlan } from '../../protocols/generation.ts'
import { chat } from './chat-stream.ts'
import { arg, flag, list, text, UsageError, type Command, type Context } from './command.ts'
import { DaemonClient } from './daemon-client.ts'
import { shortId } from './output.ts'

type Message = { readonly role: 'system' | 'user' | 'assistant'; readonly content: string }
type Turn = { readonly id: string; readonly text: string; readonly finish: string; readonly promptTokens: number; readonly tokens: number; readonly firstMs: number; readonly tokensPerSecond: number; readonly stages: readonly z.infer<typeof stagePlan>[] }

const driven = z.object({ plan: z.array(stagePlan) })

export const chatCommands: readonly Command[] = [{
  words: ['chat'], args: 'MODEL', count: [1, 1], what: 'talk to a served model: tokens as they come, how fast, and which peer computes which layers',
  options: [
    { name: 'prompt', value: 'TEXT', what: 'say this, print the answer and leave; without it and without a terminal, what comes on stdin' },
    { name: 'system', value: 'TEXT', what: 'what the model is told first' },
    { name: 'peer', value: 'URL', many: true, what: 'talk to the door of this peer (token in $AIOS_TOKEN); the next one takes over when it dies' },
    { name: 'max-tokens', value: 'N', what: 'longest answer' },
    { name: 'temperature', value: 'T', what: '0 takes the likeliest token each time' },
    { name: 'seed', value: 'N', what: 'the same seed gives the same answer' },
    { name: 'quiet', what: 'print the answer alone' },
  ],
  run: context => talk(context),
}]

async function talk(context: Context): Promise<void> {
  const peers = await peersOf(context)
  const system = text(context, 'system')
  const history: Message[] = system === undefined ? [] : [{ role: 'system', content: system }]
  const given = text(context, 'prompt') ?? (process.stdin.isTTY === true ? undefined : await stdin())
  if (given !== undefined) {
    const turn = await answer(context, peers, [...history, { role: 'user', content: given }])
    if (context.out.json) context.out.result(turn, () => '')
    return
  }
  if (context.out.json) throw new UsageError('--json wants --prompt, or the prompt on stdin')
  const lines = createInterface({ input: process.stdin, output: process.stdout, prompt: '> ' })
  context.signal.addEventListener('abort', () => lines.close(), { once: true })
  lines.prompt()
  for await (const line of lines) {
    if (line.trim() !== '') {
      history.push({ role: 'user', content: line })
      history.push({ role: 'assistant', content: (await answer(context, peers, history)).text })
    }
    lines.prompt()
  }
}

async function answer(context: Context, peers: readonly DaemonClient[], messages: readonly Message[]): Promise<Turn> {
  const number = (name: string): number | undefined => {
    const given = text(context, name)
    if (given !== undefined && (given.trim() === '' || Number.isNaN(Number(given)))) throw new UsageError(`--${name} takes a number, not ${given}`)
    return given === undefined ? undefined : Number(given)
  }
  const [maxTokens, temperature, seed] = [number('max-tokens'), number('temperature'), number('seed')]
  const request = {
    model: arg(context, 0), messages: messages.map(({ role, content }) => ({ role, content })), stream: true, stream_options: { include_usage: true }, resumable: peers.length > 1,
    ...(maxTokens === undefined ? {} : { max_tokens: maxTokens }), ...(temperature === undefined ? {} : { temperature }), ...(seed === undefined ? {} : { seed }),
  }
  const began = performance.now()
  let first: number | undefined
  let said = ''
  let id = ''
  let stages: Promise<Turn['stages']> = Promise.resolve([])
  for await (const part of chat(peers, request)) {
    if (part.kind === 'moved') {
      context.out.note(`\n(${part.because}; going on with ${shortId(part.by.peer)})`)
    } else if (part.kind === 'text') {
      if (first === undefined) stages = stagesOf(part.by, part.id)
      first ??= performance.now()
      id = part.id
      said += part.text
      if (!context.out.json) process.stdout.write(part.text)
    } else {
      const done = performance.now()
      const tokensPerSecond = part.tokens > 1 && first !== undefined && done > first ? ((part.tokens - 1) / (done - first)) * 1_000 : 0
      const turn: Turn = { id, text: said, finish: part.finish, promptTokens: part.promptTokens, tokens: part.tokens, firstMs: Math.round((first ?? done) - began), tokensPerSecond: Math.round(tokensPerSecond * 10) / 10, stages: await stages }
      if (!context.out.json) process.stdout.write('\n')
      if (!flag(context, 'quiet')) context.out.note(described(turn))
      return turn
    }
  }
  throw new MeshError('PEER_UNREACHABLE', 'the answer broke off')
}

/** Who computes which layers, from the peer that drives the answer. */
async function stagesOf(by: DaemonClient, id: string): Promise<Turn['stages']> {
  try {
    return driven.parse(await by.get(`/mesh/generations/${id}`)).plan
  } catch (error) {
    // It is over already, or another peer drives it now: the answer itself is whole.
    if (error instanceof MeshError) return []
    throw error
  }
}

function described({ tokens, tokensPerSecond, firstMs, finish, stages }: Turn): string {
  const layers = stages.map(({ first, end, host, standby }) => `layers ${first}-${end - 1} ${shortId(host)}${standby === undefined ? '' : ` (standby ${shortId(standby.host)})`}`)
  return [`${tokens} tokens, ${tokensPerSecond} a second, first after ${firstMs} ms${finish === 'stop' ? '' : `, ${finish}`}`, ...(layers.length === 0 ? [] : [layers.join(' | ')])].join('\n')
}

async function peersOf(context: Context): Promise<readonly DaemonClient[]> {
  const urls = list(context, 'peer')
  if (urls.length === 0) return [await context.daemon()]
  return urls.map(url => {
    if (!URL.canParse(url)) throw new UsageError(`--peer takes the address of a peer's door, as http://127.0.0.1:8080, not ${url}`)
    return new DaemonClient({ http: url.replace(/\/+$/, ''), token: process.env['AIOS_TOKEN'] ?? '', pid: 0, peer: url }, context.signal)
  })
}

async function stdin(): Promise<string> {
  let given = ''
  for await (const chunk of process.stdin.setEncoding('utf8')) given += String(chunk)
  if (given.trim() === '') throw new UsageError('there is nothing to say: give --prompt TEXT, or the prompt on stdin')
  return given
}
