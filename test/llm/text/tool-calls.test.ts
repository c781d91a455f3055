import assert from 'node:assert/strict'
import { ToolCallReader, toolForm, type ToolCall } from '../../../src/llm/text/tool-calls.ts'
import { ModelText } from '../../../src/llm/text/model-text.ts'
import { byteTokenizer } from '../byte-tokenizer.ts'

const known = (name: string): boolean => ['weather', 'add'].includes(name)

/** The same whatever pieces the text comes in. */
function read(text: string): { readonly content: string; readonly calls: readonly ToolCall[] } {
  const results = [1, 2, 3, 7, text.length].map(size => {
    const reader = new ToolCallReader(known)
    const heard = []
    for (let at = 0; at < text.length; at += size) heard.push(reader.push(text.slice(at, at + size)))
    heard.push(reader.end())
    return { content: heard.map(({ content }) => content).join(''), calls: heard.flatMap(({ calls }) => calls) }
  })
  for (const result of results) assert.deepEqual(result, results[0])
  return results[0]!
}

const bonn: ToolCall = { name: 'weather', arguments: '{"city":"Bonn"}' }

describe('tool calls in an answer', () => {
  it('are read between tags, several and after text', () => {
    assert.deepEqual(read('<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'), { content: '', calls: [bonn] })
    assert.deepEqual(read('Let me see.\n\n<tool_call>{"name":"weather","arguments":{"city":"Bonn"}}</tool_call>\n<tool_call>{"name":"add","arguments":{"a":1}}</tool_call>'), { content: 'Let me see.', calls: [bonn, { name: 'add', arguments: '{"a":1}' }] })
    assert.deepEqual(read('<tool_call>{"name":"weather","arguments":{"city":"Bonn"}}').calls, [bonn], 'the end of the answer closes it, too')
  })

  it('are read as Llama 3 and Mistral write them', () => {
    assert.deepEqual(read('{"name": "weather", "parameters": {"city": "Bonn"}}'), { content: '', calls: [bonn] })
    assert.deepEqual(read('{"type":"function","function":{"name":"weather","arguments":"{\\"city\\":\\"Bonn\\"}"}}').calls, [bonn])
    assert.deepEqual(read('[{"name":"weather","arguments":{"city":"Bonn"}},{"name":"add"}]').calls, [bonn, { name: 'add', arguments: '{}' }])
    assert.deepEqual(read('{"name":"weather","parameters":{"city":"Bonn"}}; {"name":"add","parameters":{}}').calls.length, 2)
  })

  it('are not made of what is no call of a tool that is there', () => {
    for (const text of ['{"name": "other", "arguments": {}}', '{"answer": 42}', 'a < b and <tool', '[1, 2]', '<tool_call>not JSON</tool_call> after', 'plain  text with  spaces ', '{ broken']) assert.deepEqual(read(text), { content: text, calls: [] })
  })

  it('can be forced by a form, with references of a schema still pointing into it', () => {
    const text = new ModelText(byteTokenizer())
    const constraint = text.constraint(toolForm([{ name: 'add', parameters: { type: 'object', required: ['a'], properties: { a: { $ref: '#/$defs/number' } }, $defs: { number: { type: 'integer' } } } }, { name: 'now' }]))
    const fits = (answer: string): boolean => constraint.advance(constraint.start, new TextEncoder().encode(answer))?.done === true
    assert.equal(fits('{"name": "add", "arguments": {"a": 1}}'), true)
    assert.equal(fits('{"name": "add", "arguments": {"a": "1"}}'), false)
    assert.equal(fits('{"name": "now", "arguments": {}}'), true)
    assert.equal(fits('{"name": "then", "arguments": {}}'), false)
  })
})
