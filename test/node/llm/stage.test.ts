import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import type { MeshError } from '../../../protocols/errors.ts'
import { checkFence, type Isolation } from '../../../node/adapters/fence.ts'
import { integers, intAttribute, node, renamed } from '../../../src/llm/onnx/node.ts'
import type { VariantName } from '../../fixtures/llm/decoder.ts'
import { forOneToken } from '../../llm/onnx/for-one-token.ts'
import { WholeModel } from '../../llm/whole-model.ts'
import { answers, never, openBench, packetOf, type Bench } from '../instance-bundle.ts'
import { feed, generate, modelFor, promptOf, stageParts, startStage, through, type Model, type Served } from './stage-bundle.ts'

const code = (error: unknown) => (error as MeshError).code
const TOKENS = 24

/** Processes that this one has started. */
function children(): readonly number[] {
  return readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').split(' ').filter(pid => pid !== '').map(Number)
}

/** The second number of the GNU C library's version; 0 with another library. */
function glibc(): number {
  const { header } = process.report.getReport() as { readonly header: { readonly glibcVersionRuntime?: string } }
  return Number(header.glibcVersionRuntime?.split('.')[1] ?? 0)
}

/** Bit for bit; says where not, instead of printing all of both. */
function assertSame(actual: Uint8Array | Float32Array | undefined, expected: Uint8Array | Float32Array | undefined): void {
  assert.ok(actual !== undefined && expected !== undefined, 'there is nothing to compare')
  assert.equal(actual.length, expected.length)
  const differ = [...actual].filter((value, at) => !Object.is(value, expected[at])).length
  assert.equal(differ, 0, `${differ} of ${actual.length} numbers differ`)
}

/** Everything about a stage that is not about the operators it was written in. */
const VARIANTS: readonly VariantName[] = ['fused-q4', 'fused-q4-accurate', 'fused', 'fused-q4f16', 'fused-fp16', 'fused-q8', 'plain', 'plain-int8']

describe('stages in instances', () => {
  let bench: Bench
  before(async () => {
    const isolation: Isolation = (await checkFence()).ok ? 'L1' : 'L0'
    bench = await openBench({ isolation })
  })
  after(() => bench[Symbol.asyncDispose]())

  for (const variant of VARIANTS) {
    it(`give the whole model's tokens, alone and together: ${variant}`, async () => {
      using model = await modelFor({ variant })
      await using first = await startStage(bench, await stageParts(model, 0, 3, 4_096))
      await using last = await startStage(bench, await stageParts(model, 3, model.layers, 4_096))
      const stages = [first.stage, last.stage]
      const whole = await WholeModel.open(model.directory)
      const prompts = Array.from({ length: 6 }, (_, index) => promptOf(3 + 9 * index, index, model.vocab))
      for (const [index] of prompts.entries()) for (const stage of stages) await stage.open(`s${index}`, 200, [])
      const together = await Promise.all(prompts.map((prompt, index) => generate(stages, `s${index}`, prompt, TOKENS)))
      for (const [index, prompt] of prompts.entries()) assert.deepEqual(together[index], await whole.greedy(prompt, TOKENS), `prompt ${index}`)
      await whole.close()
    }).timeout(60_000)
  }
})

describe('a stage of a graph that was made for one new token', () => {
  /** The tokens of two stages. */
  const split = async (model: Model): Promise<readonly number[]> => {
    await using bench = await openBench({ isolation: (await checkFence()).ok ? 'L1' : 'L0' })
    await using first = await startStage(bench, await stageParts(model, 0, 3, 256))
    await using last = await startStage(bench, await stageParts(model, 3, model.layers, 256))
    const stages = [first.stage, last.stage]
    for (const stage of stages) await stage.open('s', 100, [])
    return await generate(stages, 's', promptOf(21, 1, model.vocab), TOKENS)
  }
  const expected = async (model: Model): Promise<readonly number[]> => {
    const whole = await WholeModel.open(model.directory)
    const tokens = await whole.greedy(promptOf(21, 1, model.vocab), TOKENS)
    await whole.close()
    return tokens
  }

  it('computes prompts in chunks, where what is ahead can be masked, and gives the tokens of the whole model, which has another graph for them', async () => {
    using merged = await modelFor({ variant: 'plain-merged' })
    assert.equal(merged.open.analysis.oneByOne, false)
    using model = await modelFor({ variant: 'plain-merged' }, forOneToken)
    assert.equal(model.open.analysis.oneByOne, false)
    assert.deepEqual(await split(model), await expected(model))
  }).timeout(60_000)

  it('computes them token by token where it cannot be masked, or where the graph holds in some shape that it is one', async () => {
    for (const oneByOne of [true, false]) {
      using model = await modelFor({ variant: 'plain-merged' }, made => {
        forOneToken(made)
        const branch = made.graph!.node[0]!.attribute.find(({ name }) => name === 'then_branch')!.g!
        const at = branch.node.findIndex(one => oneByOne ? one.opType === 'Softmax' && one.name.startsWith('/model/layers.1/') : one.name === '/model/layers.1/Add_1')
        const of = branch.node[at]!
        const [out = ''] = of.output
        branch.initializer.push(integers('held', [0, 1, 64]))
        const more = oneByOne ? [node('Softmax', [`${out}/once`], [`${out}/twice`], [intAttribute('axis', -1)]), node('Identity', [`${out}/once`], [out])] : [node('Reshape', [`${out}/once`, 'held'], [out])]
        branch.node.splice(at, 1, renamed(of, name => name === out ? `${out}/once` : name), ...more)
      })
      assert.equal(model.open.analysis.oneByOne, oneByOne)
      assert.deepEqual(await split(model), await expected(model))
    }
  }).timeout(60_000)
})

describe('a stage in an instance', () => {
  let bench: Bench
  let model: Model
  let served: Served
  const stage = () => served.stage
  const start = async (kvTokens: number, initData: Record<string, number> = {}) => startStage(bench, await stageParts(model, 0, model.layers, kvTokens, { initData }))
  before(async () => {
    bench = await openBench({ isolation: (await checkFence()).ok ? 'L1' : 'L0' })
    model = await modelFor({ variant: 'fused-q4' })
    served = await start(4_096)
  })
  after(async () => {
    await served[Symbol.asyncDispose]()
    await bench[Symbol.asyncDispose]()
    model[Symbol.dispose]()
  })

  it('says what it computes', async () => {
    assert.deepEqual(stage().spec, { first: 0, end: 6, layers: 6, vocab: 512, inputBytes: 0, outputBytes: 0, kvBytes: 1_536, contextTokens: 512, kvTokens: 4_096 })
    const { healthy, detail } = await served.instance.health(never)
    assert.equal(healthy, true)
    assert.deepEqual((detail as { readonly layers: unknown }).layers, [0, 6])
    await assert.rejects(answers(served.instance.infer(packetOf('hello'), never)), error => code(error) === 'COMPONENT_ERROR')
  })

  it('asks for large pages where the kernel gives them to who asks, and the C library can: for its weights, not for keys and values', async () => {
    const before = children()
    await using own = await start(64)
    const [pid] = children().filter(child => !before.includes(child))
    assert.equal((await own.instance.health(never)).healthy, true)
    const given = await readFile('/sys/kernel/mm/transparent_hugepage/enabled', 'latin1').catch(() => '')
    const asked = (await readFile(`/proc/${pid}/smaps`, 'latin1')).split('\n').some(line => line.startsWith('VmFlags:') && line.includes(' hg'))
    assert.equal(asked, given.includes('[madvise]') && glibc() >= 35)
    const [, later] = /^THP_enabled:\t(\d)$/m.exec(await readFile(`/proc/${pid}/status`, 'latin1')) ?? []
    assert.equal(later, glibc() === 0 ? later : '0')
  })

  it('computes sessions that decode at the same time in one run, to the same bits as alone', async () => {
    const prompts = Array.from({ length: 8 }, (_, index) => promptOf(4 + 11 * index, index, model.vocab))
    for (const [index, prompt] of prompts.entries()) {
      await stage().open(`b${index}`, 200, [])
      await feed(stage(), `b${index}`, 0, prompt, { want: 'none' })
    }
    const alone = []
    for (const [index, prompt] of prompts.entries()) alone.push(await feed(stage(), `b${index}`, prompt.length, [index + 1], { want: 'logits', kv: true }))
    const together = await Promise.all(prompts.map((prompt, index) => feed(stage(), `b${index}`, prompt.length, [index + 1], { want: 'logits', kv: true })))
    assert.deepEqual(together.map(({ batch }) => batch), prompts.map(() => 8))
    for (const [index, { logits, kv }] of together.entries()) {
      assertSame(logits, alone[index]!.logits)
      assertSame(kv, alone[index]!.kv)
    }
    for (const [index] of prompts.entries()) stage().close(`b${index}`, false)
  })

  it('gives a lone session the same bits as one in company where the runtime has kernels of their own for lone rows', async () => {
    using accurate = await modelFor({ variant: 'fused-q4-accurate' })
    await using own = await startStage(bench, await stageParts(accurate, 0, accurate.layers, 1_024))
    for (const session of ['a', 'b', 'c']) {
      await own.stage.open(session, 100, [])
      await feed(own.stage, session, 0, promptOf(9, 1, accurate.vocab), { want: 'none' })
    }
    const alone = await feed(own.stage, 'a', 9, [7], { want: 'logits' })
    const [together] = await Promise.all(['b', 'a', 'c'].map(session => feed(own.stage, session, 9, [7], { want: 'logits' })))
    assert.deepEqual([alone.batch, together!.batch], [1, 3])
    assertSame(together!.logits, alone.logits)
  })

  it('gives what is wanted of the last position or of each', async () => {
    const prompt = promptOf(12, 3, model.vocab)
    await stage().open('w', 64, [])
    const none = await feed(stage(), 'w', 0, prompt, { want: 'none' })
    assert.deepEqual([none.ids, none.logits, none.kv], [undefined, undefined, undefined])
    const all = await feed(stage(), 'w', 0, prompt, { want: 'logits', rows: 'all', kv: true })
    assert.equal(all.logits?.length, 12 * model.vocab)
    assert.equal(all.kv?.byteLength, 12 * stage().spec.kvBytes)
    const last = await feed(stage(), 'w', 0, prompt, { want: 'logits' })
    assertSame(last.logits, all.logits!.subarray(11 * model.vocab))
    const ids = await feed(stage(), 'w', 0, prompt, { rows: 'all' })
    assert.equal(ids.ids?.length, 12)
    assert.equal(ids.ids[11], last.logits!.indexOf(Math.max(...last.logits!)))
    stage().close('w', false)
  })

  it('computes a long prompt chunk by chunk, while others go on decoding', async () => {
    const long = promptOf(400, 5, model.vocab)
    await stage().open('long', 500, [])
    await stage().open('short', 500, [])
    let { ids } = await feed(stage(), 'short', 0, promptOf(4, 6, model.vocab))
    let done = false
    let between = 0
    const prefill = feed(stage(), 'long', 0, long, { want: 'logits', rows: 'all' }).finally(() => { done = true })
    for (let position = 4; !done; position++) {
      ({ ids } = await feed(stage(), 'short', position, [ids![0]!]))
      if (!done) between++
    }
    assert.ok(between >= 2, `${between} tokens came while a prompt of four chunks was computed`)
    const { logits } = await prefill
    assert.equal(logits?.length, 400 * model.vocab)
    await stage().open('pieces', 500, [])
    for (let from = 0; from < 384; from += 128) await feed(stage(), 'pieces', from, long.slice(from, from + 128), { want: 'none' })
    assertSame((await feed(stage(), 'pieces', 384, long.slice(384), { want: 'logits' })).logits, logits.subarray(399 * model.vocab))
    for (const session of ['long', 'short', 'pieces']) stage().close(session, false)
  })

  it('computes short prompts that come at once before others go on decoding, as long as they are no more than a chunk of a long one', async () => {
    const said: string[] = []
    const names = ['p0', 'p1', 'p2', 'p3', 'p4', 'p5']
    for (const name of ['going', ...names]) await stage().open(name, 100, [])
    await feed(stage(), 'going', 0, promptOf(5, 1, model.vocab), { want: 'none' })
    const going = async () => {
      for (let position = 5; names.some(name => !said.includes(name)); position++) {
        await feed(stage(), 'going', position, [1])
        said.push('going')
      }
    }
    await Promise.all([going(), ...names.map((name, seed) => feed(stage(), name, 0, promptOf(30, seed, model.vocab)).then(() => said.push(name)))])
    // Four of thirty are all that a chunk of 128 holds.
    assert.deepEqual(said.slice(said.indexOf('p0')).slice(0, 7), ['p0', 'p1', 'p2', 'p3', 'going', 'p4', 'p5'])
    for (const name of ['going', ...names]) stage().close(name, false)
  })

  it('forgets from the position of a step on', async () => {
    const prompt = promptOf(30, 7, model.vocab)
    await stage().open('t', 100, [])
    await stage().open('u', 100, [])
    await feed(stage(), 't', 0, promptOf(60, 8, model.vocab), { want: 'none' })
    assert.equal(stage().position('t'), 60)
    const again = await feed(stage(), 't', 0, prompt, { want: 'logits' })
    assert.equal(stage().position('t'), 30)
    assertSame(again.logits, (await feed(stage(), 'u', 0, prompt, { want: 'logits' })).logits)
    // The same shapes: the last bits of a position depend on how many are computed with it.
    for (const tokens of [[5], [6], [7]]) await feed(stage(), 't', 30, tokens, { want: 'none' })
    await feed(stage(), 'u', 30, [7], { want: 'none' })
    assertSame((await feed(stage(), 't', 31, [9], { want: 'logits' })).logits, (await feed(stage(), 'u', 31, [9], { want: 'logits' })).logits)
    await assert.rejects(feed(stage(), 't', 40, [1]), (error: MeshError) => error.code === 'BAD_INPUT' && /position 40 is beyond the 32/.test(error.message))
    for (const session of ['t', 'u']) stage().close(session, false)
  })

  it('hands its keys and values to another that goes on bit for bit, whatever room and neighbours either has', async () => {
    await using other = await start(2_048)
    const prompt = promptOf(70, 9, model.vocab)
    await stage().open('from', 300, [])
    await other.stage.open('elsewhere', 400, [])
    await feed(other.stage, 'elsewhere', 0, promptOf(200, 1, model.vocab), { want: 'none' })
    await feed(other.stage, 'elsewhere', 200, [1])
    await other.stage.open('to', 100, [])
    const rows = [(await feed(stage(), 'from', 0, prompt, { kv: true })).kv!]
    for (let position = 70; position < 76; position++) rows.push((await feed(stage(), 'from', position, [position], { kv: true })).kv!)
    await other.stage.writeKv('to', 0, 76, Buffer.concat(rows))
    assertSame(await other.stage.readKv('to', 0, 76), await stage().readKv('from', 0, 76))
    assertSame(await stage().readKv('from', 3, 2), Buffer.concat(rows).subarray(3 * 1_536, 5 * 1_536))
    const go = async (runner: typeof served.stage, session: string) => {
      const out: (Float32Array | undefined)[] = []
      for (let position = 76; position < 90; position++) out.push((await feed(runner, session, position, [position], { want: 'logits' })).logits)
      return out
    }
    const [ours, theirs] = await Promise.all([go(stage(), 'from'), go(other.stage, 'to')])
    for (const [index, logits] of theirs.entries()) assertSame(logits, ours[index])
    await assert.rejects(other.stage.readKv('to', 80, 20), error => code(error) === 'BAD_INPUT')
    await assert.rejects(other.stage.writeKv('to', 95, 2, rows[0]!.subarray(0, 3_072)), error => code(error) === 'BAD_INPUT')
    await assert.rejects(other.stage.writeKv('to', 0, 1, rows[0]!.subarray(0, 100)), error => code(error) === 'BAD_INPUT')
    stage().close('from', false)
  })

  it('takes over what sessions before computed of the same prompt, to the same bits', async () => {
    const prompt = promptOf(200, 11, model.vocab)
    const hashes = ['h1', 'h2', 'h3']
    assert.deepEqual(await stage().open('p1', 300, hashes), { have: 0 })
    for (const [from, to] of [[0, 128], [128, 200]] as const) await feed(stage(), 'p1', from, prompt.slice(from, to), { want: 'none' })
    // It is still open, and already of use.
    assert.deepEqual(await stage().open('p2', 300, hashes), { have: 192 })
    const reference = (await feed(stage(), 'p1', 192, prompt.slice(192), { want: 'logits' })).logits
    assertSame((await feed(stage(), 'p2', 192, prompt.slice(192), { want: 'logits' })).logits, reference)
    stage().close('p1', true)
    stage().close('p2', false)
    assert.deepEqual(await stage().open('p3', 300, ['h1', 'h2', 'other']), { have: 128 })
    assert.deepEqual(await stage().open('p4', 300, hashes), { have: 192 })
    assertSame((await feed(stage(), 'p4', 192, prompt.slice(192), { want: 'logits' })).logits, reference)
    assert.deepEqual(await stage().open('p5', 100, hashes), { have: 64 })
    for (const session of ['p3', 'p4', 'p5']) stage().close(session, false)
    assert.deepEqual(await stage().open('p6', 300, ['unknown', 'h2']), { have: 0 })
    stage().close('p6', false)
  })

  it('admits no more than it has room for, and gives up the longest unused prompts first', async () => {
    await using small = await start(4_096, { kvTokens: 512 })
    const { stage: runner } = small
    assert.equal(runner.spec.kvTokens, 512)
    await runner.open('a', 300, ['a1', 'a2'])
    await assert.rejects(runner.open('b', 300, []), (error: MeshError) => error.code === 'NO_CAPACITY' && error.retryable && /212 of 512/.test(error.message))
    assert.deepEqual(runner.load(), { sessions: 1, freeTokens: 212, waiting: 0 })
    await feed(runner, 'a', 0, promptOf(128, 1, model.vocab), { want: 'none' })
    runner.close('a', true)
    assert.equal(runner.load().freeTokens, 512)
    await runner.open('c', 448, [])
    runner.close('c', false)
    // 64 positions were left for what was kept: the beginning of the prompt.
    assert.deepEqual(await runner.open('d', 300, ['a1', 'a2']), { have: 64 })
    await assert.rejects(runner.open('e', 10_000, []), error => code(error) === 'BAD_INPUT')
    // More room for a session that is open: what it holds stays.
    assert.deepEqual(await runner.open('d', 400, []), { have: 64 })
    await assert.rejects(runner.open('d', 513, []), error => code(error) === 'BAD_INPUT')
  })

  it('refuses what cannot be computed, and goes on', async () => {
    await stage().open('x', 10, [])
    await assert.rejects(feed(stage(), 'nobody', 0, [1]), error => code(error) === 'NOT_FOUND')
    await assert.rejects(feed(stage(), 'x', 0, [512]), error => code(error) === 'BAD_INPUT')
    await assert.rejects(feed(stage(), 'x', 0, Array.from({ length: 11 }, () => 1)), error => code(error) === 'BAD_INPUT')
    await assert.rejects(feed(stage(), 'x', 1, [1]), error => code(error) === 'BAD_INPUT')
    await assert.rejects(feed(stage(), 'x', 0, [1], { want: 'hidden' }), error => code(error) === 'BAD_INPUT')
    await assert.rejects(stage().step({ session: 'x', position: 0, count: 1, input: { hidden: new Uint8Array(256) }, want: 'greedy', rows: 'last', kv: false }, never), error => code(error) === 'BAD_INPUT')
    assert.throws(() => stage().position('nobody'), error => code(error) === 'NOT_FOUND')
    assert.equal((await feed(stage(), 'x', 0, [1])).ids?.length, 1)
    stage().close('x', false)
  })

  it('drops steps that are cancelled before they are computed, and those of a session that closes', async () => {
    await stage().open('busy', 500, [])
    await stage().open('gone', 500, [])
    const busy = feed(stage(), 'busy', 0, promptOf(400, 2, model.vocab), { want: 'none' })
    const abort = new AbortController()
    const dropped = feed(stage(), 'gone', 0, promptOf(300, 3, model.vocab), { want: 'none' }, abort.signal)
    const after = feed(stage(), 'gone', 300, [1])
    abort.abort()
    await assert.rejects(dropped, error => code(error) === 'CANCELLED')
    // What built on it cannot be computed.
    await assert.rejects(after, error => code(error) === 'BAD_INPUT')
    const closed = feed(stage(), 'busy', 400, [1])
    stage().close('busy', false)
    await Promise.allSettled([busy])
    await assert.rejects(closed, error => code(error) === 'CANCELLED')
    assert.deepEqual(stage().load(), { sessions: 1, freeTokens: 4_096 - 500, waiting: 0 })
    stage().close('gone', false)
    await assert.rejects(feed(stage(), 'gone', 0, [1], {}, AbortSignal.abort()), error => code(error) === 'NOT_FOUND')
  })

  it('counts under the names that AIOS gives', async () => {
    const { type, series } = (served.instance.metrics() as Record<string, { readonly type: string; readonly series: readonly { readonly value: number }[] }>)['llm_prompt_tokens_total'] ?? { type: 'none', series: [] }
    assert.equal(type, 'counter')
    assert.ok((series[0]?.value ?? 0) > 500)
  })

  it('that dies in the middle of its work fails whatever waits for it, retryable', async () => {
    const before = children()
    const own = await start(1_024)
    const [pid] = children().filter(child => !before.includes(child))
    await own.stage.open('s', 500, [])
    const waiting = [feed(own.stage, 's', 0, promptOf(400, 4, model.vocab)), feed(own.stage, 's', 400, [1]), own.stage.open('other', 100, [])]
    process.kill(pid!, 'SIGKILL')
    for (const step of waiting) await assert.rejects(step, (error: MeshError) => error.code === 'INSTANCE_FAILED' && error.retryable)
    await assert.rejects(feed(own.stage, 's', 0, [1]), error => code(error) === 'INSTANCE_FAILED')
    await assert.rejects(own.stage.open('t', 10, []), error => code(error) === 'INSTANCE_FAILED')
    own.stage.close('s', true)
    assert.equal((await own.instance.exited).crashed, true)
  })

  it('ends when it says what no stage would, and so does an instance that is none', async () => {
    const source = `import { writeSync } from 'node:fs'
export default { data() { writeSync(3, Uint8Array.of(16, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0)); return new Promise(() => 0) } }`
    const own = await bench.backend.start(bench.request({ files: { 'main.mjs': source } }), never)
    assert.equal(own.stage, undefined)
    await assert.rejects(answers(own.infer(packetOf(1), never)), (error: MeshError) => error.code === 'INSTANCE_FAILED' && /broke the protocol: a frame without a header/.test(error.message))
    assert.equal((await own.exited).crashed, true)
  })

  it('whose stage.json does not fit its graph is refused at the start', async () => {
    const parts = await stageParts(model, 0, 6, 512)
    const changed = (change: (text: string) => string) => startStage(bench, { ...parts, files: { ...parts.files, 'stage.json': change(String(parts.files['stage.json'])) } })
    await assert.rejects(changed(text => text.replace('"kvBytes":1536', '"kvBytes":1537')), (error: MeshError) => /kvBytes is 1537; its tensors make 1536/.test(error.message))
    await assert.rejects(changed(text => text.replaceAll('input_ids', 'other_ids')), (error: MeshError) => /no "other_ids" in the graph/.test(error.message))
    await assert.rejects(changed(() => '{}'), (error: MeshError) => error.code === 'SPEC_INVALID' && /stage\.json: model/.test(error.message))
    const { 'stage.json': _, ...without } = parts.files
    await assert.rejects(startStage(bench, { ...parts, files: without }), (error: MeshError) => error.code === 'SPEC_INVALID' && /stage\.json is missing/.test(error.message))
  }).timeout(60_000)

  it('passes on its activations in their own precision', async () => {
    using halves = await modelFor({ variant: 'fused-fp16' })
    await using first = await startStage(bench, await stageParts(halves, 0, 2, 512))
    await using last = await startStage(bench, await stageParts(halves, 2, 6, 512))
    for (const { stage: runner } of [first, last]) await runner.open('s', 100, [])
    const { logits } = await through([first.stage, last.stage], 's', 0, promptOf(9, 1, halves.vocab), { want: 'logits' })
    const whole = await WholeModel.open(halves.directory)
    const { data, vocab } = await whole.add(promptOf(9, 1, halves.vocab))
    assertSame(logits, data.slice(8 * vocab))
    await whole.close()
  }).timeout(60_000)
})
