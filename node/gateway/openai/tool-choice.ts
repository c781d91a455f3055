import type { AnswerForm } from '../../../protocols/generation.ts'
import { toolForm, type Tool } from '../../../src/llm/text/tool-calls.ts'
import { wrong } from './failure.ts'
import type { ChatRequest } from './requests.ts'

type Asked = Pick<ChatRequest, 'tools' | 'tool_choice' | 'parallel_tool_calls'>

/** The tools that the model is told of: all, none, or those that the request allows. Throws BAD_INPUT for one that is not among the tools. */
export function offeredTools({ tools, tool_choice: choice }: Asked): NonNullable<ChatRequest['tools']> {
  const given = choice === 'none' ? [] : tools ?? []
  if (typeof choice !== 'object' || choice === null || choice.type !== 'allowed_tools') return given
  return choice.allowed_tools.tools.map(({ function: { name } }) => given.find(tool => tool.function.name === name) ?? missing(name))
}

/** Which names are calls of this request, and how many of them an answer may make; undefined where it has no tools. */
export function callsOf(asked: Asked): { readonly known: (name: string) => boolean; readonly most: number } | undefined {
  const offered = offeredTools(asked)
  if (offered.length === 0) return undefined
  const names = new Set(offered.map(tool => tool.function.name))
  return { known: name => names.has(name), most: asked.parallel_tool_calls === false ? 1 : Infinity }
}

/** The form of an answer that has to be a call; undefined where the model may choose. Throws BAD_INPUT. */
export function forcedCall(asked: Asked): AnswerForm | undefined {
  const { tool_choice: choice } = asked
  if (choice === undefined || choice === null || choice === 'auto' || choice === 'none') return undefined
  const tools = offeredTools(asked).map(({ function: { name, parameters } }): Tool => ({ name, ...(parameters === undefined || parameters === null ? {} : { parameters }) }))
  if (tools.length === 0) throw wrong('tool_choice', 'tool_choice is only allowed when tools are given')
  if (choice === 'required') return toolForm(tools)
  if (choice.type === 'allowed_tools') return choice.allowed_tools.mode === 'required' ? toolForm(tools) : undefined
  return toolForm([tools.find(({ name }) => name === choice.function.name) ?? missing(choice.function.name)])
}

function missing(name: string): never {
  throw wrong('tool_choice', `there is no tool ${name} among the tools of this request`)
}
