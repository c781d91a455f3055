import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { json } from '../../../protocols/ids.ts'
import { PromptTemplate } from '../../../src/llm/jinja/prompt-template.ts'
import { TemplateFault } from '../../../src/llm/jinja/values.ts'
import type { JsonObject } from '../../../src/lib/json.ts'

const FOLDER = new URL('../../fixtures/chat-templates/', import.meta.url)
const NOW = Date.UTC(2024, 11, 5, 9, 7, 3)

const made = z.object({ text: z.string().optional(), fails: z.string().optional() })
const variables = z.record(z.string(), json)
const golden = z.object({ variables, small: z.array(made.extend({ template: z.string() })), chats: z.array(variables), models: z.record(z.string(), z.array(made)) }).parse(JSON.parse(readFileSync(new URL('golden.json', FOLDER), 'utf8')))

function holds(source: string, given: JsonObject, { text, fails }: z.infer<typeof made>): void {
  const render = (): string => new PromptTemplate(source).render(given, () => NOW)
  if (text === undefined) assert.throws(render, TemplateFault, `${source}\nshould be refused: ${fails}`)
  else assert.equal(render(), text, source)
}

/** The message with which a template is refused when it is read, before anything is rendered. */
function refusal(source: string): string {
  try {
    return String(new PromptTemplate(source))
  } catch (cause) {
    assert.ok(cause instanceof TemplateFault)
    return cause.message
  }
}

describe('chat templates render as Python renders them', () => {
  it(`in ${golden.small.length} small templates of every construct`, () => {
    for (const { template, ...expected } of golden.small) holds(template, golden.variables, expected)
  })

  for (const [name, expected] of Object.entries(golden.models)) {
    it(`in conversations as ${name} writes them`, () => {
      const source = readFileSync(new URL(`models/${name}.jinja`, FOLDER), 'utf8')
      assert.ok(expected.some(({ text }) => text !== undefined))
      for (const [at, one] of expected.entries()) holds(source, golden.chats[at] ?? {}, one)
    })
  }

  it('and the date of the clock on the wall', () => {
    for (const [day, text] of [['2024-02-29', '29 Feb 2024 060 Thursday'], ['2023-12-31', '31 Dec 2023 365 Sunday'], ['1970-01-01', '01 Jan 1970 001 Thursday'], ['2100-03-01', '01 Mar 2100 060 Monday']] as const) {
      assert.equal(new PromptTemplate("{{ strftime_now('%d %b %Y %j %A') }}").render({}, () => Date.parse(`${day}T23:59:59Z`)), text)
    }
  })
})

describe('a chat template that cannot be rendered here', () => {
  it('is refused when it is read, naming the line and the construct', () => {
    assert.equal(refusal("a\n{% include 'x' %}"), 'line 2: the tag {% include %} is not known here')
    for (const tag of ['block', 'extends', 'import', 'autoescape', 'do', 'trans']) assert.match(refusal(`{% ${tag} x %}`), new RegExp(`the tag \\{% ${tag} %\\} is not known here`))
    for (const filter of ['groupby', 'wordwrap', 'truncate', 'urlize', 'xmlattr', 'random', 'pprint', 'filesizeformat']) assert.equal(refusal(`{{ x | ${filter} }}`), `line 1: the filter '${filter}' is not known here`)
    assert.equal(refusal('{% if x is escaped %}{% endif %}'), "line 1: the test 'escaped' is not known here")
    assert.equal(refusal('{% set c = cycler(1) %}'), "line 1: the function 'cycler' is not known here")
    assert.equal(refusal('\n{% if x %}'), 'line 2: the template ends before {% elif %} or {% else %} or {% endif %}')
  })

  it('is refused at the latest when it would print what only Python has, or call what is not here', () => {
    const fails = (source: string): void => assert.throws(() => new PromptTemplate(source).render({}, () => NOW), TemplateFault, source)
    for (const source of ["{{ [1] | map('string') }}", '{{ range }}', "{{ 'a'.encode() }}", "{{ 'a'.translate({}) }}", "{{ '%g' % 1.5 }}", "{{ '{:>4}'.format(1) }}", "{{ strftime_now('%U') }}", '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', '{{ 2 ** 90 }}']) fails(source)
  })

  it('is stopped when it would compute without end, or fill the memory of who renders it', () => {
    const loops = (depth: number): string => `${'{% for a in range(100000) %}'.repeat(depth)}${'{% endfor %}'.repeat(depth)}`
    const doubled = (value: string): string => `{% set s = namespace(x=${value}) %}{% for i in range(60) %}{% set s.x = s.x + s.x %}{% endfor %}`
    for (const source of [loops(2), doubled("'a'"), doubled('[1]'), "{{ 'a' * 10 ** 9 }}", '{% set x = [1, 2] * 10 ** 9 %}', "{{ 'a'.center(10 ** 9) }}", "{{ '%1000000000d' % 1 }}", "{{ {} | tojson(indent=10 ** 9) }}", "{{ 'a' | indent(10 ** 9) }}", "{{ '1'.zfill(4 * 10 ** 8) }}", "{{ '%.400000000d' % 1 }}", '{{ [1] | batch(10 ** 8, 0) | list }}', "{% macro f(n) %}{% for i in range(10) %}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endfor %}{% endmacro %}{{ f(20) }}"]) {
      assert.throws(() => new PromptTemplate(source).render({}, () => NOW), TemplateFault, source)
    }
  })

  it('is none for being long: ten thousand messages of a thousand characters are written', () => {
    const source = readFileSync(new URL('models/chatml.jinja', FOLDER), 'utf8')
    const messages = Array.from({ length: 10_000 }, (_, at) => ({ role: at % 2 === 0 ? 'user' : 'assistant', content: 'word '.repeat(200) }))
    assert.ok(new PromptTemplate(source).render({ messages, add_generation_prompt: true, tools: null, documents: null }, () => NOW).length > 10_000_000)
  })
})
