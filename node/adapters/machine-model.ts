/** The smallest ONNX models that show whether a provider works and how fast: written byte by byte, so nothing has to be shipped. */
const TYPES = { float32: 1, float16: 10 } as const

/** `c = a × b` for square matrices. Field numbers are those of onnx.proto3. */
export function matmulModel(size: number, dtype: keyof typeof TYPES = 'float32'): Uint8Array {
  const tensorType = field(1, [...varint(tag(1, 0)), TYPES[dtype], ...field(2, [...dimension(size), ...dimension(size)])])
  const value = (name: string): number[] => [...text(1, name), ...field(2, tensorType)]
  const node = [...text(1, 'a'), ...text(1, 'b'), ...text(2, 'c'), ...text(4, 'MatMul')]
  const graph = [...field(1, node), ...text(2, 'matmul'), ...field(11, value('a')), ...field(11, value('b')), ...field(12, value('c'))]
  // ir_version 8, opset 13: old enough for every runtime that still matters.
  return Uint8Array.from([...varint(tag(1, 0)), 8, ...field(7, graph), ...field(8, [...varint(tag(2, 0)), 13])])
}

function dimension(size: number): number[] {
  return field(1, [...varint(tag(1, 0)), ...varint(size)])
}

function text(number: number, value: string): number[] {
  return field(number, [...new TextEncoder().encode(value)])
}

function field(number: number, bytes: readonly number[]): number[] {
  return [...varint(tag(number, 2)), ...varint(bytes.length), ...bytes]
}

function tag(number: number, wireType: number): number {
  return number * 8 + wireType
}

function varint(value: number): number[] {
  const out: number[] = []
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...out, rest]
    out.push((rest % 128) + 128)
  }
}
