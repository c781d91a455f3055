import assert from 'node:assert/strict'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { getRequestListener } from '@hono/node-server'
import { Hono } from 'hono'
import OpenAI, { APIError } from 'openai'
import { z } from 'zod'
import { MeshError } from '../../../protocols/errors.ts'
import type { Packet } from '../../../protocols/invoke.ts'
import type { ModelManifest, ServedModel } from '../../../protocols/model.ts'
import { checkFence } from '../../../node/adapters/fence.ts'
import { ModelTexts } from '../../../src/llm/text/model-texts.ts'
import { openAiDoor } from '../../../node/gateway/openai/openai-routes.ts'
import type { RunningInstance } from '../../../src/ports.ts'
import { encodeGraph } from '../../fixtures/llm/encode.ts'
import { tokenizerOf } from '../../fixtures/llm/make-model.ts'
import { sentenceEncoderGraph } from '../../fixtures/llm/sentence-encoder.ts'
import { randomWeights, shapeOf } from '../../fixtures/llm/shapes.ts'
import { never, openBench, realClock, type Bench } from '../instance-bundle.ts'
import { ChatSessions } from '../../../sdk/chat-sessions.ts'
import { LanguageModel } from '../../../sdk/language-model.ts'
import { isMeshCode } from '../../llm/mesh-code.ts'
import { byteTokenizer, CHATML } from '../../llm/byte-tokenizer.ts'
import { ScriptedGenerations } from '../../llm/scripted-generations.ts'
import { ModelText } from '../../../src/llm/text/model-text.ts'

const TEMPLATE = CHATML.replace('{% if tools %}', '{# <tool_call> #}{% if tools %}')
const files = byteTokenizer(['Hello', ' world', 'the', ' the', '{"', '"}'], TEMPLATE)
const text = new ModelText(files)
const size = text.size

const served: ServedModel = { service: 'parrot', modelURI: 'parrot:1.0.0-stable', model: 'bafyparrot', stages: [{ block: 'parrot-s0', first: 0, end: 2, componentURI: 'llm.parrot-l0-2:1.0.0-stable', component: 'bafystage' }], contextTokens: 2_000, sessions: 8, standbys: 1, owner: 'peer', revision: 0 }
const cost = { weightBytes: 1, readBytes: 1, flops: 1 }
const manifest: ModelManifest = {
  modelURI: served.modelURI, modelId: { name: 'parrot', version: '1.0.0', releaseTag: 'stable' }, skeleton: { path: 'model.onnx', cid: 'bafyskeleton', size: 1 }, pieces: [{ path: 'p', cid: 'bafypiece', size: 1 }],
  facts: { architecture: 'llama', hidden: 8, vocab: size, contextTokens: 2_000, heads: 1, kvHeads: 1, headDim: 8, weights: 'float32', activations: 'float32', parameters: 1, endTokens: [...text.ends] },
  layers: [0, 1].map(() => ({ ...cost, kvBytes: 1, boundaryBytes: 1, piece: 'p' })), embedding: cost, head: cost, generation: {}, author: 'peer',
  files: Object.keys(files).map(path => ({ path, cid: path, size: 1 })),
}
const contents: Readonly<Record<string, string>> = Object.fromEntries(Object.entries(files).map(([path, file]) => [path, JSON.stringify(file)]))

function encoderFiles(): Readonly<Record<string, string | Uint8Array>> {
  const shape = shapeOf('tiny')
  return { 'model.onnx': encodeGraph(sentenceEncoderGraph(shape, randomWeights(shape))), 'tokenizer.json': JSON.stringify(tokenizerOf(shape.vocab)) }
}

/** What the scripted model says to a prompt. */
function script(prompt: string): string {
  if (prompt.includes('everywhere')) return ['Bonn', 'Rome'].map(city => `<tool_call>\n{"name": "weather", "arguments": {"city": "${city}"}}\n</tool_call>`).join('\n')
  if (prompt.includes('weather')) return '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'
  if (prompt.includes('count')) return 'one two three four five six seven eight nine ten'
  return 'Hello world, the parrot 😀 says'
}

const weather = { type: 'function', function: { name: 'weather', description: 'the weather of a city', parameters: { type: 'object', required: ['city'], properties: { city: { type: 'string', maxLength: 12 } } } } } as const

describe('OpenAI\'s own client', () => {
  let server: Server
  let url: string
  let client: OpenAI
  let generations: ScriptedGenerations
  let bench: Bench
  const counted = new Map<string, number>()
  let encoder: RunningInstance

  before(async function () {
    this.timeout(60_000)
    bench = await openBench({ isolation: (await checkFence()).ok ? 'L1' : 'L0' })
    const request = bench.request({ files: encoderFiles(), runtime: { name: 'onnx', model: 'model.onnx' }, initData: { embeddings: { shortens: true } } })
    encoder = await bench.backend.start(request, never)
    const echo = { ...request.block, blockId: 'echo', initData: {} }
    const blocks = new Map([['encoder', { ...request.block, blockId: 'encoder' }], ['echo', echo]])
    const catalogue = { block: async (id: string) => blocks.get(id), blocks: async () => [...blocks.values()] }
    async function * infer(block: string, packet: Packet): AsyncGenerator<Packet> {
      if (block === 'encoder') yield * encoder.infer(packet, never)
      else yield { ...packet, data: { object: 'chat.completion', heard: packet.data } }
    }
    const app = new Hono()
    generations = new ScriptedGenerations(text, script)
    const models = {
      served: async (name: string) => (name === 'parrot' ? served : undefined), services: async () => [served],
      modelByCid: async (cid: string) => {
        if (cid !== served.model) throw new MeshError('NOT_FOUND', cid)
        return manifest
      },
    }
    async function * cat(cid: string): AsyncGenerator<Uint8Array> {
      yield new TextEncoder().encode(contents[cid] ?? '')
    }
    app.route('/v1', openAiDoor({ models, catalogue, invoker: { infer }, generations, texts: new ModelTexts(models, { cat }, realClock), random: { below: () => 7 }, clock: realClock, view: { instancesOf: () => [] }, telemetry: { count: (name, _labels, by) => void counted.set(name, (counted.get(name) ?? 0) + (by ?? 1)), gauge() {}, observe: name => void counted.set(name, (counted.get(name) ?? 0) + 1), event() {} } }))
    server = createServer(getRequestListener(app.fetch))
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
    client = new OpenAI({ baseURL: url, apiKey: 'anything', maxRetries: 0 })
  })
  beforeEach(() => {
    generations.gate = async () => undefined
  })
  after(async () => {
    server.closeAllConnections()
    server.close()
    await encoder[Symbol.asyncDispose]()
    await bench[Symbol.asyncDispose]()
  })

  const hello = [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Hi' }] as const
  const refused = async (call: Promise<unknown>, status: number, says: RegExp, more: { readonly param?: string; readonly code?: string } = {}): Promise<void> => {
    await assert.rejects(call, error => {
      assert.ok(error instanceof APIError, String(error))
      assert.equal(error.status, status, error.message)
      assert.match(error.message, says)
      if (more.param !== undefined) assert.equal(error.param, more.param)
      if (more.code !== undefined) assert.equal(error.code, more.code)
      return true
    })
  }

  it('chats: one answer, with usage and an id of its own', async () => {
    const answer = await client.chat.completions.create({ model: 'parrot', messages: [...hello], temperature: 0 })
    assert.equal(answer.object, 'chat.completion')
    assert.match(answer.id, /^gen-/)
    assert.equal(answer.choices[0]?.message.content, 'Hello world, the parrot 😀 says')
    assert.equal(answer.choices[0].finish_reason, 'stop')
    assert.equal(answer.usage?.total_tokens, answer.usage!.prompt_tokens + answer.usage!.completion_tokens)
    assert.ok(answer.usage.prompt_tokens > 10)
  })

  it('streams: the same text in pieces, whole characters only, and the usage last', async () => {
    const stream = await client.chat.completions.create({ model: 'parrot', messages: [...hello], temperature: 0, stream: true, stream_options: { include_usage: true } })
    const chunks = []
    for await (const chunk of stream) chunks.push(chunk)
    assert.equal(chunks[0]?.choices[0]?.delta.role, 'assistant')
    const pieces = chunks.flatMap(chunk => chunk.choices[0]?.delta.content ?? [])
    assert.equal(pieces.join(''), 'Hello world, the parrot 😀 says')
    assert.ok(pieces.length > 5)
    assert.ok(pieces.every(piece => piece.isWellFormed() && !piece.includes('\ufffd')))
    assert.equal(chunks.at(-2)?.choices[0]?.finish_reason, 'stop')
    assert.deepEqual(chunks.at(-1)?.choices, [])
    assert.ok(chunks.at(-1)!.usage!.completion_tokens > 5)
    assert.equal(new Set(chunks.map(({ id }) => id)).size, 1)
  })

  it('reads the stream with its helper, too', async () => {
    const runner = client.chat.completions.stream({ model: 'parrot', messages: [...hello], temperature: 0 })
    assert.equal(await runner.finalContent(), 'Hello world, the parrot 😀 says')
  })

  it('asks for several answers', async () => {
    const answer = await client.chat.completions.create({ model: 'parrot', messages: [...hello], n: 3, temperature: 0 })
    assert.deepEqual(answer.choices.map(({ index }) => index), [0, 1, 2])
    assert.equal(answer.id.split('.').length, 3)
    const stream = await client.chat.completions.create({ model: 'parrot', messages: [...hello], n: 2, temperature: 0, stream: true })
    const texts = ['', '']
    for await (const { choices } of stream) for (const { index, delta } of choices) texts[index] += delta.content ?? ''
    assert.deepEqual(texts, ['Hello world, the parrot 😀 says', 'Hello world, the parrot 😀 says'])
  })

  it('stops at a stop string, at max_tokens, and at max_completion_tokens', async () => {
    const stopped = await client.chat.completions.create({ model: 'parrot', messages: [...hello], temperature: 0, stop: [' parrot'] })
    assert.equal(stopped.choices[0]?.message.content, 'Hello world, the')
    assert.equal(stopped.choices[0].finish_reason, 'stop')
    for (const limit of [{ max_tokens: 3 }, { max_completion_tokens: 3 }]) {
      const cut = await client.chat.completions.create({ model: 'parrot', messages: [...hello], temperature: 0, ...limit })
      assert.equal(cut.choices[0]?.finish_reason, 'length')
      assert.equal(cut.usage?.completion_tokens, 3)
    }
  })

  it('reports log-probabilities of tokens and their alternatives', async () => {
    const answer = await client.chat.completions.create({ model: 'parrot', messages: [...hello], temperature: 0, logprobs: true, top_logprobs: 3 })
    const content = answer.choices[0]?.logprobs?.content ?? []
    assert.equal(content.length, answer.usage?.completion_tokens)
    assert.equal(content[0]?.token, 'Hello')
    assert.ok(content[0].logprob <= 0 && content[0].logprob > -0.1)
    assert.equal(content[0].top_logprobs.length, 3)
    assert.deepEqual(new TextDecoder().decode(Uint8Array.from(content.flatMap(({ bytes }) => bytes ?? []))), answer.choices[0]?.message.content)
  })

  it('draws the same again for the same seed', async () => {
    const drawn = async (seed: number): Promise<string | null | undefined> => (await client.chat.completions.create({ model: 'parrot', messages: [...hello], temperature: 2, seed, max_tokens: 20, top_p: 0.99 })).choices[0]?.message.content
    assert.equal(await drawn(5), await drawn(5))
  })

  it('calls tools that the model chose, whole and streamed', async () => {
    const asked = { model: 'parrot', messages: [{ role: 'user' as const, content: 'weather?' }], tools: [weather], temperature: 0 }
    const answer = await client.chat.completions.create(asked)
    assert.equal(answer.choices[0]?.finish_reason, 'tool_calls')
    assert.equal(answer.choices[0].message.content, null)
    const [call] = answer.choices[0].message.tool_calls ?? []
    assert.deepEqual(call?.type === 'function' ? call.function : undefined, { name: 'weather', arguments: '{"city":"Bonn"}' })
    const stream = client.chat.completions.stream(asked)
    const streamed = await stream.finalChatCompletion()
    assert.deepEqual(streamed.choices[0]?.message.tool_calls?.map(tool => (tool.type === 'function' ? [tool.function.name, tool.function.arguments] : [])), [['weather', '{"city":"Bonn"}']])
    const goesOn = await client.chat.completions.create({ ...asked, messages: [...asked.messages, { role: 'assistant', content: null, tool_calls: [call!] }, { role: 'tool', tool_call_id: call!.id, content: 'sunny' }], tool_choice: 'none' })
    assert.ok(goesOn.choices[0]?.message.tool_calls === undefined)
  })

  it('forces a tool by name, whatever the model would have said', async () => {
    for (const choice of ['required', { type: 'function', function: { name: 'weather' } }] as const) {
      const answer = await client.chat.completions.create({ model: 'parrot', messages: [{ role: 'user', content: 'count' }], tools: [weather], tool_choice: choice, temperature: 1, seed: 3 })
      const [call] = answer.choices[0]?.message.tool_calls ?? []
      assert.ok(call?.type === 'function' && call.function.name === 'weather')
      assert.equal(typeof JSON.parse(call.function.arguments).city, 'string')
    }
    await refused(client.chat.completions.create({ model: 'parrot', messages: [...hello], tools: [weather], tool_choice: { type: 'function', function: { name: 'other' } } }), 400, /no tool other/, { param: 'tool_choice' })
  })

  it('calls one tool or several at once, of all or of those that are allowed', async () => {
    const other = { type: 'function', function: { name: 'other', description: null, parameters: null } } as never
    const asked = { model: 'parrot', messages: [{ role: 'user' as const, content: 'everywhere' }], tools: [weather, other], temperature: 0 }
    const cities = async (more: object): Promise<readonly string[]> => {
      const whole = await client.chat.completions.create({ ...asked, ...more })
      const streamed = await client.chat.completions.stream({ ...asked, ...more }).finalChatCompletion()
      const [first, second] = [whole, streamed].map(({ choices }) => (choices[0]?.message.tool_calls ?? []).map(call => (call.type === 'function' ? call.function.arguments : '')))
      assert.deepEqual(first, second)
      return first ?? []
    }
    assert.deepEqual(await cities({}), ['{"city":"Bonn"}', '{"city":"Rome"}'])
    assert.deepEqual(await cities({ parallel_tool_calls: false }), ['{"city":"Bonn"}'])
    const allowed = (mode: 'auto' | 'required', name: string) => ({ tool_choice: { type: 'allowed_tools', allowed_tools: { mode, tools: [{ type: 'function', function: { name } }] } } })
    assert.deepEqual(await cities(allowed('auto', 'other')), [])
    assert.equal((await cities(allowed('auto', 'weather'))).length, 2)
    assert.equal((await cities({ ...allowed('required', 'weather'), seed: 5 })).length, 1)
    await refused(client.chat.completions.create({ ...asked, ...allowed('auto', 'third') } as never), 400, /no tool third/, { param: 'tool_choice' })
  })

  it('reads what clients send on: answers with fields of nothing, a developer\'s words, the greatest seed', async () => {
    const before = { role: 'assistant', content: 'Hi', refusal: null, tool_calls: null, function_call: null, audio: null, annotations: [] } as never
    const ask = (role: 'system' | 'developer') => client.chat.completions.create({ model: 'parrot', messages: [{ role, content: 'Be brief.' }, before, { role: 'user', content: 'count' }], temperature: 0, prediction: { type: 'content', content: 'one' } })
    const [bySystem, byDeveloper] = [await ask('system'), await ask('developer')]
    assert.equal(byDeveloper.usage?.prompt_tokens, bySystem.usage?.prompt_tokens)
    const several = await client.chat.completions.create({ model: 'parrot', messages: [...hello], n: 3, seed: Number.MAX_SAFE_INTEGER })
    assert.equal(several.choices.length, 3)
    assert.equal((await client.completions.create({ model: 'parrot', prompt: 'Once', suffix: '', temperature: 0 })).choices.length, 1)
  })

  it('holds answers to a JSON schema, and refuses keywords that cannot be kept', async () => {
    const schema = { type: 'object', required: ['name', 'age'], additionalProperties: false, properties: { name: { type: 'string', maxLength: 8 }, age: { type: 'integer', minimum: 0, maximum: 99 } } }
    for (const seed of [1, 2, 3]) {
      const answer = await client.chat.completions.create({ model: 'parrot', messages: [...hello], seed, response_format: { type: 'json_schema', json_schema: { name: 'person', strict: true, schema } } })
      const person = JSON.parse(answer.choices[0]?.message.content ?? '')
      assert.ok(typeof person.name === 'string' && Number.isInteger(person.age) && person.age >= 0 && person.age <= 99)
    }
    await refused(client.chat.completions.create({ model: 'parrot', messages: [...hello], response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'array', uniqueItems: true } } } }), 400, /uniqueItems/)
  })

  it('completes prompts: text, tokens, several at once, echoed, with log-probabilities', async () => {
    const one = await client.completions.create({ model: 'parrot', prompt: 'Once', temperature: 0, max_tokens: 50, logprobs: 2 })
    assert.equal(one.object, 'text_completion')
    assert.equal(one.choices[0]?.text, 'Hello world, the parrot 😀 says')
    assert.equal(one.choices[0].logprobs?.tokens?.[0], 'Hello')
    assert.deepEqual(one.choices[0].logprobs?.text_offset?.slice(0, 2), [0, 5])
    assert.equal((await client.completions.create({ model: 'parrot', prompt: 'Once', temperature: 0 })).usage?.completion_tokens, 16)
    const several = await client.completions.create({ model: 'parrot', prompt: ['count', 'Hi'], n: 2, temperature: 0, max_tokens: 60, echo: true })
    assert.deepEqual(several.choices.map(choice => choice.text.slice(0, 8)), ['countone', 'countone', 'HiHello ', 'HiHello '])
    const tokens = await client.completions.create({ model: 'parrot', prompt: [...text.encode('count', false)], temperature: 0, max_tokens: 60 })
    assert.match(tokens.choices[0]!.text, /^one two/)
    let streamed = ''
    for await (const chunk of await client.completions.create({ model: 'parrot', prompt: 'count', temperature: 0, max_tokens: 60, stream: true })) streamed += chunk.choices[0]?.text ?? ''
    assert.equal(streamed, script('count'))
    await refused(client.completions.create({ model: 'parrot', prompt: 'a', suffix: 'b' }), 400, /suffix/, { param: 'suffix' })
    await refused(client.completions.create({ model: 'parrot', prompt: [size + 5] }), 400, /no token/, { param: 'prompt' })
  })

  it('lists the models, and knows one by name', async () => {
    const listed = await client.models.list()
    assert.deepEqual(listed.data.map(({ id, object }) => [id, object]), [['parrot', 'model'], ['encoder', 'model']])
    assert.equal((await client.models.retrieve('encoder')).id, 'encoder')
    assert.equal((await client.models.retrieve('parrot')).id, 'parrot')
    await refused(client.models.retrieve('crow'), 404, /crow/, { code: 'model_not_found' })
  })

  it('turns text into tokens and back, and says who computes a model', async () => {
    const post = async (path: string, body: object): Promise<Readonly<Record<string, unknown>>> => await (await fetch(`${url}/${path}`, { method: 'POST', body: JSON.stringify({ model: 'parrot', ...body }) })).json() as Readonly<Record<string, unknown>>
    const { tokens, count } = await post('tokenize', { prompt: 'Hello world' })
    assert.deepEqual([tokens, count], [text.encode('Hello world', true), 2])
    assert.deepEqual(await post('detokenize', { tokens }), { prompt: 'Hello world' })
    assert.deepEqual((await post('tokenize', { messages: hello }))['tokens'], text.prompt({ messages: [...hello] }))
    const info = await (await fetch(`${url}/models/parrot`)).json() as Readonly<Record<string, unknown>>
    assert.deepEqual([info['chat'], info['tokenizer'], info['stages']], [true, true, [{ block: 'parrot-s0', first: 0, end: 2, hosts: [] }]])
  })

  it('is counted in AIOS\'s metrics', async () => {
    const before = new Map(counted)
    const { usage } = await client.chat.completions.create({ model: 'parrot', messages: [...hello], temperature: 0 })
    const rose = (name: string): number => (counted.get(name) ?? 0) - (before.get(name) ?? 0)
    assert.deepEqual(['llm_prompts_total', 'llm_prompt_tokens_total', 'llm_tokens_generated_total', 'llm_time_to_first_token_seconds', 'llm_inference_duration_seconds'].map(rose), [1, usage!.prompt_tokens, usage!.completion_tokens, 1, 1])
  })

  it('is not the only client: the SDK generates, streams, chats in sessions, embeds and tokenises over the same door', async () => {
    const model = new LanguageModel({ model: 'parrot', url: url.replace(/\/v1$/, '') })
    const words = 'Hello world, the parrot 😀 says'
    assert.equal((await model.generate('Once', { temperature: 0, max_tokens: 50 })).text, words)
    let streamed = ''
    for await (const piece of model.stream('Once', { temperature: 0, max_tokens: 50 })) streamed += piece
    assert.equal(streamed, words)
    assert.deepEqual((await model.chat([{ role: 'user', content: 'weather?' }], { temperature: 0, tools: [z.json().parse(weather)] })).toolCalls, [{ name: 'weather', arguments: '{"city":"Bonn"}' }])
    const chats = new ChatSessions(model)
    chats.create('one', { system: 'Be brief.', contextTokens: 90 })
    for (const said of ['Hi', 'again', 'and again']) {
      chats.add('one', 'user', said)
      assert.equal((await chats.run('one', { temperature: 0 })).text, words)
    }
    assert.deepEqual(chats.turns('one').slice(-2), [{ role: 'user', content: 'and again' }, { role: 'assistant', content: words }])
    assert.ok(chats.turns('one').length < 7, 'the oldest turns are left out')
    assert.deepEqual([chats.remove('one'), chats.ids], [true, []])
    assert.equal(await model.detokenize(await model.tokenize('Hello world')), 'Hello world')
    assert.equal(await model.supportsChat(), true)
    assert.equal((await new LanguageModel({ model: 'encoder', url: url.replace(/\/v1$/, '') }).embed(['a', 'b'])).length, 2)
    await assert.rejects(new LanguageModel({ model: 'crow', url: url.replace(/\/v1$/, '') }).generate('x'), isMeshCode('NOT_FOUND', /crow/))
    const { llm_prompts_total: prompts, llm_active_sessions: active } = model.metrics.snapshot()
    assert.deepEqual([prompts, active], [{ type: 'counter', series: [{ labels: {}, value: 6 }] }, { type: 'gauge', series: [{ labels: {}, value: 0 }] }])
  })

  it('embeds texts, lists and tokens, as numbers and packed, and shorter where that makes sense', async () => {
    const one = await client.embeddings.create({ model: 'encoder', input: 'the licence' })
    const width = one.data[0]!.embedding.length
    assert.ok(width > 8 && Math.abs(Math.hypot(...one.data[0]!.embedding) - 1) < 1e-5)
    assert.ok(one.usage.prompt_tokens > 0)
    const many = await client.embeddings.create({ model: 'encoder', input: Array.from({ length: 150 }, (_, at) => `text ${at}`), encoding_format: 'float' })
    assert.deepEqual(many.data.map(({ index }) => index), Array.from({ length: 150 }, (_, at) => at))
    const again = await client.embeddings.create({ model: 'encoder', input: 'text 149', encoding_format: 'float' })
    assert.ok(again.data[0]!.embedding.every((value, at) => Math.abs(value - many.data[149]!.embedding[at]!) < 1e-5))
    assert.equal((await client.embeddings.create({ model: 'encoder', input: [[1, 2, 3], [4]] })).data.length, 2)
    const short = await client.embeddings.create({ model: 'encoder', input: 'the licence', dimensions: 8 })
    assert.ok(short.data[0]!.embedding.length === 8 && Math.abs(Math.hypot(...short.data[0]!.embedding) - 1) < 1e-5)
    await refused(client.embeddings.create({ model: 'encoder', input: 'x', dimensions: width + 1 }), 400, /vectors of/, { param: 'dimensions' })
    await refused(client.embeddings.create({ model: 'crow', input: 'x' }), 404, /crow/, { code: 'model_not_found' })
    await refused(client.embeddings.create({ model: 'echo', input: 'x' }), 400, /no model of embeddings/)
    await refused(client.chat.completions.create({ model: 'encoder', messages: [...hello] }), 400, /model of embeddings/)
  })

  it('reaches a block that speaks OpenAI itself with the request as it came', async () => {
    const answer: unknown = await client.chat.completions.create({ model: 'echo', messages: [...hello], custom: 1 } as never)
    assert.deepEqual(answer, { object: 'chat.completion', heard: { model: 'echo', messages: [...hello], custom: 1 } })
  })

  it('gives AIOS\'s clients, whose messages are what their block takes, a chat completion of its answer', async () => {
    const { id, object, choices } = await client.chat.completions.create({ model: 'echo', session_id: 's-1', seq_no: 7, messages: { mode: 'chat', message: 'hello' }, graph: {}, selection_query: {} } as never)
    assert.deepEqual({ id, object, content: choices[0]?.message.content }, { id: 'chatcmpl-s-1-7', object: 'chat.completion', content: { object: 'chat.completion', heard: { mode: 'chat', message: 'hello' } } })
  })

  it('hears errors as OpenAI words them', async () => {
    await refused(client.chat.completions.create({ model: 'crow', messages: [...hello] }), 404, /`crow` does not exist/, { code: 'model_not_found', param: 'model' })
    await refused(client.embeddings.create({ model: 'crow', input: 'a' }), 404, /`crow` does not exist/, { code: 'model_not_found', param: 'model' })
    await refused(client.embeddings.create({ model: 'parrot', input: 'a' }), 400, /no model of embeddings/, { param: 'model' })
    await refused(client.chat.completions.create({ model: 'parrot', messages: [] }), 400, /messages/, { param: 'messages' })
    await refused(client.chat.completions.create({ model: 'parrot', messages: [...hello], temperature: 9 }), 400, /temperature/, { param: 'temperature' })
    await refused(client.chat.completions.create({ model: 'parrot', messages: [...hello], colour: 'red' } as never), 400, /Unrecognized request argument supplied: colour/, { param: 'colour' })
    await refused(client.chat.completions.create({ model: 'parrot', messages: [{ role: 'user', content: 'long '.repeat(3_000) }] }), 400, /context is 2000 tokens/, { code: 'context_length_exceeded' })
    await refused(client.chat.completions.create({ model: 'parrot', messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:' } }] }] }), 400, /text only/)
  })

  /** Lets so many tokens out, then waits. */
  const hold = (tokens: number): { readonly release: () => void } => {
    const { promise, resolve } = Promise.withResolvers<void>()
    generations.gate = index => (index < tokens ? Promise.resolve() : promise)
    return { release: resolve }
  }

  it('cancels what its client no longer waits for, unless that said it may come back', async () => {
    for (const resumable of [false, true]) {
      const held = hold(4)
      const stop = new AbortController()
      const stream = await client.chat.completions.create({ model: 'parrot', messages: [...hello], temperature: 0, stream: true, ...(resumable ? { resumable } : {}) }, { signal: stop.signal })
      let id = ''
      for await (const chunk of stream) {
        id = chunk.id
        if (chunk.choices[0]?.delta.content?.includes('world') === true) break
      }
      const session = generations.sessions.get(id)!
      stop.abort()
      const deadline = performance.now() + 5_000
      while (!resumable && !session.cancelled && performance.now() < deadline) await new Promise(resolve => setImmediate(resolve))
      assert.equal(session.cancelled, !resumable)
      held.release()
    }
  })

  it('comes back for an answer by its id, whole or from where it was', async () => {
    const whole = await client.chat.completions.create({ model: 'parrot', messages: [...hello], temperature: 0 })
    const again = await client.chat.completions.retrieve(whole.id)
    assert.deepEqual([again.id, again.choices[0]?.message.content, again.usage], [whole.id, whole.choices[0]?.message.content, whole.usage])
    const events = (await (await fetch(`${url}/chat/completions/${whole.id}?stream=true`)).text()).split('\n\n').map(event => ({ id: /^id: (.*)$/m.exec(event)?.[1], data: /^data: (.*)$/m.exec(event)?.[1] ?? '' }))
    const contentOf = (data: string): string => (data === '[DONE]' || data === '' ? '' : JSON.parse(data).choices[0]?.delta.content ?? '')
    assert.equal(events.at(-2)?.data, '[DONE]')
    for (const [at, { id }] of events.entries()) {
      if (id === undefined) continue
      const rest = await (await fetch(`${url}/chat/completions/${whole.id}`, { headers: { 'last-event-id': id } })).text()
      const texts = rest.split('\n\n').map(event => contentOf(/^data: (.*)$/m.exec(event)?.[1] ?? ''))
      assert.equal(events.slice(0, at + 1).map(({ data }) => contentOf(data)).join('') + texts.join(''), whole.choices[0]?.message.content)
    }
    await refused(client.chat.completions.retrieve('gen-none'), 404, /gen-none/)
    assert.equal((await fetch(`${url}/chat/completions/gen-none?after=3`)).status, 404)
    assert.equal((await client.chat.completions.delete(whole.id)).deleted, true)
  })
})
