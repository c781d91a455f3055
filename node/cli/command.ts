import { parseArgs } from 'node:util'
import { MeshError } from '../../protocols/errors.ts'
import type { Output } from './output.ts'
import type { DaemonClient } from './daemon-client.ts'

/** An option as a person types it. `value` is the placeholder in the help; absent for a flag. */
export type Option = { readonly name: string; readonly value?: string; readonly many?: boolean; readonly what: string }

export type Context = {
  readonly args: readonly string[]
  readonly options: Readonly<Record<string, string | boolean | readonly string[] | undefined>>
  readonly dataDir: string
  readonly out: Output
  /** The daemon of `--data`. Throws when none runs there. */
  daemon(): Promise<DaemonClient>
  readonly signal: AbortSignal
}

/** One command: parsing, help and documentation all come from this record. */
export type Command = {
  readonly words: readonly string[]
  readonly args: string
  readonly what: string
  readonly options?: readonly Option[]
  /** Fewest and most positional arguments after the words. */
  readonly count: readonly [number, number]
  run(context: Context): Promise<void>
}

export const COMMON: readonly Option[] = [
  { name: 'json', what: 'print JSON only' },
  { name: 'data', value: 'DIR', what: 'the folder of the peer to talk to (default ~/.aios, or $AIOS_DATA)' },
  { name: 'help', what: 'show this' },
]

const SHORT: Readonly<Record<string, string>> = { output: 'o', follow: 'f' }

/** Wrong use of the command line: exit code 2. */
export class UsageError extends Error {}

export function findCommand(commands: readonly Command[], argv: readonly string[]): { command: Command; rest: readonly string[] } | undefined {
  // `--data DIR` may stand before the command's own words.
  const words = argv.filter((word, at) => !word.startsWith('-') && argv[at - 1] !== '--data')
  const fits = commands
    .filter(command => command.words.every((word, at) => words[at] === word))
    .sort((a, b) => b.words.length - a.words.length)
  const command = fits[0]
  if (command === undefined) return undefined
  const rest = [...argv]
  for (const word of command.words) rest.splice(rest.findIndex((part, at) => part === word && rest[at - 1] !== '--data'), 1)
  return { command, rest }
}

export function parseFor(command: Command, rest: readonly string[]): { args: readonly string[]; options: Context['options'] } {
  const options: Record<string, { type: 'string' | 'boolean'; multiple?: boolean; short?: string }> = {}
  for (const option of [...COMMON, ...(command.options ?? [])]) {
    options[option.name] = { type: option.value === undefined ? 'boolean' : 'string', ...(option.many === true ? { multiple: true } : {}), ...(SHORT[option.name] === undefined ? {} : { short: SHORT[option.name] }) }
  }
  let parsed
  try {
    parsed = parseArgs({ args: [...rest], options, allowPositionals: true, strict: true })
  } catch (cause) {
    throw new UsageError(cause instanceof Error ? cause.message : String(cause))
  }
  const [least, most] = command.count
  if (parsed.values['help'] !== true && (parsed.positionals.length < least || parsed.positionals.length > most)) {
    throw new UsageError(`usage: aios ${usage(command)}`)
  }
  return { args: parsed.positionals, options: { ...parsed.values } as Context['options'] }
}

export function usage(command: Command): string {
  const options = (command.options ?? []).map(({ name, value, many }) => `[--${name}${value === undefined ? '' : ` ${value}`}${many === true ? ' …' : ''}]`)
  return [...command.words, command.args, ...options].filter(part => part !== '').join(' ')
}

export function text(context: Context, name: string): string | undefined {
  const value = context.options[name]
  return typeof value === 'string' ? value : undefined
}

/** A whole number above 0. Throws UsageError. */
export function count(context: Context, name: string, otherwise: number): number {
  const said = text(context, name)
  if (said === undefined) return otherwise
  if (!/^[1-9]\d{0,8}$/.test(said)) throw new UsageError(`--${name} takes a whole number above 0, not ${said}`)
  return Number(said)
}

export function flag(context: Context, name: string): boolean {
  return context.options[name] === true
}

export function list(context: Context, name: string): readonly string[] {
  const value = context.options[name]
  return Array.isArray(value) ? value.map(String) : []
}

export function arg(context: Context, at: number): string {
  const value = context.args[at]
  if (value === undefined) throw new MeshError('BAD_INPUT', `argument ${at + 1} is missing`)
  return value
}
