import { fromAiosClass, type AiosBlockClass } from './aios-class.ts'
import type { BlockDefinition } from './definition.ts'
import { ComponentError } from './error.ts'

/**
 * Declares a block. The default export of a component's entry file.
 *
 * ```ts
 * export default defineBlock({
 *   load: async context => ({ words: await context.assets.json('words.json') }),
 *   data: (entry, context) => ({ length: String(entry.data).length }),
 * })
 * ```
 *
 * Also takes a class with AIOS's callbacks (`on_preprocess`, `on_data`, `on_update`, `health`, `management`, `get_muxer`).
 */
export function defineBlock<State>(definition: BlockDefinition<State>): BlockDefinition<State>
export function defineBlock(aiosClass: AiosBlockClass): BlockDefinition
export function defineBlock<State>(definition: BlockDefinition<State> | AiosBlockClass): BlockDefinition<State> | BlockDefinition {
  if (typeof definition === 'function') return asBlock(fromAiosClass(definition))
  if (typeof definition.data !== 'function') throw new ComponentError('a block needs a data(entry, context) function')
  return definition
}

/** AIOS's way to say it: `export default new Block(MyClass).run()`. */
export class Block {
  readonly #block: BlockDefinition

  constructor(aiosClass: AiosBlockClass) {
    this.#block = defineBlock(aiosClass)
  }

  /** Nothing runs yet: whoever loads the module runs it. */
  run(): BlockDefinition {
    return this.#block
  }
}

/** The block in a loaded module: its default export, or one named `block`; a definition or an AIOS class. Throws ComponentError. */
export function blockOf(module: Readonly<Record<string, unknown>>, where: string): BlockDefinition {
  for (const exported of [module.default, module.block]) {
    if (isAiosClass(exported)) return asBlock(fromAiosClass(exported))
    if (exported !== null && typeof exported === 'object' && 'data' in exported && typeof exported.data === 'function') return exported as BlockDefinition
  }
  const classes = Object.values(module).filter(isAiosClass)
  if (classes.length === 1) return asBlock(fromAiosClass(classes[0]!))
  throw new ComponentError(`${where} exports no block; write: export default defineBlock({ data(entry, context) { … } })`)
}

function isAiosClass(value: unknown): value is AiosBlockClass {
  if (typeof value !== 'function') return false
  const prototype: unknown = value.prototype
  return prototype !== null && typeof prototype === 'object' && 'on_data' in prototype
}

/** Forgets the type of a block's state: whoever runs it only hands back what `load` returned. */
function asBlock<State>(block: BlockDefinition<State>): BlockDefinition {
  return block as BlockDefinition
}
