import assert from 'node:assert/strict'
import { Tokenizer } from '@huggingface/tokenizers'
import fc from 'fast-check'
import { checkTexts } from '../../../node/authoring/model-texts.ts'
import { ModelText } from '../../../src/llm/text/model-text.ts'
import { TextTail } from '../../../src/llm/text/text-tail.ts'
import { byteTokenizer, fallbackTokenizer } from '../byte-tokenizer.ts'
import { isMeshCode } from '../mesh-code.ts'

const bytewise = new ModelText(byteTokenizer(['the', ' the', 'ing', ' answer', '日', '😀']))
const fallback = new ModelText(fallbackTokenizer(['▁the', '▁answer', 'ing', '▁']))

describe('the text of a model', () => {
  it('comes back from its tokens, whatever it is', () => {
    fc.assert(fc.property(fc.string({ unit: 'grapheme', maxLength: 40 }), text => {
      assert.equal(bytewise.decode(bytewise.encode(text, false)), text)
      // This kind puts a space before every text, and writes spaces as "▁": which of the two it was cannot be told afterwards.
      if (!text.startsWith('<') && !text.includes('▁')) assert.equal(fallback.decode(fallback.encode(text, false)), text === '' ? '' : ` ${text}`)
    }), { numRuns: 200 })
  })

  it('is the library\'s own, token for token', () => {
    const files = byteTokenizer(['the', ' the', 'ing'])
    const library = new Tokenizer(files['tokenizer.json'] as object, files['tokenizer_config.json'] as object)
    const ids = library.encode('the thing in the end: naïve 😀', { add_special_tokens: false }).ids
    assert.equal(new ModelText(files).decode(ids), library.decode(ids, { skip_special_tokens: true, clean_up_tokenization_spaces: false }))
  })

  it('puts a first token where the tokenizer does, and marks of the template as single ids', () => {
    assert.equal(fallback.encode('the', true)[0], 1)
    assert.notEqual(fallback.encode('the', false)[0], 1)
    const marker = bytewise.encode('<|im_start|>', false)
    assert.equal(marker.length, 1)
    assert.equal(bytewise.token(marker[0]!), '<|im_start|>')
    assert.equal(bytewise.decode(marker), '')
  })

  it('knows by which tokens the model ends', () => {
    assert.deepEqual(bytewise.ends.map(id => bytewise.token(id)).sort(), ['<|endoftext|>', '<|im_end|>'])
    assert.deepEqual(fallback.ends, [2])
  })

  it('reads the ends out of what ONNX Runtime GenAI writes in place of the other two configurations', () => {
    const { 'tokenizer.json': tokenizer } = byteTokenizer(['the'])
    const files = { 'tokenizer.json': tokenizer, 'genai_config.json': { model: { type: 'llama', context_length: 512, bos_token_id: 0, eos_token_id: [4, 1], decoder: { num_attention_heads: 4 } }, search: { do_sample: false, top_k: 50, max_length: 512 } } }
    assert.deepEqual(new ModelText(files).ends, [4, 1])
    assert.deepEqual(new ModelText({ ...files, 'generation_config.json': { eos_token_id: 2 }, 'config.json': {} }).ends, [2])
    assert.throws(() => new ModelText({ ...files, 'genai_config.json': {} }), isMeshCode('SPEC_INVALID'))
  })

  it('is cleaned as SentencePiece cleans it, where the tokenizer was trained so', () => {
    const files = byteTokenizer(['the'])
    const cleaning = new ModelText({ ...files, 'tokenizer.json': { ...files['tokenizer.json'] as object, normalizer: { type: 'Sequence', normalizers: [{ type: 'Nmt' }, { type: 'NFKC' }] } } })
    assert.equal(cleaning.decode(cleaning.encode('a\u0001b\tc\u200bd\u007f\u2581e\nf', false)), 'ab c d e f')
  })

  it('comes back as its decoder says, by patterns and bytes', () => {
    const files = fallbackTokenizer(['_the', '_'])
    const file = files['tokenizer.json'] as object
    const text = (decoders: readonly object[]): ModelText => new ModelText({ ...files, 'tokenizer.json': { ...file, decoder: { type: 'Sequence', decoders } } })
    const ids = [...fallback.encode('é', false).slice(-2), ...new ModelText(files).encode('_the', false).slice(-1)]
    assert.equal(text([{ type: 'Replace', pattern: { Regex: '[_▁]' }, content: '$& ' }, { type: 'ByteFallback' }, { type: 'Fuse' }]).decode(ids), 'é$& the')
    assert.equal(text([{ type: 'ByteFallback' }, { type: 'Fuse' }]).decode(ids), 'é_the')
  })

  it('renders a conversation as the template says', () => {
    const prompt = bytewise.prompt({ messages: [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: [{ type: 'text', text: 'the ' }, { type: 'text', text: 'answer?' }] }] })
    assert.equal(prompt.map(id => bytewise.token(id)?.replaceAll('Ġ', ' ').replaceAll('Ċ', '\n')).join(''), '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nthe answer?<|im_end|>\n<|im_start|>assistant\n')
  })

  it('takes the template of a file before that of the configuration, and of several the one for tools', () => {
    const files = byteTokenizer()
    assert.equal(new ModelText({ ...files, 'chat_template.jinja': 'from a file' }).chat.render({ messages: [] }), 'from a file')
    const several = new ModelText({ ...files, 'tokenizer_config.json': { chat_template: [{ name: 'default', template: 'plain {{ eos_token }}' }, { name: 'tool_use', template: '{{ tools | length }} tools' }], eos_token: { content: '<|im_end|>' } } })
    assert.equal(several.chat.render({ messages: [] }), 'plain <|im_end|>')
    assert.equal(several.chat.render({ messages: [], tools: [{ type: 'function' }] }), '1 tools')
  })

  it('gives arguments of tool calls to the template as objects', () => {
    const text = new ModelText(byteTokenizer([], '{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments.city }}{% endfor %}{% endfor %}'))
    assert.equal(text.chat.render({ messages: [{ role: 'assistant', content: null, tool_calls: [{ id: 'c', type: 'function', function: { name: 'weather', arguments: '{"city":"Bonn"}' } }] }] }), 'Bonn')
  })

  it('gives them as text to a template that sets them as text, and no content as None to one that asks for it', () => {
    const call = { role: 'assistant', content: null, tool_calls: [{ id: 'c', type: 'function', function: { name: 'weather', arguments: '{"city": "Bonn"}' } }] }
    const rendered = (template: string): string => new ModelText(byteTokenizer([], template)).chat.render({ messages: [call] })
    assert.equal(rendered("{{ 'x' + messages[0].tool_calls[0]['function']['arguments'] }}"), 'x{"city": "Bonn"}')
    assert.equal(rendered('{{ messages[0].tool_calls[0].function.arguments }}'), "{'city': 'Bonn'}")
    assert.equal(rendered("{% if messages[0]['content'] is none %}calls{% endif %}"), 'calls')
    assert.equal(rendered('<{{ messages[0].content }}>'), '<>', 'a template that does not ask would print "None"')
    const echoed = { role: 'assistant', content: 'Hi', tool_calls: null, refusal: null }
    assert.equal(new ModelText(byteTokenizer([], "{{ 'tool_calls' in messages[0] }}{{ messages[0] }}")).chat.render({ messages: [echoed] }), "False{'role': 'assistant', 'content': 'Hi'}")
  })

  it('gives the parts of a message to a template that goes through them, and tools, documents, special tokens and the date as transformers does', () => {
    const files = byteTokenizer([], "{% for part in messages[0]['content'] %}[{{ part['text'] | trim }}]{% endfor %}{{ tools is none and documents is none }} {{ sep_token }}{{ additional_special_tokens }} {{ strftime_now('%d %b %Y') }}")
    const config = { ...files['tokenizer_config.json'] as object, sep_token: { content: '<sep>' }, additional_special_tokens: ['<a>', { content: '<b>' }] }
    const messages = [{ role: 'user', content: [{ type: 'text', text: 'one ' }, { type: 'text', text: ' two' }] }]
    assert.equal(new ModelText({ ...files, 'tokenizer_config.json': config }, () => Date.UTC(2025, 0, 2)).chat.render({ messages }), "[one][two]True <sep>['<a>', '<b>'] 02 Jan 2025")
    assert.throws(() => new ModelText(files).chat.render({ messages }), isMeshCode('BAD_INPUT', /asks for the date/))
  })

  it('refuses a template with what cannot be rendered, saying what and where, and still takes prompts as text', async () => {
    const files = byteTokenizer([], "a\n{{ messages | groupby('role') }}")
    const text = new ModelText(files)
    const refused = isMeshCode('SPEC_INVALID', /chat template cannot be rendered here: line 2: the filter 'groupby' is not known/)
    assert.throws(() => text.chat.mustBeReadable(), refused)
    assert.throws(() => text.prompt({ messages: [] }), refused)
    assert.equal(text.decode(text.encode('the', false)), 'the')
    await assert.rejects(checkTexts({ graph: 'model.onnx', graphFolder: '.', texts: new Map(), name: 'm', file: 'model.onnx', others: [] }, new Map(Object.entries(files))), refused, 'when the model is imported')
    bytewise.chat.mustBeReadable()
  })

  it('refuses what it cannot do, saying what to do instead', () => {
    assert.throws(() => new ModelText({ ...byteTokenizer(), 'tokenizer_config.json': {} }).prompt({ messages: [] }), isMeshCode('BAD_INPUT', /no chat template/))
    assert.throws(() => new ModelText(byteTokenizer([], "{{ raise_exception('roles must alternate') }}")).prompt({ messages: [] }), isMeshCode('BAD_INPUT', /roles must alternate/))
    assert.throws(() => bytewise.prompt({ messages: [{ role: 'user', content: [{ type: 'image_url' }] }] }), isMeshCode('BAD_INPUT', /image_url.*text only/))
    assert.throws(() => new ModelText({ 'tokenizer.json': { added_tokens: 3 } }), isMeshCode('SPEC_INVALID', /tokenizer.json/))
  })
})

describe('the text of an answer as its tokens come', () => {
  const pieces = (text: ModelText, answer: string, stop: readonly string[]): readonly string[] => {
    const tail = new TextTail(token => text.bytes(token), stop)
    return [...text.encode(answer, false).map(token => tail.push(token).text), tail.end()]
  }

  it('is the whole text, and no piece ends inside a character', () => {
    fc.assert(fc.property(fc.string({ unit: 'grapheme', maxLength: 30 }), answer => {
      const given = pieces(bytewise, answer, [])
      assert.equal(given.join(''), answer)
      assert.ok(given.every(piece => !piece.includes('\ufffd') || answer.includes('\ufffd')))
    }), { numRuns: 200 })
  })

  it('ends before the stop string that is whole first, wherever token borders fall, and gives nothing of it out', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'é', '😀', ' '), maxLength: 24 })
    const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'é', '😀'), minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 3 })
    fc.assert(fc.property(letters, stops, (answer, stop) => {
      const found = Array.from({ length: answer.length }, (_, at) => at).flatMap(at => stop.filter(given => answer.startsWith(given, at)).map(given => ({ at, end: at + given.length })))
      const first = found.toSorted((a, b) => a.end - b.end || a.at - b.at)[0]?.at ?? Infinity
      assert.equal(pieces(bytewise, answer, stop).join(''), first === Infinity ? answer : answer.slice(0, first))
      assert.equal(pieces(fallback, answer, stop).join('').trimStart(), (first === Infinity ? answer === '' ? '' : ` ${answer}` : ` ${answer.slice(0, first)}`).trimStart())
    }), { numRuns: 500, examples: [['a😀é', ['a😀é', '😀']]] })
  })

  it('says that it has stopped at once, and gives the same to whoever takes over in the middle', () => {
    const tokens = bytewise.encode('an answer<end> more', false)
    const tail = new TextTail(token => bytewise.bytes(token), ['<end>'])
    const all = tokens.map(token => tail.push(token))
    const at = all.findIndex(({ stopped }) => stopped)
    assert.equal(bytewise.decode(tokens.slice(0, at + 1)), 'an answer<end>')
    for (let from = 0; from <= at; from += 1) {
      const heir = new TextTail(token => bytewise.bytes(token), ['<end>'])
      tokens.slice(0, from).forEach(token => heir.push(token))
      assert.deepEqual(tokens.slice(from, at + 1).map(token => heir.push(token)), all.slice(from, at + 1))
    }
  })

  it('shows what never became a character as U+FFFD, at the end', () => {
    const tail = new TextTail(token => bytewise.bytes(token), [])
    const [first] = new TextEncoder().encode('é')
    const token = Array.from({ length: bytewise.size }, (_, id) => id).find(id => bytewise.bytes(id)?.length === 1 && bytewise.bytes(id)?.[0] === first)!
    assert.equal(tail.push(token).text, '')
    assert.equal(tail.end(), '\ufffd')
  })
})
