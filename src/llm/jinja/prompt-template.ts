import type { JsonObject } from '../../lib/json.ts'
import { dateText } from './chat-date.ts'
import { Scope } from './evaluate.ts'
import { print } from './printing.ts'
import { write } from './run.ts'
import { readTemplate } from './statements.ts'
import type { Body } from './tree.ts'
import { asNumber, bind, fromJson, isDict, isList, itemsOf, Range, TemplateFault, Thing, type Arguments, type Call, type Value } from './values.ts'

/** As Jinja's sandbox has it. */
const LONGEST_RANGE = 100_000

/**
 * A chat template, written out as Hugging Face's transformers does it with Jinja 3 (the sandbox that changes nothing, `trim_blocks`,
 * `lstrip_blocks`, loop controls, its own `tojson`). What of Jinja no prompt should need is refused, never passed over.
 */
export class PromptTemplate {
  readonly #body: Body

  /** Throws TemplateFault naming the line, and the tag, filter, test or function that is not known. */
  constructor(source: string) {
    this.#body = bounded(() => readTemplate(source))
  }

  /** `now`: milliseconds since 1970 of the clock on the wall, for templates that write the date. Throws TemplateFault. */
  render(variables: JsonObject, now: () => number): string {
    const globals = new Scope()
    for (const [name, call] of Object.entries(functions(now))) globals.set(name, new Thing('function', new Map(), call))
    const context = new Scope(globals)
    for (const [name, value] of Object.entries(variables)) context.set(name, fromJson(value))
    return bounded(() => write(this.#body, new Scope(context)))
  }
}

/** What goes deeper than the stack is a fault of the template: a macro that never ends calling itself, most likely. */
function bounded<T>(work: () => T): T {
  try {
    return work()
  } catch (cause) {
    if (cause instanceof RangeError) throw new TemplateFault('it goes too deep, or a text would be too long', { cause })
    throw cause
  }
}

function functions(now: () => number): Readonly<Record<string, Call>> {
  return {
    raise_exception: asked => {
      throw new TemplateFault(print(bind(asked, 'raise_exception', 'message')[0] ?? null))
    },
    strftime_now: asked => dateText(print(bind(asked, 'strftime_now', 'format')[0] ?? null), now()),
    namespace: asked => new Thing('Namespace', new Map([...dictionary(asked)].map(([key, value]) => [print(key), value]))),
    dict: dictionary,
    range,
  }
}

function dictionary({ list, named }: Arguments): ReadonlyMap<Value, Value> {
  const [from, more] = list
  if (more !== undefined) throw new TemplateFault(`dict expected at most 1 argument, got ${list.length}`)
  const pairs: readonly (readonly [Value, Value])[] = from === undefined ? [] : from !== null && typeof from === 'object' && isDict(from) ? [...from] : itemsOf(from).map(pair => {
    const [key, value, ...rest] = itemsOf(pair)
    if (key === undefined || value === undefined || rest.length > 0) throw new TemplateFault('dict wants pairs')
    return [key, value]
  })
  return new Map<Value, Value>([...pairs, ...named])
}

function range(asked: Arguments): Value {
  const numbers = asked.list.map(value => (value !== null && typeof value === 'object' && !isList(value) ? undefined : asNumber(value)))
  if (numbers.length < 1 || numbers.length > 3 || asked.named.size > 0 || numbers.includes(undefined)) throw new TemplateFault('range wants one to three integers')
  const [start, end, by = 1] = numbers.length === 1 ? [0, ...numbers] : numbers
  if (by === 0) throw new TemplateFault('range() arg 3 must not be zero')
  const length = Math.max(0, Math.ceil(((end ?? 0) - (start ?? 0)) / by))
  if (length > LONGEST_RANGE) throw new TemplateFault(`range too big: at most ${LONGEST_RANGE}`)
  return new Range(Array.from({ length }, (_, at) => (start ?? 0) + at * by), `range(${start}, ${end}${by === 1 ? '' : `, ${by}`})`)
}
