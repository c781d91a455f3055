/** Splits random models of every variant and family in 2, 3 and 4 and prints how far their logits lie from the whole model's, as one line of JSON. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FAMILIES } from '../../fixtures/llm/shapes.ts'
import { makeModel, type ModelOptions } from '../../fixtures/llm/make-model.ts'
import { VARIANT_NAMES } from '../../fixtures/llm/decoder.ts'
import { distances } from './stage-chain.ts'

const PARTS = [2, 3, 4]
const TOKENS = 64
/** ONNX Runtime keeps the activations of this one in fp32 from layer to layer; a cut rounds them. */
const ROUNDED = 'plain-fp16'

const cases: ModelOptions[] = [...VARIANT_NAMES.map(variant => ({ variant })), ...FAMILIES.filter(family => family !== 'llama').map(family => ({ variant: 'plain' as const, shape: { family } }))]
const root = mkdtempSync(join(tmpdir(), 'aios-exact-'))
let [most, mostRounded, count] = [0, 0, 0]
try {
  for (const [at, options] of cases.entries()) {
    const { directory } = makeModel(join(root, String(at)), options)
    for (const apart of await distances(directory, PARTS, TOKENS)) {
      if (options.variant === ROUNDED) mostRounded = Math.max(mostRounded, apart)
      else most = Math.max(most, apart)
      count += 1
    }
    rmSync(directory, { recursive: true, force: true })
    process.stderr.write(`\r${at + 1} of ${cases.length} models`)
  }
} finally {
  rmSync(root, { recursive: true, force: true })
}
process.stderr.write('\n')
process.stdout.write(`${JSON.stringify({ max_diff: most, cases: count, max_diff_plain_fp16: mostRounded, tokens: TOKENS })}\n`)
