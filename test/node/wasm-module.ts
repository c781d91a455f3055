/** Hand-assembled WebAssembly modules: what a compiler of any language would hand in, and what nobody should. */
export type WasmParts = {
  /** Instructions of `eval(pointer, length) → i64`, without the closing end. */
  readonly eval: readonly number[]
  readonly management?: readonly number[]
  readonly init?: readonly number[]
  readonly save?: readonly number[]
  readonly restore?: readonly number[]
  /** Instructions of a start function. */
  readonly start?: readonly number[]
  readonly memory?: readonly number[]
  readonly table?: readonly number[]
  readonly imports?: readonly (readonly [module: string, name: string])[]
  readonly alloc?: readonly number[]
  readonly hide?: readonly string[]
  readonly data?: { readonly at: number; readonly bytes: readonly number[] }
}

const END = 0x0b
const [I32, I64] = [0x7f, 0x7e]

/** `local 0` and `local 1` as the packed answer. */
const packed = [0x20, 0, 0xad, 0x42, 32, 0x86, 0x20, 1, 0xad, 0x84]
/** Gives back the JSON it was given. */
export const ECHO = packed
/** Counts its calls in the first byte of its memory and answers the digit. */
export const COUNT = [
  0x41, 0, 0x41, 0, 0x2d, 0, 0, 0x41, 1, 0x6a, 0x3a, 0, 0,
  0x41, ...leb(512), 0x41, 0, 0x2d, 0, 0, 0x41, 48, 0x6a, 0x3a, 0, 0,
  ...answer(512, 1),
]
/** The digit that `COUNT` has come to, and back from it. */
export const SAVE = [0x41, ...leb(512), 0x41, 0, 0x2d, 0, 0, 0x41, 48, 0x6a, 0x3a, 0, 0, ...answer(512, 1)]
export const RESTORE = [0x41, 0, 0x20, 0, 0x2d, 0, 0, 0x41, 48, 0x6b, 0x3a, 0, 0, 0x42, 0]
export const LOOP = [0x03, 0x40, 0x0c, 0, END, 0x00]
export const TRAP = [0x00]

/** The constant answer at these bytes. */
export function answer(pointer: number, length: number): readonly number[] {
  return [0x41, ...leb(pointer), 0xad, 0x42, 32, 0x86, 0x41, ...leb(length), 0xad, 0x84]
}

/** Grows its memory a page at a time until it may not, and answers 1 if it has more than 128 of them: 8 MiB. */
export const GROW = [
  0x03, 0x40, 0x41, 1, 0x40, 0, 0x41, 0x7f, 0x47, 0x0d, 0, END,
  0x41, ...leb(512), 0x3f, 0, 0x41, ...leb(128), 0x4b, 0x41, 48, 0x6a, 0x3a, 0, 0,
  ...answer(512, 1),
]

export function wasm(parts: WasmParts): Uint8Array {
  const imports = parts.imports ?? []
  const functions = [
    { name: 'alloc', type: 0, code: parts.alloc ?? [0x41, ...leb(1_024)] },
    { name: 'eval', type: 1, code: parts.eval },
    ...(parts.management === undefined ? [] : [{ name: 'management', type: 1, code: parts.management }]),
    ...(parts.init === undefined ? [] : [{ name: 'init', type: 1, code: parts.init }]),
    ...(parts.save === undefined ? [] : [{ name: 'save', type: 1, code: parts.save }]),
    ...(parts.restore === undefined ? [] : [{ name: 'restore', type: 1, code: parts.restore }]),
    ...(parts.start === undefined ? [] : [{ name: '', type: 2, code: parts.start }]),
  ]
  const shown = functions.filter(({ name }) => name !== '' && parts.hide?.includes(name) !== true)
  const exports = [...shown.map(({ name }) => [...text(name), 0, ...leb(imports.length + functions.findIndex(one => one.name === name))]), ...(parts.hide?.includes('memory') === true ? [] : [[...text('memory'), 2, 0]])]
  return Uint8Array.from([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, vector([[0x60, 1, I32, 1, I32], [0x60, 2, I32, I32, 1, I64], [0x60, 0, 0]])),
    ...(imports.length === 0 ? [] : section(2, vector(imports.map(([module, name]) => [...text(module), ...text(name), 0, 2])))),
    ...section(3, vector(functions.map(({ type }) => [type]))),
    ...(parts.table === undefined ? [] : section(4, vector([parts.table]))),
    ...section(5, vector([parts.memory ?? [0, 1]])),
    ...section(7, vector(exports)),
    ...(parts.start === undefined ? [] : section(8, leb(imports.length + functions.findIndex(({ name }) => name === '')))),
    ...section(10, vector(functions.map(({ code }) => sized([0, ...code, END])))),
    ...(parts.data === undefined ? [] : section(11, vector([[0, 0x41, ...leb(parts.data.at), END, ...sized(parts.data.bytes)]]))),
  ])
}

/** As the sandbox takes it. */
export function source(module: Uint8Array): string {
  return `data:application/wasm;base64,${Buffer.from(module).toString('base64')}`
}

/** Signed LEB128, which small unsigned numbers share. */
function leb(value: number): number[] {
  const out: number[] = []
  let left = value
  while (left >= 64) {
    out.push((left & 0x7f) | 0x80)
    left = Math.floor(left / 128)
  }
  return [...out, left]
}

function section(id: number, body: readonly number[]): readonly number[] {
  return [id, ...sized(body)]
}

function sized(body: readonly number[]): readonly number[] {
  return [...unsigned(body.length), ...body]
}

function vector(items: readonly (readonly number[])[]): readonly number[] {
  return [...unsigned(items.length), ...items.flat()]
}

function unsigned(value: number): readonly number[] {
  return value < 128 ? [value] : [(value & 0x7f) | 0x80, ...unsigned(Math.floor(value / 128))]
}

function text(value: string): readonly number[] {
  return sized([...Buffer.from(value)])
}
