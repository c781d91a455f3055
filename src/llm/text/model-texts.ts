import { MeshError } from '../../../protocols/errors.ts'
import type { Cid } from '../../../protocols/ids.ts'
import type { ModelManifest } from '../../../protocols/model.ts'
import type { BundleFile } from '../../../protocols/specs.ts'
import { Lru } from '../../lib/lru.ts'
import type { Clock, ContentStore } from '../../ports.ts'
import type { Models } from '../../roles.ts'
import { ModelText } from './model-text.ts'
import type { TextFiles } from './tokenizer-files.ts'

/** Tokenizers kept; one of a large vocabulary takes some hundred megabytes. */
const KEPT = 4
const FILE_BYTES = 67_108_864
const JSON_FILES = ['tokenizer_config.json', 'special_tokens_map.json', 'generation_config.json', 'config.json', 'genai_config.json'] as const

/** The texts of models of the network, each opened once for all who talk to it here. */
export class ModelTexts {
  readonly #models: Pick<Models, 'modelByCid'>
  readonly #content: Pick<ContentStore, 'cat'>
  readonly #clock: Pick<Clock, 'unix'>
  readonly #open = new Lru<Cid, Promise<ModelText>>(KEPT)

  constructor(models: Pick<Models, 'modelByCid'>, content: Pick<ContentStore, 'cat'>, clock: Pick<Clock, 'unix'>) {
    this.#models = models
    this.#content = content
    this.#clock = clock
  }

  /** By the CID of the model's manifest. Throws BAD_INPUT when the model came without a tokenizer, CONTENT_UNAVAILABLE, SPEC_INVALID. */
  async of(model: Cid, signal?: AbortSignal): Promise<ModelText> {
    const known = this.#open.get(model)
    if (known !== undefined) return known
    const opening = this.#read(model, signal)
    this.#open.set(model, opening)
    // Whoever comes next may have better luck.
    opening.catch(() => this.#open.peek(model) === opening && this.#open.delete(model))
    return opening
  }

  async #read(model: Cid, signal: AbortSignal | undefined): Promise<ModelText> {
    const manifest = await this.#models.modelByCid(model, signal)
    return new ModelText(await textFiles(manifest, file => this.#text(file, signal)), () => this.#clock.unix())
  }

  async #text({ path, cid, size }: BundleFile, signal: AbortSignal | undefined): Promise<string> {
    if (size > FILE_BYTES) throw new MeshError('SPEC_INVALID', `${path} has ${size} bytes; a text file of a model may have ${FILE_BYTES}`)
    const decoder = new TextDecoder()
    let text = ''
    for await (const bytes of this.#content.cat(cid, signal === undefined ? {} : { signal })) text += decoder.decode(bytes, { stream: true })
    return text + decoder.decode()
  }
}

async function textFiles({ files, modelURI }: Pick<ModelManifest, 'files' | 'modelURI'>, read: (file: BundleFile) => Promise<string>): Promise<TextFiles> {
  const named = (name: string): BundleFile | undefined => files.find(({ path }) => path === name || path.endsWith(`/${name}`))
  const tokenizer = named('tokenizer.json')
  if (tokenizer === undefined) throw new MeshError('BAD_INPUT', `${modelURI} was imported without a tokenizer.json: it takes and gives token ids only`)
  const json = async (file: BundleFile): Promise<unknown> => {
    const text = await read(file)
    try {
      return JSON.parse(text)
    } catch (cause) {
      throw new MeshError('SPEC_INVALID', `${file.path} of ${modelURI} is not JSON`, { cause })
    }
  }
  const given = await Promise.all(JSON_FILES.map(async name => {
    const file = named(name)
    return [name, file === undefined ? undefined : await json(file)] as const
  }))
  const template = named('chat_template.jinja')
  return { 'tokenizer.json': await json(tokenizer), ...Object.fromEntries(given), ...(template === undefined ? {} : { 'chat_template.jinja': await read(template) }) }
}
