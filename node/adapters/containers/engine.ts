import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { granted, MeshError, refused, type Verdict } from '../../../protocols/errors.ts'

const VERSION_MS = 10_000
const OUTPUT_BYTES = 4_194_304
const NAMES = ['podman', 'docker'] as const
export const HOST_LABEL = 'ai.aios.host'

const version = z.looseObject({ Client: z.looseObject({ Version: z.string() }).optional(), Server: z.looseObject({ Version: z.string() }).nullish() })

/** A container engine that answered on this host. */
export type Engine = {
  readonly name: (typeof NAMES)[number]
  readonly version: string
  /** Runs one of its commands to its end; its output. Throws RUNTIME_UNAVAILABLE with its last words. */
  run(args: readonly string[], signal?: AbortSignal): Promise<string>
}

/** The first of podman and docker that is installed and works, or why none does. */
export async function findEngine(): Promise<Verdict<Engine>> {
  const reasons: string[] = []
  for (const name of NAMES) {
    try {
      const said = version.parse(JSON.parse(await runEngine(name, ['version', '--format', '{{json .}}'], AbortSignal.timeout(VERSION_MS))))
      // Docker's client answers alone, too; podman is its own server.
      const found = name === 'docker' ? said.Server?.Version : (said.Client?.Version ?? said.Server?.Version)
      if (found === undefined) reasons.push(`${name}: its daemon does not answer`)
      else return granted({ name, version: found, run: (args, signal) => runEngine(name, args, signal) })
    } catch (error) {
      reasons.push(`${name}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
  return refused(`no container engine works here (${reasons.join('; ')})`)
}

/** Marks the containers of one daemon, so that its next life finds what this one left. */
export function hostLabel(dir: string): string {
  return `${HOST_LABEL}=${createHash('sha256').update(dir).digest('hex').slice(0, 24)}`
}

/** Ends what an earlier daemon on the same folder left running. */
export async function sweep(engine: Engine, label: string): Promise<number> {
  const left = (await engine.run(['ps', '--all', '--quiet', '--filter', `label=${label}`])).split('\n').filter(id => /^[0-9a-f]{12,64}$/.test(id))
  if (left.length > 0) await engine.run(['rm', '--force', ...left])
  return left.length
}

function runEngine(name: string, args: readonly string[], signal?: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(name, args, { maxBuffer: OUTPUT_BYTES, ...(signal === undefined ? {} : { signal }) }, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout)
      const missing = 'code' in error && error.code === 'ENOENT'
      const words = stderr.trim().split('\n').at(-1)
      reject(new MeshError('RUNTIME_UNAVAILABLE', missing ? 'not installed' : words === undefined || words === '' ? error.message.slice(0, 300) : words.slice(0, 300), { cause: error }))
    })
  })
}
