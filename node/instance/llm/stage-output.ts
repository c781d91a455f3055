/** What one step gave. */
export type StepOutput = {
  readonly hidden: Uint8Array | undefined
  readonly ids: Uint32Array | undefined
  readonly logits: Float32Array | undefined
  readonly kv: Uint8Array | undefined
  readonly computeMs: number
  readonly batch: number
}

/** Parts of one step, computed in chunks, as one. */
export function joined(outputs: readonly StepOutput[]): StepOutput {
  const [first] = outputs
  if (outputs.length === 1 && first !== undefined) return first
  const parts = <Part extends Uint8Array | Uint32Array | Float32Array>(pick: (output: StepOutput) => Part | undefined): readonly Part[] => outputs.map(pick).filter(part => part !== undefined)
  const hidden = parts(output => output.hidden)
  const kv = parts(output => output.kv)
  const ids = parts(output => output.ids)
  const logits = parts(output => output.logits)
  return {
    hidden: hidden.length === 0 ? undefined : concatenated(hidden, length => new Uint8Array(length)),
    kv: kv.length === 0 ? undefined : concatenated(kv, length => new Uint8Array(length)),
    ids: ids.length === 0 ? undefined : concatenated(ids, length => new Uint32Array(length)),
    logits: logits.length === 0 ? undefined : concatenated(logits, length => new Float32Array(length)),
    computeMs: outputs.reduce((sum, { computeMs }) => sum + computeMs, 0),
    batch: Math.max(...outputs.map(({ batch }) => batch)),
  }
}

function concatenated<Part extends Uint8Array | Uint32Array | Float32Array>(parts: readonly Part[], make: (length: number) => Part): Part {
  const out = make(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}
