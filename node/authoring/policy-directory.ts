import { readFile } from 'node:fs/promises'
import type { PolicyRule } from '../../protocols/specs.ts'
import { parsePolicyRule } from '../../src/specs/policy.ts'
import { bundlePolicy } from './bundle.ts'
import { NO_CID } from './component-directory.ts'
import { DIRECTORY_LIMITS, invalid, readDirectory, type DirectoryLimits } from './directory.ts'
import { findDocument, inFile } from './document.ts'

export const RULE_ENTRIES = ['code/function', 'code/index', 'function', 'index', 'rule', 'policy'].flatMap(name => ['.ts', '.js', '.mjs'].map(ending => name + ending))

const WASM_ENTRIES = ['code/function', 'function', 'rule', 'policy'].map(name => `${name}.wasm`)
const WASM_BYTES = 1_048_576

/** Reads, checks and bundles a policy's directory. Stores nothing and runs nothing. Throws SPEC_INVALID naming file and field. */
export async function readPolicyDirectory(directory: string, author: string, limits: DirectoryLimits = DIRECTORY_LIMITS): Promise<{ readonly rule: PolicyRule; readonly source: string | Uint8Array; readonly entry: string }> {
  const files = await readDirectory(directory, limits)
  const document = await findDocument(files, 'policy.json', ['policy_rule_uri', 'policyRuleURI', 'release_tag', 'releaseTag'])
  const rule = inFile(document.path, () => parsePolicyRule(document.value, { author, code: NO_CID }))
  const module = files.find(({ path }) => WASM_ENTRIES.includes(path))
  if (rule.codeType === 'wasm_v1' || (module !== undefined && !files.some(({ path }) => RULE_ENTRIES.includes(path)))) {
    if (module === undefined) throw invalid(WASM_ENTRIES[0] ?? document.path, `is missing: put the WebAssembly module there, or in ${WASM_ENTRIES.slice(1).join(', ')}`)
    if (module.size > WASM_BYTES) throw invalid(module.path, `has ${module.size} bytes; the limit is ${WASM_BYTES}`)
    return { rule: { ...rule, codeType: 'wasm_v1' }, source: await readFile(module.absolute), entry: module.path }
  }
  const entry = RULE_ENTRIES.find(path => files.some(file => file.path === path))
  if (entry === undefined) {
    const python = files.find(({ path }) => path.endsWith('.py'))
    throw python === undefined
      ? invalid(RULE_ENTRIES[1] ?? document.path, `is missing: put the rule there, or in ${RULE_ENTRIES.slice(3, 6).join(', ')}`)
      : invalid(python.path, 'is Python: rules run as JavaScript here. Write the same class AIOSv1PolicyRule in code/function.js')
  }
  const { code } = await bundlePolicy(directory, entry)
  return { rule, source: code, entry }
}
