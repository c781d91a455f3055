import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { ComponentManifest } from '../../protocols/specs.ts'
import { nearestName } from '../lib/nearest-name.ts'
import { isObject, type JsonObject } from '../specs/document.ts'
import { specValues } from '../specs/envelope.ts'
import { parseTemplate, validate, withDefaults } from '../specs/template.ts'

export const SERVICES = ['instances', 'executor', 'autoscaler', 'health', 'stability_checker'] as const
export type CommandService = (typeof SERVICES)[number]

const command = z.looseObject({
  blockId: z.string().min(1).optional(), clusterId: z.string().min(1).optional(), instanceId: z.string().min(1).optional(),
  service: z.enum(SERVICES, { error: `use one of ${SERVICES.join(', ')}` }).optional(),
  mgmtCommand: z.string('name the command').min(1, 'name the command'), mgmtData: z.json().default(null),
})
export type Command = { readonly blockId: string | undefined; readonly clusterId: string | undefined; readonly instanceId: string | undefined; readonly service: CommandService; readonly name: string; readonly data: Json }

/** AIOS's management command: to a block's instances or services, or to a cluster's stability checker. Throws SPEC_INVALID naming the field. */
export function parseCommand(document: unknown): Command {
  const values = specValues(document, 'management command')
  const parsed = command.safeParse(values)
  if (!parsed.success) throw new MeshError('SPEC_INVALID', `management command: ${parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${JSON.stringify(values[String(path[0])] ?? null).slice(0, 60)}: ${message}`).join('; ')}`)
  const { blockId, clusterId, instanceId, mgmtCommand: name, mgmtData: data } = parsed.data
  const service = parsed.data.service ?? (blockId === undefined ? 'stability_checker' : 'instances')
  const wrong = (field: string, message: string): never => {
    throw new MeshError('SPEC_INVALID', `management command: ${field}: ${message}`, { details: { field } })
  }
  if (blockId === undefined && clusterId === undefined) wrong('blockId', 'missing; name the block, or a clusterId for its stability_checker')
  if (blockId === undefined && service !== 'stability_checker') wrong('service', `"${service}" belongs to a block: name it as blockId; a cluster has only a stability_checker`)
  if (instanceId !== undefined && blockId === undefined) wrong('instanceId', 'an instance is one of a block: name it as blockId, too')
  if (instanceId !== undefined && service !== 'instances') wrong('instanceId', `goes with the service "instances", not "${service}"`)
  return { blockId, clusterId, instanceId, service, name, data }
}

/**
 * The data of a command as its component declares it, defaults filled in. A component that declares no commands takes any.
 * Throws SPEC_INVALID naming the command or the argument and what would be right.
 */
export function checkCommand({ name, data }: Pick<Command, 'name' | 'data'>, manifest: Pick<ComponentManifest, 'componentURI' | 'componentManagementCommandsTemplate'>): Json {
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
