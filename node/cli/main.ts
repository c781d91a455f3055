import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { MeshError, asMeshError } from '../../protocols/errors.ts'
import { COMMON, UsageError, findCommand, parseFor, usage, type Command, type Context } from './command.ts'
import { commands } from './commands.ts'
import { DaemonClient } from './daemon-client.ts'
import { Output } from './output.ts'

process.exitCode = await main(process.argv.slice(2))

async function main(argv: readonly string[]): Promise<number> {
  const wantsJson = argv.includes('--json')
  const out = new Output(wantsJson)
  const found = findCommand(commands, argv)
  if (found === undefined) {
    const asked = argv.length === 0 || argv.includes('--help') || argv[0] === 'help'
    if (!asked && wantsJson) {
      process.stderr.write(`${JSON.stringify({ error: { code: 'USAGE', message: `unknown command: ${argv.join(' ')}; \`aios --help\` lists those there are` } })}\n`)
      return 2
    }
    ;(asked ? process.stdout : process.stderr).write(`${overview()}\n`)
    if (!asked) process.stderr.write(`\nunknown command: ${argv.join(' ')}\n`)
    return asked ? 0 : 2
  }
  const interrupt = new AbortController()
  const stop = (): void => interrupt.abort(new MeshError('CANCELLED', 'interrupted'))
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
  try {
    const { args, options } = parseFor(found.command, found.rest)
    if (options['help'] === true) {
      process.stdout.write(`${help(found.command)}\n`)
      return 0
    }
    const dataDir = resolve(typeof options['data'] === 'string' ? options['data'] : process.env['AIOS_DATA'] ?? join(homedir(), '.aios'))
    const context: Context = { args, options, dataDir, out, signal: interrupt.signal, daemon: () => DaemonClient.find(dataDir, interrupt.signal) }
    await found.command.run(context)
    return 0
  } catch (error) {
    if (error instanceof UsageError) {
      process.stderr.write(wantsJson ? `${JSON.stringify({ error: { code: 'USAGE', message: error.message } })}\n` : `${error.message}\n`)
      return 2
    }
    const failure = asMeshError(error)
    process.stderr.write(wantsJson ? `${JSON.stringify({ error: failure.toJSON() })}\n` : `${failure.code}: ${failure.message}\n`)
    if (failure.code === 'INTERNAL' && process.env['AIOS_DEBUG'] !== undefined) console.error(error)
    return 1
  } finally {
    process.removeListener('SIGINT', stop)
    process.removeListener('SIGTERM', stop)
  }
}

function overview(): string {
  const width = Math.max(...commands.map(command => [...command.words, command.args].join(' ').trim().length))
  return ['aios: one computer out of many hosts, with no centre', '', ...commands.map(command => `  aios ${[...command.words, command.args].join(' ').trim().padEnd(width)}  ${command.what}`), '', 'Every command takes --json, --data DIR and --help.'].join('\n')
}

function help(command: Command): string {
  const options = [...(command.options ?? []), ...COMMON]
  const shown = options.map(option => ({ left: `--${option.name}${option.value === undefined ? '' : ` ${option.value}`}${option.many === true ? ' …' : ''}`, what: option.what }))
  const width = Math.max(...shown.map(({ left }) => left.length))
  return [`aios ${usage(command)}`, '', command.what, '', ...shown.map(({ left, what }) => `  ${left.padEnd(width)}  ${what}`)].join('\n')
}
