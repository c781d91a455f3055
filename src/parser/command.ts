import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { ComponentManifest } from '../../protocols/specs.ts'
import { nearestName } from '../lib/nearest-name.ts'
import { isObject, type JsonObject } from '../specs/document.ts'
import { specValues } from '../specs/envelope.ts'
import { Fields } from '../specs/fields.ts'
import { Problems } from '../specs/problems.ts'
import { parseTemplate, validate, withDefaults } from '../specs/template.ts'

export const SERVICES = ['instances', 'executor', 'autoscaler', 'health', 'stability_checker'] as const
export type CommandService = (typeof SERVICES)[number]

export type Command = {
  readonly blockId: string | undefined; readonly clusterId: string | undefined; readonly instanceId: string | undefined; readonly service: CommandService
  /** Nothing: which commands are there? */
  readonly name: string | undefined; readonly data: Json
}

const MEANINGS: Readonly<Record<CommandService, readonly string[]>> = { instances: ['instance'], executor: ['loadBalancer'], autoscaler: [], health: ['healthChecker'], stability_checker: [] }

/**
 * AIOS's management command: to a block's instances or services, or to a cluster's stability checker. Its samples leave `mgmtCommand` as
 * "" or {}: that runs nothing, and asks which commands there are. Throws SPEC_INVALID naming field, value and what would be right.
 */
export function parseCommand(document: unknown): Command {
  const problems = new Problems('management command')
  const spec = new Fields(specValues(document, 'management command'), '', problems)
  const [blockId, clusterId, instanceId] = [spec.text(['blockId']), spec.text(['clusterId']), spec.text(['instanceId'])]
  const service = spec.choice<CommandService>(['service'], MEANINGS, blockId === undefined ? 'stability_checker' : 'instances')
  const name = commandName(spec)
  const data = spec.find('mgmtData', 'payload', 'data') ?? null
  spec.refuseUnknown()
  if (blockId === undefined && clusterId === undefined) spec.wrong('blockId', undefined, 'name the block, or a clusterId for its stability_checker')
  if (blockId !== undefined && clusterId !== undefined) spec.wrong('clusterId', clusterId, 'a command goes to a block or to a cluster: leave out one of the two')
  if (blockId === undefined && service !== 'stability_checker') spec.wrong('service', service, 'it belongs to a block: name it as blockId, too; a cluster has only a stability_checker')
  if (instanceId !== undefined && blockId === undefined) spec.wrong('instanceId', instanceId, 'an instance is one of a block: name it as blockId, too')
  if (instanceId !== undefined && service !== 'instances') spec.wrong('instanceId', instanceId, `it goes with the service "instances", not "${service}"`)
  problems.settle()
  return { blockId, clusterId, instanceId, service, name, data }
}

function commandName(spec: Fields): string | undefined {
  const said = spec.find('mgmtCommand', 'mgmtAction', 'action', 'command')
  if (said === undefined || (isObject(said) && Object.keys(said).length === 0)) return undefined
  if (typeof said !== 'string' || said.length > 200) spec.wrong('mgmtCommand', said, 'name the command with a text of at most 200 characters; what it needs goes into mgmtData')
  return typeof said === 'string' && said !== '' ? said : undefined
}

/**
 * The data of a command as its component declares it, defaults filled in. A component that declares no commands takes any.
 * Throws SPEC_INVALID naming the command or the argument and what would be right.
 */
export function checkCommand({ name, data }: { readonly name: string; readonly data: Json }, manifest: Pick<ComponentManifest, 'componentURI' | 'componentManagementCommandsTemplate'>): Json {
  const declared = manifest.componentManagementCommandsTemplate
  const names = Object.keys(declared)
  if (names.length === 0) return data
  const wrong = (field: string, message: string): never => {
    throw new MeshError('SPEC_INVALID', `management command of ${manifest.componentURI}: ${field}: ${message}`, { details: { field } })
  }
  if (!Object.hasOwn(declared, name)) {
    const near = nearestName(name, names)
    wrong('mgmtCommand', `there is no command "${name.slice(0, 60)}"; ${near === undefined ? `use one of ${names.join(', ')}` : `did you mean "${near}"?`}`)
  }
  const args = argumentsOf(declared[name] ?? null)
  const given: JsonObject = data === null ? {} : isObject(data) ? data : wrong('mgmtData', `${JSON.stringify(data).slice(0, 60)} is not an object of arguments; "${name}" takes ${Object.keys(args).join(', ') || 'none'}`)
  const template = parseTemplate(args, `arguments of ${name}`)
  const known = Object.keys(template)
  const stray = Object.keys(given).find(argument => !known.includes(argument))
  if (stray !== undefined) {
    const near = nearestName(stray, known)
    wrong(`mgmtData.${stray.slice(0, 60)}`, `"${name}" has no such argument; ${near !== undefined ? `did you mean "${near}"?` : known.length === 0 ? 'it takes none' : `it takes ${known.join(', ')}`}`)
  }
  const [problem] = validate(template, given)
  if (problem !== undefined) wrong('mgmtData', problem)
  return data === null && known.length === 0 ? data : { ...withDefaults(template, given) }
}

/** `{ description, args }`, or the arguments themselves. */
function argumentsOf(declared: Json): JsonObject {
  if (!isObject(declared)) return {}
  const args = declared['args'] ?? declared['schema']
  if (isObject(args)) return args
  return Object.hasOwn(declared, 'description') || args !== undefined ? {} : declared
}
