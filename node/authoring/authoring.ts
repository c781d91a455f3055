import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { basename } from 'node:path'
import { encode, recordCid, utf8 } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Cid, Json } from '../../protocols/ids.ts'
import type { BundleFile, ComponentManifest, PolicyRule } from '../../protocols/specs.ts'
import type { ContentStore, Identity, Journal, Sandbox } from '../../src/ports.ts'
import type { ArtefactCatalogue } from '../../src/registries/catalogue.ts'
import { parseAsset } from '../../src/specs/asset.ts'
import { specValues } from '../../src/specs/envelope.ts'
import { parsePolicyRule } from '../../src/specs/policy.ts'
import { WASM_SOURCE } from '../adapters/sandbox/wasm-guest.ts'
import { NO_CID, readComponentDirectory, type Part } from './component-directory.ts'
import { DIRECTORY_LIMITS, invalid, type DirectoryLimits } from './directory.ts'
import { inFile } from './document.ts'
import { importModel, type ImportedModel, type ImportOptions } from './model-import.ts'
import { readPolicyCode } from './policy-code.ts'
import { readPolicyDirectory } from './policy-directory.ts'

export type AuthoringPorts = {
  readonly content: ContentStore
  readonly sandbox: Sandbox
  readonly identity: Pick<Identity, 'peer'>
  readonly journal: Pick<Journal, 'get' | 'set'>
  readonly catalogue: Pick<ArtefactCatalogue, 'component' | 'pinned' | 'policy' | 'asset' | 'publishComponent' | 'publishPolicy' | 'publishAsset' | 'publishModel'>
}

export type PublishProgress = { readonly path: string; readonly doneBytes: number; readonly totalBytes: number }
export type PublishOptions = { readonly signal?: AbortSignal; readonly progress?: (progress: PublishProgress) => void }
export type Published = { readonly uri: string; readonly cid: Cid; readonly files: number; readonly bytes: number; readonly existing: boolean }

/** Turns directories and files into published artefacts. Nothing gets a name before all of it was checked and stored. */
export class Authoring {
  readonly #ports: AuthoringPorts
  readonly #limits: DirectoryLimits

  constructor(ports: AuthoringPorts, limits: DirectoryLimits = DIRECTORY_LIMITS) {
    this.#ports = ports
    this.#limits = limits
  }

  /**
   * Publishes a component: its manifest, its code as one bundled module, its models and assets as they are. Publishing the same
   * again, on whichever peer, changes nothing and leaves it to its first author. Throws SPEC_INVALID naming file and field, IMMUTABLE, STORAGE_FULL; bytes stored before a
   * failure stay local, where the next try finds them.
   */
  async publishComponent(directory: string, options: PublishOptions = {}): Promise<Published> {
    const { draft: written, parts, bytes } = await readComponentDirectory(directory, this.#ports.identity.peer, this.#limits)
    const { catalogue } = this.#ports
    const mine = await catalogue.pinned(written)
    const before = await absent(catalogue.component(mine.componentURI, options.signal))
    const draft = { ...mine, author: before?.manifest.author ?? mine.author }
    if (before !== undefined && shape(before.manifest) !== shape({ ...draft, files: parts.map(part => ({ ...part, cid: NO_CID })) })) {
      throw new MeshError('IMMUTABLE', `${draft.componentURI} was published by ${before.manifest.author} with other content; a version never changes: raise its version or releaseTag`, { details: { uri: draft.componentURI, published: before.cid } })
    }
    const files = await this.#store(parts, bytes, options)
    const { uri, cid } = await catalogue.publishComponent({ ...draft, files: [...files] })
    return { uri, cid, files: files.length, bytes, existing: before !== undefined }
  }

  /** Publishes a policy rule as one script, after the sandbox has opened it. Throws SPEC_INVALID, IMMUTABLE, STORAGE_FULL. */
  async publishPolicy(directory: string, options: PublishOptions = {}): Promise<Published> {
    const { rule, source, entry } = await readPolicyDirectory(directory, this.#ports.identity.peer, this.#limits)
    return this.#publishRule(rule, source, entry, options)
  }

  /** As `publishPolicy`, for AIOS's document of a rule, whose `code` says where its source is. Throws SPEC_INVALID naming the field, IMMUTABLE, CONTENT_UNAVAILABLE. */
  async publishPolicyDocument(document: Json, options: PublishOptions = {}): Promise<Published> {
    const { code, ...rest } = specValues(document, 'policy rule')
    const rule = parsePolicyRule(rest, { author: this.#ports.identity.peer, code: NO_CID })
    const source = await readPolicyCode(code, rule.codeType, this.#ports)
    return this.#publishRule({ ...rule, codeType: typeof source === 'string' ? 'js_module_v1' : 'wasm_v1' }, source, 'code', options)
  }

  async #publishRule(rule: PolicyRule, source: string | Uint8Array, entry: string, options: PublishOptions): Promise<Published> {
    options.signal?.throwIfAborted()
    const text = typeof source === 'string' ? source : `${WASM_SOURCE}${Buffer.from(source).toString('base64')}`
    const opened = await this.#ports.sandbox.open(text, { ruleId: rule.policyRuleURI, settings: rule.settings, parameters: rule.parameters })
    if (!opened.ok) throw invalid(entry, `does not open in the sandbox with the parameters and settings it is published with: ${opened.message}`)
    opened.rule.close()
    const before = await absent(this.#ports.catalogue.policy(rule.policyRuleURI, options.signal))
    const { code: _, ...unstored } = rule
    const { uri, cid } = await this.#ports.catalogue.publishPolicy({ ...unstored, author: before?.rule.author ?? unstored.author }, source)
    const bytes = typeof source === 'string' ? utf8(source).byteLength : source.byteLength
    options.progress?.({ path: entry, doneBytes: bytes, totalBytes: bytes })
    return { uri, cid, files: 1, bytes, existing: before !== undefined }
  }

  /** Publishes one file. The name is the file's own unless given. Throws BAD_INPUT, SPEC_INVALID, IMMUTABLE, STORAGE_FULL. */
  async publishAsset(file: string, named: { readonly name?: string | undefined; readonly version?: string | undefined; readonly releaseTag?: string | undefined } = {}, options: PublishOptions = {}): Promise<Published> {
    const size = await sizeOf(file)
    if (size > this.#limits.fileBytes) throw invalid(file, `has ${size} bytes; the limit is ${this.#limits.fileBytes}`)
    const document = { name: named.name ?? basename(file), version: named.version ?? '1.0.0', releaseTag: named.releaseTag ?? 'stable' }
    // Before the bytes are stored: a bad name should cost nothing.
    const { assetURI } = inFile(basename(file), () => parseAsset(document, { author: this.#ports.identity.peer, content: NO_CID, size }))
    const before = await absent(this.#ports.catalogue.asset(assetURI, options.signal))
    if (before !== undefined && before.size !== size) throw new MeshError('IMMUTABLE', `${assetURI} was published by ${before.author} with ${before.size} bytes; a version never changes: raise its version or tag`, { details: { uri: assetURI } })
    const [stored] = await this.#store([{ path: basename(file), size, absolute: file }], size, options)
    if (stored === undefined) throw new MeshError('INTERNAL', 'the file was not stored')
    const author = before?.author ?? this.#ports.identity.peer
    const { uri, cid } = await this.#ports.catalogue.publishAsset(parseAsset(document, { author, content: stored.cid, size }))
    return { uri, cid, files: 1, bytes: size, existing: before !== undefined }
  }

  /** Imports a language model or a sentence encoder from its ONNX export. Throws NOT_FOUND, BAD_INPUT, SPEC_INVALID naming what stops it, IMMUTABLE, STORAGE_FULL. */
  importModel(path: string, options: ImportOptions = {}): Promise<ImportedModel> {
    const { content, catalogue, identity, journal } = this.#ports
    return importModel({ content, catalogue, journal, author: identity.peer }, path, options)
  }

  async #store(parts: readonly Part[], totalBytes: number, { signal, progress }: PublishOptions): Promise<readonly BundleFile[]> {
    const files: BundleFile[] = []
    let doneBytes = 0
    for (const part of parts) {
      signal?.throwIfAborted()
      const counted = (chunk: number): void => {
        doneBytes += chunk
        progress?.({ path: part.path, doneBytes, totalBytes })
      }
      const { cid, size } = await this.#ports.content.add(bytesOf(part, counted), signal)
      if (size !== part.size) throw invalid(part.path, `changed while it was being published: it had ${part.size} bytes and has ${size}`)
      files.push({ path: part.path, cid, size })
    }
    return files
  }
}

export function createAuthoring(ports: AuthoringPorts, limits: DirectoryLimits = DIRECTORY_LIMITS): Authoring {
  return new Authoring(ports, limits)
}

/** Everything of a manifest but the CIDs of its files, as text that can be compared before the files are stored. */
function shape(manifest: ComponentManifest): string {
  return recordCid(encode({ ...manifest, files: manifest.files.map(({ path, size }) => ({ path, size })) }))
}

async function* bytesOf(part: Part, counted: (bytes: number) => void): AsyncIterable<Uint8Array> {
  if (part.bytes !== undefined) {
    yield part.bytes
    counted(part.bytes.byteLength)
    return
  }
  if (part.absolute === undefined) return
  // One byte more than there was, so that a file that grew is noticed and not cut off in silence.
  for await (const chunk of createReadStream(part.absolute, { highWaterMark: 1_048_576, end: part.size })) {
    if (!(chunk instanceof Uint8Array)) continue
    yield chunk
    counted(chunk.byteLength)
  }
}

async function sizeOf(file: string): Promise<number> {
  try {
    const found = await stat(file)
    if (found.isFile()) return found.size
  } catch (cause) {
    throw new MeshError('BAD_INPUT', `${file}: no such file`, { cause })
  }
  throw new MeshError('BAD_INPUT', `${file} is not a regular file`)
}

/** undefined where the catalogue holds nothing by that name. */
async function absent<T>(looked: Promise<T>): Promise<T | undefined> {
  try {
    return await looked
  } catch (error) {
    if (error instanceof MeshError && error.code === 'NOT_FOUND') return undefined
    throw error
  }
}
