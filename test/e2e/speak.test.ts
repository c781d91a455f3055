import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import OpenAI from 'openai'
import { z } from 'zod'
import { Devnet, type DevPeer } from '../../node/devnet/devnet.ts'
import { stagePlan } from '../../protocols/generation.ts'
import { ModelText } from '../../src/llm/text/model-text.ts'
import { encodeGraph } from '../fixtures/llm/encode.ts'
import { makeModel, tokenizerOf } from '../fixtures/llm/make-model.ts'
import { sentenceEncoderGraph } from '../fixtures/llm/sentence-encoder.ts'
import { randomWeights, shapeOf } from '../fixtures/llm/shapes.ts'
import { logProbability, WholeModel } from '../llm/whole-model.ts'
import { lastWords } from './last-words.ts'

const CLI = fileURLToPath(new URL('../../node/cli/main.ts', import.meta.url))
const run = promisify(execFile)
const TOKENS = 64

/** The whole way: a model from its folder, split over real daemons, spoken to through OpenAI's client, the terminal, and past deaths. */
describe('a split model speaks', function () {
  this.timeout(300_000)
  const dir = mkdtempSync(join(tmpdir(), 'aios-speak-'))
  const folder = join(dir, 'tiny')
  let net: Devnet
  let text: ModelText
  let whole: WholeModel

  before(async () => {
    makeModel(folder, { variant: 'fused' })
    const file = (name: string): unknown => JSON.parse(readFileSync(join(folder, name), 'utf8'))
    text = new ModelText({ 'tokenizer.json': file('tokenizer.json'), 'tokenizer_config.json': file('tokenizer_config.json'), 'generation_config.json': file('generation_config.json') })
    whole = await WholeModel.open(folder)
    net = await Devnet.start(dir, 3)
    await imported(folder)
    await net.peer(2).client.send('POST', '/mesh/services', { model: 'tiny', service: 'tiny', shards: 2, contextTokens: 256, sessions: 4, standbys: 1 })
  })
  afterEach(async function () {
    await lastWords(this, net?.running() ?? [])
  })
  after(async () => {
    await net?.[Symbol.asyncDispose]()
    await whole?.close()
    await rm(dir, { recursive: true, force: true })
  })

  async function imported(path: string): Promise<string> {
    for await (const line of net.peer(0).client.lines('POST', '/mesh/models', { path })) {
      const done = z.object({ result: z.object({ uri: z.string() }) }).safeParse(line)
      if (done.success) return done.data.result.uri
    }
    return assert.fail('the import ended without a result')
  }
  const openAi = (peer: DevPeer): OpenAI => new OpenAI({ baseURL: `${peer.http}/v1`, apiKey: 'anything', maxRetries: 0 })
  const messages = [{ role: 'user' as const, content: 'Licensed under the Apache License, who may use this file?' }]
  /** What the model as one whole, unsplit file answers, as text. */
  const expected = async (): Promise<string> => text.decode(await whole.greedy(text.prompt({ messages }), TOKENS, text.ends))
  const greedy = { model: 'tiny', messages, temperature: 0, top_k: 0, max_tokens: TOKENS } as const

  it('with the whole model\'s words, from every peer, at once and in pieces', async () => {
    const words = await expected()
    assert.ok(words.length > TOKENS)
    for (const peer of net.running()) {
      const answer = await openAi(peer).chat.completions.create(greedy)
      assert.equal(answer.choices[0]?.message.content, words)
      assert.equal(answer.usage?.prompt_tokens, text.prompt({ messages }).length)
      let streamed = ''
      for await (const chunk of await openAi(peer).chat.completions.create({ ...greedy, stream: true })) streamed += chunk.choices[0]?.delta.content ?? ''
      assert.equal(streamed, words)
    }
  })

  it('the same for the same seed, whichever peer is asked', async () => {
    const [one, other] = [net.peer(0), net.peer(1)].map(openAi)
    const asked = { ...greedy, temperature: 1.5, seed: 77, max_tokens: 24 }
    const answers = await Promise.all([one, other].map(client => client!.chat.completions.create(asked, { timeout: 40_000 })))
    assert.equal(answers[0]?.choices[0]?.message.content, answers[1]?.choices[0]?.message.content)
  })

  it('with the whole model\'s own log-probabilities, which travel as logits do', async () => {
    const prompt = text.prompt({ messages })
    const tokens = (await whole.greedy(prompt, 8, text.ends))
    whole.reset()
    const logits = await whole.add([...prompt, ...tokens])
    for (const peer of net.running()) {
      const answer = await openAi(peer).chat.completions.create({ ...greedy, max_tokens: 8, logprobs: true, top_logprobs: 2 })
      const content = answer.choices[0]?.logprobs?.content ?? []
      assert.equal(content.length, tokens.length)
      content.forEach(({ logprob, top_logprobs: [top] }, at) => {
        assert.ok(Math.abs(logprob - logProbability(logits, prompt.length - 1 + at, tokens[at]!)) < 1e-4)
        assert.equal(top?.logprob, logprob)
      })
    }
  })

  it('under another name too, made by AIOS’s llmVDAGCreateManual of the blocks that are there', async () => {
    await net.peer(1).client.send('POST', '/api/llmVDAGCreateManual', { model_name: 'tiny', service: 'by-hand', blocks: ['tiny-s0', 'tiny-s1'], contextTokens: 256, sessions: 4 })
    const answer = await openAi(net.peer(1)).chat.completions.create({ ...greedy, model: 'by-hand' })
    assert.equal(answer.choices[0]?.message.content, await expected())
  })

  it('no longer than its client listens', async () => {
    const stop = new AbortController()
    const stream = await openAi(net.peer(0)).chat.completions.create({ ...greedy, temperature: 2, ignore_eos: true, max_tokens: 200, stream: true } as never, { signal: stop.signal }) as unknown as AsyncIterable<unknown>
    let pieces = 0
    for await (const _ of stream) if (++pieces === 3) break
    stop.abort()
    const ends = performance.now() + 20_000
    while (z.array(z.unknown()).parse(await net.peer(0).client.get('/mesh/generations')).length > 0) assert.ok(performance.now() < ends, 'it is still driven')
  })

  it('in JSON of a schema, which no random weights would write by themselves', async () => {
    const schema = { type: 'object', required: ['name', 'age'], additionalProperties: false, properties: { name: { type: 'string', maxLength: 10 }, age: { type: 'integer', minimum: 0, maximum: 120 } } }
    const answer = await openAi(net.peer(1)).chat.completions.create({ model: 'tiny', messages, max_tokens: 120, seed: 4, response_format: { type: 'json_schema', json_schema: { name: 'person', schema } } })
    const person = JSON.parse(answer.choices[0]?.message.content ?? '')
    assert.ok(typeof person.name === 'string' && person.age >= 0 && person.age <= 120)
  })

  it('in the terminal, with who computes which layers', async () => {
    const words = await expected()
    const options = ['--prompt', messages[0]!.content, '--temperature', '0', '--max-tokens', String(TOKENS)]
    const { stdout } = await run(process.execPath, [CLI, 'chat', 'tiny', ...options, '--data', net.peer(0).dataDir, '--json'])
    const turn = z.object({ text: z.string(), tokens: z.int(), stages: z.array(stagePlan) }).loose().parse(JSON.parse(stdout))
    assert.ok(turn.tokens <= TOKENS)
    const shown = await run(process.execPath, [CLI, 'chat', 'tiny', ...options, '--peer', net.peer(1).http])
    assert.equal(shown.stdout, `${turn.text}\n`)
    assert.match(shown.stderr, /tokens, .* a second/)
    // The model's own top-k of 40 says nothing at temperature 0.
    assert.equal(turn.text, words)
  })

  it('on, when a stage\'s host dies in the middle of a sentence', async () => {
    const words = await expected()
    await standbysBack()
    const victim = await strikeMidway(({ index }) => net.kill(index))
    assert.equal(victim.text, words)
    await net.up(victim.index)
  })

  it('on, when the instances of a stage\'s host answer nothing any more and do not die', async () => {
    const words = await expected()
    await standbysBack()
    let stopped: readonly number[] = []
    try {
      const { text: said } = await strikeMidway(async ({ pid }) => {
        stopped = descendants(pid)
        assert.ok(stopped.length > 0)
        for (const each of stopped) process.kill(each, 'SIGSTOP')
      })
      assert.equal(said, words)
    } finally {
      for (const each of stopped) process.kill(each, 'SIGCONT')
    }
  })

  it('on, when the peer that its client talks to dies: the answer is fetched from another by its id', async () => {
    const words = await expected()
    await standbysBack()
    const [talked, other] = [net.peer(0), net.peer(1)]
    let said = ''
    let id = ''
    let mark = ''
    const response = await fetch(`${talked.http}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ ...greedy, stream: true, resumable: true }) })
    const read = async (from: Response, most: number): Promise<void> => {
      let rest = ''
      for await (const bytes of from.body!.pipeThrough(new TextDecoderStream())) {
        rest += bytes
        const events = rest.split('\n\n')
        rest = events.pop() ?? ''
        for (const event of events) {
          const data = /^data: (\{.*)$/m.exec(event)?.[1]
          if (data === undefined) continue
          const chunk = JSON.parse(data)
          id = chunk.id
          mark = /^id: (.*)$/m.exec(event)?.[1] ?? mark
          said += chunk.choices[0]?.delta.content ?? ''
          if (Number(mark) >= most) return
        }
      }
    }
    await read(response, 5)
    await net.kill(talked.index)
    assert.match(id, /^gen-/)
    await read(await fetch(`${other.http}/v1/chat/completions/${id}`, { headers: { accept: 'text/event-stream', 'last-event-id': mark } }), Infinity)
    assert.equal(said, words)
    await net.up(talked.index)
  })

  it('of embeddings, too: an encoder is imported, run as a block, and asked by any peer', async () => {
    const shape = shapeOf('tiny')
    const encoder = join(dir, 'sentences')
    mkdirSync(encoder)
    writeFileSync(join(encoder, 'model.onnx'), encodeGraph(sentenceEncoderGraph(shape, randomWeights(shape))))
    for (const [name, content] of [['tokenizer.json', tokenizerOf(shape.vocab)], ['tokenizer_config.json', { model_max_length: 128 }], ['config.json', { model_type: 'bert', hidden_size: shape.hidden }]] as const) writeFileSync(join(encoder, name), JSON.stringify(content))
    const uri = await imported(encoder)
    await net.peer(0).client.send('POST', '/mesh/blocks', { spec: { blockId: 'sentences', blockComponentURI: uri, minInstances: 1, maxInstances: 1, policies: {} } })
    const client = openAi(net.peer(1))
    const { data } = await client.embeddings.create({ model: 'sentences', input: ['the licence', 'the licence', 'another text'] })
    assert.equal(data[0]!.embedding.length, shape.hidden)
    assert.deepEqual(data[0]!.embedding, data[1]!.embedding)
    assert.ok(Math.abs(Math.hypot(...data[0]!.embedding) - 1) < 1e-4)
    assert.deepEqual((await client.models.list()).data.map(({ id }) => id).sort(), ['by-hand', 'sentences', 'tiny'])
  })

  /** The plan of the one answer that a peer drives now. */
  async function planOf(peer: DevPeer): Promise<readonly z.infer<typeof stagePlan>[]> {
    const [first] = z.array(z.object({ plan: z.array(stagePlan) }).loose()).parse(await peer.client.get('/mesh/generations'))
    return first?.plan ?? assert.fail('the peer drives nothing')
  }

  /** Does something to the host of a stage when the answer has begun; gives the answer, and which peer it was. */
  async function strikeMidway(strike: (victim: DevPeer) => Promise<void>): Promise<{ readonly text: string; readonly index: number }> {
    // One that hosts both stages would compute them itself, and nobody else could die of it.
    const hosts = (await stagesOf()).flatMap(({ instances }) => instances.map(({ host }) => host))
    const peer = net.running().toSorted((a, b) => hosts.filter(host => host === a.peer).length - hosts.filter(host => host === b.peer).length)[0]!
    let said = ''
    let index: number | undefined
    let pieces = 0
    for await (const chunk of await openAi(peer).chat.completions.create({ ...greedy, stream: true })) {
      said += chunk.choices[0]?.delta.content ?? ''
      pieces += 1
      if (pieces !== 4) continue
      const host = (await planOf(peer)).map(stage => stage.host).find(each => each !== peer.peer)
      const victim = net.running().find(running => running.peer === host) ?? assert.fail(`nobody is ${host}`)
      index = victim.index
      await strike(victim)
    }
    return { text: said, index: index ?? assert.fail('the answer was over before anybody died') }
  }

  async function stagesOf(): Promise<readonly { readonly instances: readonly { readonly state: string; readonly host: string }[] }[]> {
    return z.object({ stages: z.array(z.object({ instances: z.array(z.object({ state: z.string(), host: z.string() })) })) }).parse(await net.peer(1).client.get('/mesh/services/tiny')).stages
  }

  /** Every stage has its standby again. */
  async function standbysBack(): Promise<void> {
    const ends = performance.now() + 120_000
    for (;;) {
      const stages = await stagesOf()
      if (stages.every(({ instances }) => instances.filter(({ state }) => state === 'ready').length >= 2)) return
      assert.ok(performance.now() < ends, JSON.stringify(stages))
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }
})

/** Processes that a process started, and those that they started. */
function descendants(pid: number): readonly number[] {
  const children = readdirSync(`/proc/${pid}/task`).flatMap(task => readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number))
  return [...children, ...children.flatMap(descendants)]
}
