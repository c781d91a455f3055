import type { BuildOptions, Loader, Message } from 'esbuild'
import { readFile, realpath } from 'node:fs/promises'
import { dirname, extname, join, relative, resolve, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { MeshError } from '../../protocols/errors.ts'
import { BUNDLE_GLOBAL } from '../adapters/sandbox/prelude.ts'
import { invalid, rootOf } from './directory.ts'

export type Bundle = {
  readonly code: string
  /** Files of the directory that went into it, relative, sorted. */
  readonly inputs: readonly string[]
}

const HOUSE = fileURLToPath(new URL('../../', import.meta.url))
const SDK = join(HOUSE, 'sdk', 'index.ts')
/** Native runtimes cannot be bundled; the host has its own. */
const HOST_MODULES = ['onnxruntime-node', '@tensorflow/*', 'aios-mesh/host/*']
const CODE_BYTES = 33_554_432
const RULE_CLASS = /\bclass\s+AIOSv1PolicyRule\b/
const EXPORTS = /\bexport\b|\bmodule\s*\.\s*exports\b|\bexports\s*\./

// Minified because esbuild's comments carry paths of this machine: the same sources must give the same bytes anywhere.
const SHARED = {
  bundle: true,
  write: false,
  metafile: true,
  minify: true,
  keepNames: true,
  charset: 'utf8',
  legalComments: 'none',
  logLevel: 'silent',
  treeShaking: true,
  tsconfigRaw: { compilerOptions: { target: 'es2024' } },
  alias: { 'aios-mesh/sdk': SDK, 'aios-mesh': SDK },
} as const satisfies BuildOptions

let building = 0

/** A component's entry and all it imports as one ES module for Node. Throws SPEC_INVALID that names file and line. */
export async function bundleComponent(directory: string, entry: string): Promise<Bundle> {
  return build(await rootOf(directory), {
    ...SHARED,
    entryPoints: [entry],
    format: 'esm',
    platform: 'node',
    target: 'node24',
    external: HOST_MODULES,
    // CommonJS dependencies still call require for Node's own modules.
    banner: { js: "import{createRequire as __require_of}from'node:module';const require=__require_of(import.meta.url);" },
  })
}

const RULE = { ...SHARED, format: 'iife', globalName: BUNDLE_GLOBAL, platform: 'neutral', mainFields: ['module', 'main'], target: 'es2023' } as const satisfies BuildOptions

/** A policy rule and all it imports as one script that the sandbox takes. Throws SPEC_INVALID that names file and line. */
export async function bundlePolicy(directory: string, entry: string): Promise<Bundle> {
  const root = await rootOf(directory)
  const source = await readFile(join(root, entry), 'utf8')
  if (EXPORTS.test(source)) return build(root, { ...RULE, entryPoints: [entry] })
  return build(root, { ...RULE, stdin: { contents: exported(source, entry), resolveDir: dirname(join(root, entry)), sourcefile: entry, loader: loaderOf(entry) } })
}

/** As `bundlePolicy`, of one text in JavaScript or TypeScript that imports nothing but the SDK. */
export async function bundlePolicyText(source: string): Promise<Bundle> {
  const sourcefile = 'code'
  const contents = EXPORTS.test(source) ? source : exported(source, sourcefile)
  const root = await realpath(HOUSE)
  try {
    return await build(root, { ...RULE, stdin: { contents, sourcefile, loader: 'js' } })
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    // What is no JavaScript may be TypeScript; where it is neither, what is wrong with it as JavaScript says more.
    return build(root, { ...RULE, stdin: { contents, sourcefile, loader: 'ts' } }).catch(() => {
      throw error
    })
  }
}

/** As AIOS's rules are written: a class that nothing exports. Throws SPEC_INVALID. */
function exported(source: string, entry: string): string {
  if (!RULE_CLASS.test(source)) throw invalid(entry, 'exports no rule: write "export default { eval(parameters, input, context) { … } }", or class AIOSv1PolicyRule')
  return `${source}\nexport { AIOSv1PolicyRule }\n`
}

async function build(root: string, options: BuildOptions): Promise<Bundle> {
  const esbuild = await import('esbuild')
  building += 1
  try {
    const { outputFiles, metafile } = await esbuild.build({ ...options, absWorkingDir: root })
    const code = outputFiles?.[0]?.text
    if (code === undefined || metafile === undefined) throw new MeshError('INTERNAL', 'the bundler wrote nothing')
    if (code.length > CODE_BYTES) throw new MeshError('SPEC_INVALID', `the bundled code has ${code.length} characters; the limit is ${CODE_BYTES}`)
    return { code, inputs: await contained(root, Object.keys(metafile.inputs)) }
  } catch (error) {
    if (isBuildFailure(error)) throw explained(error.errors)
    throw error
  } finally {
    building -= 1
    // Its child process is of no use until somebody publishes again.
    if (building === 0) await esbuild.stop()
  }
}

/** A bundle is made of its own directory, of installed packages and of the SDK; not of whatever else this machine has. */
async function contained(root: string, inputs: readonly string[]): Promise<readonly string[]> {
  const house = await realpath(HOUSE)
  const own: string[] = []
  for (const input of inputs) {
    const absolute = resolve(root, input)
    if (absolute.startsWith(root + sep) && !absolute.includes(`${sep}node_modules${sep}`)) own.push(relative(root, absolute).split(sep).join('/'))
    else if (!absolute.includes(`${sep}node_modules${sep}`) && !['sdk', 'protocols'].some(room => absolute.startsWith(join(house, room) + sep))) {
      throw invalid(input, 'is imported from outside the directory: copy it in, or install it as a package')
    }
  }
  return own.sort()
}

function loaderOf(path: string): Loader {
  return /\.[cm]?ts$/.test(extname(path)) ? 'ts' : 'js'
}

function isBuildFailure(error: unknown): error is { readonly errors: readonly Message[] } {
  return error instanceof Error && 'errors' in error && Array.isArray(error.errors) && error.errors.length > 0
}

function explained(errors: readonly Message[]): MeshError {
  const [first] = errors
  const said = errors.slice(0, 5).map(({ text, location }) => (location === null ? text : `${location.file}:${location.line}:${location.column + 1}: ${text}`))
  return new MeshError('SPEC_INVALID', said.join('; '), { details: { file: first?.location?.file ?? '', line: first?.location?.line ?? 0 } })
}
