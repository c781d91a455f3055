import assert from 'node:assert/strict'
import { readdirSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { join } from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { perplexity } from '../fixtures/llm/perplexity.ts'
import { Random } from '../fixtures/llm/random.ts'
import { retrieval, scalarProduct } from '../fixtures/llm/retrieval.ts'
import { embed } from '../fixtures/llm/sentence-embeddings.ts'
import { chatText, END } from '../fixtures/llm/train/text.ts'
import { PromptTemplate } from '../../src/llm/jinja/prompt-template.ts'
import type { Turn } from '../fixtures/llm/train/conversations.ts'
import type { Pair } from '../fixtures/llm/train/sentence-pairs.ts'
import { readJson, WholeModel, type Sampling } from './whole-model.ts'

const SHIPPED = fileURLToPath(new URL('../../sdk/examples/scripture-chat/', import.meta.url))
const MODEL = join(SHIPPED, 'model')
const EMBEDDINGS = join(SHIPPED, 'embeddings')
const FIXTURES = fileURLToPath(new URL('../fixtures/llm/', import.meta.url))

interface Config { readonly vocab_size: number; readonly num_hidden_layers: number; readonly eos_token_id: number; readonly pad_token_id: number; readonly max_position_embeddings: number }
interface HeldOut { readonly decoder: { readonly passages: readonly { readonly text: string }[]; readonly perplexity: number }; readonly encoder: Readonly<Record<'neighbours' | 'halves', readonly Pair[]>> }

const heldOut = readJson<HeldOut>(FIXTURES, 'held-out.json')
const config = readJson<Config>(MODEL, 'config.json')
const tokenizerConfig = readJson<{ readonly chat_template: string; readonly eos_token: string }>(MODEL, 'tokenizer_config.json')
const tokenizer = new Tokenizer(readJson<object>(MODEL, 'tokenizer.json'), tokenizerConfig)
const encode = (text: string): readonly number[] => tokenizer.encode(text, { add_special_tokens: false }).ids
const decode = (ids: readonly number[]): string => tokenizer.decode([...ids], { skip_special_tokens: false })

describe('the shipped language model', () => {
  it('is small, and lies as Hugging Face lays models out', () => {
    const files = readdirSync(SHIPPED, { recursive: true }).map(String)
    for (const name of ['model.onnx', 'config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'README.md']) assert.ok(files.includes(`model/${name}`), name)
    for (const name of ['model.onnx', 'config.json', 'tokenizer.json', 'tokenizer_config.json', 'modules.json', '1_Pooling/config.json', 'README.md']) assert.ok(files.includes(`embeddings/${name}`), name)
    const bytes = files.map(file => statSync(join(SHIPPED, file))).reduce((sum, stat) => sum + (stat.isFile() ? stat.size : 0), 0)
    assert.ok(bytes < 8e6, `${bytes}`)
  })

  it('gives every text back from its tokens', () => {
    for (const text of [...heldOut.decoder.passages.map(({ text }) => text), 'Grüße an 世界 🌍👩‍👩‍👧, "quoted"\tand\n\n spaced  out.']) assert.equal(decode(encode(text)), text)
    assert.deepEqual(encode(END), [config.eos_token_id])
    assert.equal(tokenizerConfig.eos_token, END)
    assert.ok(encode('<|pad|><|system|><|user|><|assistant|>').every(id => id < config.vocab_size))
    assert.equal(encode('<|system|><|user|><|assistant|>').length, 3)
  })

  it('has the chat template that it was trained with', () => {
    const template = new PromptTemplate(tokenizerConfig.chat_template)
    const turns: readonly Turn[] = [{ role: 'system', content: 'Answer with scripture.' }, { role: 'user', content: 'Hello.' }, { role: 'assistant', content: 'Peace be unto thee.' }, { role: 'user', content: 'Go on.' }]
    const said = turns.map(turn => ({ ...turn }))
    assert.equal(template.render({ messages: said, add_generation_prompt: false }, () => 0), chatText(turns))
    assert.equal(template.render({ messages: said, add_generation_prompt: true }, () => 0), `${chatText(turns)}<|assistant|>`)
    assert.throws(() => template.render({ messages: [{ role: 'narrator', content: '' }] }, () => 0), /a turn is of/)
    const tools = [{ type: 'function', function: { name: 'look_up' } }]
    const asked = template.render({ messages: [...said.slice(0, 2), { role: 'tool', content: '42' }], tools, add_generation_prompt: true }, () => 0)
    assert.ok(asked.startsWith('<|system|>Answer with scripture.\nTools: [{"type": "function"'))
    assert.ok(asked.endsWith('<|user|>42<|end|><|assistant|>'))
  })

  it('foretells held-out chapters as well as its card says', async () => {
    const measured = await perplexity(MODEL, heldOut.decoder.passages.map(({ text }) => text))
    assert.ok(Math.abs(measured.perplexity / heldOut.decoder.perplexity - 1) < 0.02, `${measured.perplexity}`)
    assert.ok(measured.perplexity < config.vocab_size / 20)
  })

  it('answers in words of its text, and mostly stops by itself', async () => {
    const known = new Set(heldOut.decoder.passages.flatMap(({ text }) => wordsOf(text)))
    const model = await WholeModel.open(MODEL)
    assert.equal(model.layers, config.num_hidden_layers)
    const template = new PromptTemplate(tokenizerConfig.chat_template)
    const how = readJson<Sampling>(MODEL, 'generation_config.json')
    const answers: (readonly number[])[] = []
    for (const content of ['Hello.', 'Continue: And the LORD said unto Moses,', 'Write a verse about water.', 'Write a verse from Psalms.', 'What comes next? Jesus wept.', 'Tell me about the king.', 'Go on.', 'Give me a verse of Luke.']) {
      const prompt = encode(template.render({ messages: [{ role: 'user', content }], add_generation_prompt: true }, () => 0))
      answers.push(await model.sampled(prompt, 150, how, new Random(answers.length + 1), [config.eos_token_id]))
    }
    await model.close()
    const told = answers.map(decode).join('\n')
    assert.ok(answers.filter(({ length }) => length > 0 && length < 150).length >= 6, told)
    const words = answers.map(decode).flatMap(wordsOf)
    assert.ok(words.filter(word => known.has(word)).length / words.length > 0.6, told)
  })
})

describe('the shipped sentence encoder', () => {
  for (const kind of ['neighbours', 'halves'] as const) {
    it(`finds the partners of held-out ${kind} far more often than chance`, async () => {
      const pairs = heldOut.encoder[kind]
      const { first, firstTen } = retrieval(await embed(EMBEDDINGS, pairs.map(([one]) => one)), await embed(EMBEDDINGS, pairs.map(([, other]) => other)), scalarProduct)
      assert.ok(first >= 5 / pairs.length, `${first}`)
      assert.ok(firstTen >= 25 / pairs.length, `${firstTen}`)
    })
  }

  it('gives vectors of unit length that padding does not change', async () => {
    const sentences = ['The LORD is my shepherd.', 'And there was a great famine in the land, and the people cried out unto the king for bread, and he hearkened not unto them.']
    const together = await embed(EMBEDDINGS, sentences)
    const alone = await embed(EMBEDDINGS, sentences.slice(0, 1))
    for (const vector of together) assert.ok(Math.abs(scalarProduct(vector, vector) - 1) < 1e-5)
    assert.ok(scalarProduct(together[0]!, alone[0]!) > 0.99999)
    assert.ok(scalarProduct(together[0]!, together[1]!) < 0.95)
  })
})

function wordsOf(text: string): readonly string[] {
  return text.toLowerCase().match(/[a-z]+/g) ?? []
}
