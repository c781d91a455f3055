/** AIOS's LLM classes by their own names, over a model that the mesh serves. What was a call to a library is a call to a peer, so each answers a promise. */
import type { Json } from '../protocols/ids.ts'
import { ChatSessions } from './chat-sessions.ts'
import { LanguageModel, type GenerateOptions, type LanguageModelInfo, type LanguageModelOptions } from './language-model.ts'
import { LlmMetrics } from './llm-metrics.ts'

type Settings = Omit<LanguageModelOptions, 'model'> & { readonly generation_config?: GenerateOptions }

/** What AIOS calls otherwise than OpenAI. */
const NAMES: Readonly<Record<string, string>> = { max_new_tokens: 'max_tokens', num_sequences: 'n', num_return_sequences: 'n' }
const LLAMA_DEFAULTS: GenerateOptions = { max_tokens: 50, temperature: 1, top_p: 1, stop: ['Q:', '\n'] }

/** What both classes have. */
class ServedModelCalls {
  protected model: LanguageModel
  protected chats: ChatSessions
  protected readonly settings: Settings
  protected defaults: GenerateOptions
  readonly #tools = new Map<string, GenerateOptions>()
  readonly #open = new Set<string>()

  protected constructor(name: string, settings: Settings, defaults: GenerateOptions) {
    this.settings = settings
    this.defaults = { ...defaults, ...settings.generation_config }
    this.model = new LanguageModel({ ...settings, model: name })
    this.chats = new ChatSessions(this.model)
  }

  create_chat_session(session_id: string, system_message = '', tools_list?: readonly Json[] | null, tools_choice?: Json): void {
    this.chats.create(session_id, system_message === '' ? {} : { system: system_message })
    this.#tools.delete(session_id)
    if (tools_list !== undefined && tools_list !== null && tools_list.length > 0) this.#tools.set(session_id, { tools: tools_list, ...(tools_choice === undefined || tools_choice === null ? {} : { tool_choice: tools_choice }) })
    if (!this.#open.has(session_id)) this.model.metrics.increase_active_sessions()
    this.#open.add(session_id)
  }

  add_message_to_chat(session_id: string, message: string, role = 'user'): void {
    this.chats.add(session_id, role, message)
  }

  /** The assistant's text, which becomes part of the conversation. Older turns leave when the model's context gets short. */
  async run_chat_inference(session_id: string, options: GenerateOptions = {}): Promise<string> {
    // AIOS's default stops are for completions; a chat would end at its first line.
    const { stop: _, ...defaults } = this.defaults
    return (await this.chats.run(session_id, renamed({ ...defaults, ...this.#tools.get(session_id), ...options }))).text
  }

  remove_chat_session(session_id: string): boolean {
    this.#tools.delete(session_id)
    if (this.#open.delete(session_id)) this.model.metrics.decrease_active_sessions()
    return this.chats.remove(session_id)
  }
}

/** AIOS's `LLAMAUtils(model_path, use_gpu, gpu_id, metrics)`: `model_path` names a served model; where it runs is the mesh's to choose. */
export class LLAMAUtils extends ServedModelCalls {
  constructor(model_path: string, settings: Settings) {
    super(model_path, settings, LLAMA_DEFAULTS)
  }

  /** Whether the mesh serves it. */
  load_model(): Promise<boolean> {
    return this.model.info().then(() => true, () => false)
  }

  supports_chat(): Promise<boolean> {
    return this.model.supportsChat()
  }

  /** In llama.cpp's shape; with `stream` the text in pieces. */
  run_inference(prompt: string, stream?: false, options?: GenerateOptions): Promise<{ readonly id: string; readonly choices: readonly { readonly text: string; readonly finish_reason: string }[]; readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number } }>
  run_inference(prompt: string, stream: true, options?: GenerateOptions): AsyncGenerator<string>
  run_inference(prompt: string, stream = false, options: GenerateOptions = {}): unknown {
    if (stream) return this.stream_inference(prompt, options)
    return this.model.generate(prompt, renamed({ ...this.defaults, ...options })).then(({ id, text, finish, promptTokens, tokens }) => ({ id, choices: [{ text, finish_reason: finish }], usage: { prompt_tokens: promptTokens, completion_tokens: tokens } }))
  }

  /** Several answers to one prompt. */
  generate_text(prompt: string, num_sequences = 1, options: GenerateOptions = {}): Promise<readonly string[]> {
    return Promise.all(Array.from({ length: num_sequences }, async () => (await this.model.generate(prompt, renamed({ ...this.defaults, ...options }))).text))
  }

  stream_inference(prompt: string, options: GenerateOptions = {}): AsyncGenerator<string> {
    return this.model.stream(prompt, renamed({ ...this.defaults, ...options }))
  }

  tokenize(text: string): Promise<readonly number[]> {
    return this.model.tokenize(text)
  }

  detokenize(tokens: readonly number[]): Promise<string> {
    return this.model.detokenize(tokens)
  }

  get_model_info(): Promise<LanguageModelInfo> {
    return this.model.info()
  }

  set_seed(seed: number): boolean {
    this.model.setSeed(seed)
    return true
  }

  /** Models here never change: there is no state to save. */
  save_model(_save_path: string): boolean {
    return false
  }
}

/** AIOS's `TransformersUtils(model_name, …)`. Its `tensor_parallel` and `quantize` are the mesh's: a model is served in as many parts as its service says. */
export class TransformersUtils extends ServedModelCalls {
  #name: string

  constructor(model_name: string, settings: Settings) {
    super(model_name, settings, {})
    this.#name = model_name
  }

  /** Turns to another served model. Throws NOT_FOUND. */
  async load_model(model_name = this.#name): Promise<LanguageModelInfo> {
    if (model_name !== this.#name) {
      this.#name = model_name
      this.model = new LanguageModel({ ...this.settings, model: model_name })
      this.chats = new ChatSessions(this.model)
    }
    return this.model.info()
  }

  reload_model(): Promise<LanguageModelInfo> {
    return this.load_model()
  }

  set_generation_config(options: GenerateOptions): void {
    this.defaults = { ...this.defaults, ...options }
  }

  async generate(prompt: string, options: GenerateOptions = {}): Promise<string> {
    return (await this.model.generate(prompt, renamed({ ...this.defaults, ...options }))).text
  }

  /** Ids of the prompt and of what came after it, as the library's `generate` gives them. */
  async generate_tokens(prompt: string, options: GenerateOptions = {}): Promise<readonly number[]> {
    return this.model.tokenize(`${prompt}${await this.generate(prompt, options)}`)
  }

  async tokenize(text: string): Promise<{ readonly input_ids: readonly (readonly number[])[] }> {
    return { input_ids: [await this.model.tokenize(text)] }
  }

  decode(token_ids: readonly number[]): Promise<string> {
    return this.model.detokenize(token_ids)
  }

  /** Where the model is one of embeddings. */
  async get_embeddings(text: string): Promise<readonly number[]> {
    return (await this.model.embed([text]))[0] ?? []
  }

  async get_device_info(): Promise<{ readonly device: 'mesh'; readonly model: string; readonly tensor_parallel: boolean; readonly hosts: readonly string[] }> {
    const { stages } = await this.model.info()
    return { device: 'mesh', model: this.#name, tensor_parallel: stages.length > 1, hosts: [...new Set(stages.flatMap(({ hosts }) => hosts.map(({ peer }) => peer)))] }
  }
}

function renamed(options: GenerateOptions): GenerateOptions {
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [NAMES[name] ?? name, value]))
}

export { LlmMetrics as LLMMetrics }
