import { Buffer } from 'node:buffer'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyRule } from '../../protocols/specs.ts'
import type { ContentStore } from '../../src/ports.ts'
import type { ArtefactCatalogue } from '../../src/registries/catalogue.ts'
import { WASM_SOURCE } from '../adapters/sandbox/wasm-guest.ts'
import { makeScratch } from '../adapters/scratch.ts'
import { bundlePolicy, bundlePolicyText } from './bundle.ts'
import { RULE_ENTRIES } from './policy-directory.ts'
import { unzip } from './unzip.ts'

const CODE_BYTES = 1_048_576
const ARCHIVE = { files: 200, bytes: 8_388_608 }
const FETCH_MS = 15_000
const ASSET = /^[^:\s/]{1,200}:[^:\s/]{1,100}$/
const CID = /^(?:ipfs:\/\/)?(baf[a-z2-7]{50,})$/
const PYTHON = /^\s*(?:class\s+AIOSv1PolicyRule\s*(?:\([^)]*\))?\s*:|def\s+\w+\s*\(.*\).*:|from\s+[\w.]+\s+import\s)/m
const NOT_PYTHON = 'is Python: rules run as JavaScript, TypeScript or WebAssembly here. Write the same class AIOSv1PolicyRule in JavaScript: `class AIOSv1PolicyRule { constructor(ruleId, settings, parameters) {} eval(parameters, inputData, context) {} management(action, data) {} }`'

export type CodePorts = { readonly content: Pick<ContentStore, 'cat'>; readonly catalogue: Pick<ArtefactCatalogue, 'asset'> }

/**
 * The code that a rule's document names: the source itself, `data:application/wasm;base64,…`, the CID or asset URI of a source, or
 * a web address of one; a zip of AIOS's `code/` folder wherever bytes are named. What comes from elsewhere is read once, here: afterwards
 * it is the content that counts. Throws SPEC_INVALID, NOT_FOUND, CONTENT_UNAVAILABLE.
 */
export async function readPolicyCode(code: Json | undefined, codeType: PolicyRule['codeType'], ports: CodePorts): Promise<string | Uint8Array> {
  if (typeof code !== 'string' || code.trim() === '') throw invalid('missing; give the source of the rule itself, the CID or URI of an asset that holds it, or publish a directory with `aios policy publish DIR`')
  if (code.startsWith(WASM_SOURCE)) return Buffer.from(code.slice(WASM_SOURCE.length), 'base64')
  const cid = CID.exec(code)?.[1]
  if (cid !== undefined) return compiled(await collected(ports.content.cat(cid, { signal: AbortSignal.timeout(FETCH_MS) })), codeType)
  if (/^https?:\/\//.test(code)) return compiled(await downloaded(code), codeType)
  if (ASSET.test(code)) {
    const { content } = await ports.catalogue.asset(code, AbortSignal.timeout(FETCH_MS))
    return compiled(await collected(ports.content.cat(content, { signal: AbortSignal.timeout(FETCH_MS) })), codeType)
  }
  return script(code)
}

async function compiled(bytes: Buffer, codeType: PolicyRule['codeType']): Promise<string | Uint8Array> {
  if (codeType === 'wasm_v1' || (bytes[0] === 0 && bytes.toString('latin1', 1, 4) === 'asm')) return bytes
  if (bytes.toString('latin1', 0, 4) === 'PK\u0003\u0004') return archive(bytes)
  if (bytes.readUIntBE(0, Math.min(6, bytes.byteLength)) === 0xfd377a585a00) throw invalid('is an archive of kind tar.xz, which is not read here: pack the same folder as a zip')
  return script(bytes.toString('utf8'))
}

async function script(source: string): Promise<string> {
  if (PYTHON.test(source)) throw invalid(NOT_PYTHON)
  return (await bundlePolicyText(source)).code
}

async function archive(bytes: Buffer): Promise<string> {
  const files = unzip(bytes, ARCHIVE)
  const entry = RULE_ENTRIES.find(path => files.has(path))
  const python = [...files.keys()].find(path => path.endsWith('.py'))
  if (entry === undefined) throw invalid(python === undefined ? `holds no ${RULE_ENTRIES.slice(0, 2).join(' or ')}` : `${python} ${NOT_PYTHON}`)
  const directory = makeScratch('policy')
  try {
    for (const [path, content] of files) {
      await mkdir(dirname(join(directory, path)), { recursive: true })
      await writeFile(join(directory, path), content)
    }
    return (await bundlePolicy(directory, entry)).code
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

async function downloaded(url: string): Promise<Buffer> {
  let response: Response
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(FETCH_MS), redirect: 'error' })
  } catch (cause) {
    throw new MeshError('CONTENT_UNAVAILABLE', `policy rule: code: ${url} does not answer: give the source itself instead`, { cause })
  }
  if (!response.ok || response.body === null) throw new MeshError('CONTENT_UNAVAILABLE', `policy rule: code: ${url} answers ${response.status}: give the source itself instead`)
  return collected(response.body)
}

async function collected(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of stream) {
    size += chunk.byteLength
    if (size > CODE_BYTES) throw invalid(`has more than ${CODE_BYTES} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

function invalid(because: string): MeshError {
  return new MeshError('SPEC_INVALID', `policy rule: code: ${because}`, { details: { field: 'code' } })
}
