import type { PolicyRule } from '../../protocols/specs.ts'
import { parsePolicyRule } from '../../src/specs/policy.ts'
import { bundlePolicy } from './bundle.ts'
import { NO_CID } from './component-directory.ts'
import { DIRECTORY_LIMITS, invalid, readDirectory, type DirectoryLimits } from './directory.ts'
import { findDocument, inFile } from './document.ts'

const RULE_ENTRIES = ['code/function', 'code/index', 'function', 'index', 'rule', 'policy'].flatMap(name => ['.ts', '.js', '.mjs'].map(ending => name + ending))

/** Reads, checks and bundles a policy's directory. Stores nothing and runs nothing. Throws SPEC_INVALID naming file and field. */
export async function readPolicyDirectory(directory: string, author: string, limits: DirectoryLimits = DIRECTORY_LIMITS): Promise<{ readonly rule: PolicyRule; readonly source: string; readonly entry: string }> {
  const files = await readDirectory(directory, limits)
  const document = await findDocument(files, 'policy.json', ['policy_rule_uri', 'policyRuleURI', 'release_tag', 'releaseTag'])
  const rule = inFile(document.path, () => parsePolicyRule(document.value, { author, code: NO_CID }))
  if (rule.codeType !== 'js_module_v1') throw invalid(document.path, `codeType: ${rule.codeType} rules are not run yet; write the rule in JavaScript or TypeScript`)
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
