import { digest, hex, utf8 } from '../../protocols/codec.ts'
import { PREFIX_BLOCK } from '../../protocols/stage.ts'

const HASH_BYTES = 16

/**
 * One hash for each full block of 64 prompt tokens, each covering all before it and the model: equal hashes mean equal KV.
 * The last token of a prompt is never covered, since its step gives the first logits.
 */
export function prefixHashes(model: string, prompt: readonly number[]): readonly string[] {
  const hashes: string[] = []
  let before = digest(utf8(`aios-prefix\0${model}`)).subarray(0, HASH_BYTES)
  for (let end = PREFIX_BLOCK; end < prompt.length; end += PREFIX_BLOCK) {
    const block = new Uint8Array(HASH_BYTES + 4 * PREFIX_BLOCK)
    block.set(before, 0)
    const view = new DataView(block.buffer, HASH_BYTES)
    for (let at = 0; at < PREFIX_BLOCK; at += 1) view.setUint32(4 * at, prompt[end - PREFIX_BLOCK + at] ?? 0, true)
    before = digest(block).subarray(0, HASH_BYTES)
    hashes.push(hex(before))
  }
  return hashes
}
