import { encode, recordCid, utf8 } from '../../protocols/codec.ts'
import { parseComponent, type ComponentDraft } from '../../src/specs/component.ts'
import { bundleComponent } from './bundle.ts'
import { DIRECTORY_LIMITS, invalid, readDirectory, type DirectoryFile, type DirectoryLimits } from './directory.ts'
import { findDocument, inFile } from './document.ts'
import { checkModelFile } from './model-check.ts'

/** A file of a component before it has a CID: on disk, or made here. */
export type Part = { readonly path: string; readonly size: number; readonly absolute?: string; readonly bytes?: Uint8Array }

export type ComponentDirectory = { readonly draft: ComponentDraft; readonly parts: readonly Part[]; readonly bytes: number }

/** Stands where a CID will be while a document is checked before anything is stored. */
export const NO_CID = recordCid(encode(null))

const ENTRY = 'entry.mjs'
const CODE = /\.[cm]?[jt]sx?$/
const TYPESCRIPT = /\.[cm]?tsx?$/
const RUN_HERE: ReadonlySet<string> = new Set(['node', 'onnx', 'tfjs', 'external'])
const MANIFEST_BYTES = 1_048_576

/** Reads and checks a component's directory and bundles its code. Stores nothing. Throws SPEC_INVALID naming file and field. */
export async function readComponentDirectory(directory: string, author: string, limits: DirectoryLimits = DIRECTORY_LIMITS): Promise<ComponentDirectory> {
  const all = await readDirectory(directory, limits)
  const document = await findDocument(all, 'component.json', ['componentId'])
  const files = all.filter(file => file.path !== document.path)
  const draft = inFile(document.path, () => parseComponent(document.value, { author, files: files.map(({ path }) => path) }))
  const { entry, model } = draft.runtime
  if (model !== undefined) await checkModelFile(model, files)
  const coded = entry !== undefined && RUN_HERE.has(draft.runtime.name) ? await withCode(directory, entry, files, draft) : { draft, parts: files }
  const bytes = coded.parts.reduce((sum, part) => sum + part.size, 0)
  const manifest = encode({ ...coded.draft, files: coded.parts.map(({ path, size }) => ({ path, size, cid: NO_CID })) })
  if (manifest.byteLength > MANIFEST_BYTES) throw invalid(document.path, `makes a manifest of ${manifest.byteLength} bytes; the limit is ${MANIFEST_BYTES}: publish large values or many small files as one asset`)
  return { draft: coded.draft, parts: coded.parts, bytes }
}

async function withCode(directory: string, entry: string, files: readonly DirectoryFile[], draft: ComponentDraft): Promise<{ readonly draft: ComponentDraft; readonly parts: readonly Part[] }> {
  const { code, inputs } = await bundleComponent(directory, entry)
  const bundled = new Set(inputs)
  // Data that code imports stays: it may be opened by its path as well.
  const kept = files.filter(({ path }) => path !== 'package.json' && !TYPESCRIPT.test(path) && !(bundled.has(path) && CODE.test(path)))
  if (kept.some(({ path }) => path === ENTRY)) throw invalid(ENTRY, 'has the name of the bundled code: rename it')
  const bytes = utf8(code)
  const parts: Part[] = [...kept, { path: ENTRY, size: bytes.byteLength, bytes }]
  parts.sort((a, b) => (a.path < b.path ? -1 : 1))
  return { draft: { ...draft, runtime: { ...draft.runtime, entry: ENTRY } }, parts }
}
