import { z } from 'zod'
import { MeshError } from '../../../protocols/errors.ts'
import type { BlockId, Json } from '../../../protocols/ids.ts'
import type { LayerRange } from './serving.ts'

/** AIOS's splitter answers `(ok, data)`; here as a pair, or as an object of either of its names. */
const said = z.union([
  z.tuple([z.boolean(), z.json()]).transform(([ok, data]) => ({ ok, data })),
  z.looseObject({ ok: z.boolean(), data: z.json().default(null) }),
  z.looseObject({ success: z.boolean(), data: z.json().default(null) }).transform(({ success, data }) => ({ ok: success, data })),
])
const range = z.tuple([z.int().nonnegative(), z.int().positive()])
const ranges = z.union([z.looseObject({ ranges: z.array(range).min(1) }).transform(({ ranges }) => ranges), z.looseObject({ model_split_config: z.record(z.string(), range) }).transform(({ model_split_config }) => Object.values(model_split_config))])

/** Asks a block one of the three things that a splitter answers. */
export type AskSplitter = (block: BlockId, step: 'begin' | 'main' | 'finish', data: Json) => Promise<Json>

/**
 * A splitter of an author's own: a block whose management commands are `begin` (may it be cut?), `main` (where: `{ ranges: [[first, end], …] }`)
 * and, once the parts are published, `finish` (what else the plan should say). Each is given the task and what the one before
 * answered. What it names is checked as anybody's ranges are.
 */
export class Splitter {
  readonly #block: BlockId
  readonly #ask: AskSplitter
  readonly #task: Json
  #extra: Json = null

  constructor(block: BlockId, task: Json, ask: AskSplitter) {
    this.#block = block
    this.#task = task
    this.#ask = ask
  }

  /** Throws RUN_FAILED with the splitter's own words, SPEC_INVALID when it names no ranges. */
  async ranges(model: Json): Promise<readonly LayerRange[]> {
    this.#extra = await this.#step('begin', { task_data: this.#task, model })
    this.#extra = await this.#step('main', { task_data: this.#task, model, extra: this.#extra })
    const parsed = ranges.safeParse(this.#extra)
    if (!parsed.success) throw new MeshError('SPEC_INVALID', `the splitter ${this.#block} must answer main with { "ranges": [[0, 4], [4, 8]] }`)
    return parsed.data.map(([first, end]) => ({ first, end }))
  }

  finish(parts: Json): Promise<Json> {
    return this.#step('finish', { task_data: this.#task, parts, extra: this.#extra })
  }

  async #step(step: 'begin' | 'main' | 'finish', data: Json): Promise<Json> {
    const parsed = said.safeParse(await this.#ask(this.#block, step, data))
    if (!parsed.success) throw new MeshError('RUN_FAILED', `the splitter ${this.#block} must answer ${step} with [ok, data]`)
    if (!parsed.data.ok) throw new MeshError('RUN_FAILED', `the splitter ${this.#block} failed in ${step}: ${JSON.stringify(parsed.data.data).slice(0, 500)}`)
    return parsed.data.data
  }
}
