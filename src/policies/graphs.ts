import { MeshError, type Verdict } from '../../protocols/errors.ts'
import type { Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import type { PolicyGraph } from '../../protocols/policy.ts'
import type { Clock } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import type { Artefacts } from '../registries/artefacts.ts'
import { orderOf, parsePolicyGraph } from '../specs/policy-graph.ts'
import { validate } from '../specs/template.ts'
import type { Functions } from './functions.ts'

const RUN_MS: Millis = 60_000
const FETCH_MS: Millis = 10_000

/** AIOS's fifth kind of execution: functions that feed one another, driven by whichever peer was asked. */
export class Graphs {
  readonly #clock: Pick<Clock, 'deadline'>
  readonly #view: MeshView
  readonly #artefacts: Artefacts<PolicyGraph>
  readonly #functions: Functions
  readonly #may: (peer: PeerId, right: Right) => Verdict<true>

  constructor(ports: { readonly clock: Pick<Clock, 'deadline'> }, parts: { readonly view: MeshView; readonly artefacts: Artefacts<PolicyGraph>; readonly functions: Functions; readonly may: (peer: PeerId, right: Right) => Verdict<true> }) {
    this.#clock = ports.clock
    this.#view = parts.view
    this.#artefacts = parts.artefacts
    this.#functions = parts.functions
    this.#may = parts.may
  }

  /** Throws SPEC_INVALID naming the field, GRAPH_INVALID naming the function, IMMUTABLE, FORBIDDEN. */
  async create(document: Json): Promise<{ readonly graph_uri: string; readonly cid: string }> {
    const verdict = this.#may(this.#view.self, 'publish')
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `this peer may not do that: ${verdict.because}`)
    const graph = parsePolicyGraph(document, this.#view.self)
    // The same again is not new, whoever publishes it.
    const author = await this.#artefacts.author(graph.graphURI).catch(() => graph.author)
    const { uri, cid } = await this.#artefacts.publish({ ...graph, author })
    return { graph_uri: uri, cid }
  }

  /**
   * Runs a graph: roots take the input, a function with one before it takes what that one gave, one with several a list of
   * what they gave. Throws NOT_FOUND, BAD_INPUT naming the field, what the function that fails throws, POLICY_FAILED when the output does not fit.
   */
  async execute(uri: string, input: Json, options: { readonly signal?: AbortSignal } = {}): Promise<Json> {
    const graph = await this.#graph(uri)
    const wrong = validate(graph.inputSchema, input)
    if (wrong.length > 0) throw new MeshError('BAD_INPUT', `${graph.graphURI}: its input does not fit: ${wrong.slice(0, 3).join('; ')}`)
    const stopped = new AbortController()
    const signal = this.#clock.deadline(RUN_MS, options.signal === undefined ? stopped.signal : AbortSignal.any([stopped.signal, options.signal]))
    const outputs = new Map<string, Promise<Json>>()
    const steps = orderOf(graph)
    for (const { name, after } of steps) outputs.set(name, this.#step(graph, name, after.map(from => outputs.get(from) ?? Promise.resolve(null)), input, signal))
    try {
      // All are awaited, so that none fails unheard; what failed first is what is told.
      const [leaf = null] = (await Promise.all(outputs.values())).slice(-1)
      const unfit = validate(graph.outputSchema, leaf)
      if (unfit.length > 0) throw new MeshError('POLICY_FAILED', `${graph.graphURI}: its output does not fit: ${unfit.slice(0, 3).join('; ')}`)
      return leaf
    } catch (error) {
      stopped.abort(error)
      throw error
    }
  }

  async #step({ graphURI }: PolicyGraph, name: string, before: readonly Promise<Json>[], input: Json, signal: AbortSignal): Promise<Json> {
    const given = await Promise.all(before)
    try {
      return await this.#functions.call(name, given.length === 0 ? input : given.length === 1 ? given[0] ?? null : given, { deadlineMs: RUN_MS, signal })
    } catch (error) {
      if (error instanceof MeshError) throw new MeshError(error.code, `${graphURI}: ${name}: ${error.message}`, { cause: error, details: error.details })
      throw error
    }
  }

  async #graph(uri: string): Promise<PolicyGraph> {
    return (await this.#artefacts.get(uri, this.#clock.deadline(FETCH_MS))).document
  }
}
