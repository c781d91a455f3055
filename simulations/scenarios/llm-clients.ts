import { MeshError } from '../../protocols/errors.ts'
import { generationRequest, type GenerationEvent, type GenerationRequest, type SessionId } from '../../protocols/generation.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { Generations } from '../../src/roles.ts'
import { drawToken, textOf } from '../answers.ts'
import type { Checker } from '../checkers.ts'
import type { Kernel } from '../kernel.ts'
import type { SeededRandom } from '../random.ts'
import { unfailed, type SimulatedStage } from '../stage.ts'

export type Model = Omit<SimulatedStage, 'first' | 'end'>

/** A peer that clients talk to, for as long as it lives. */
export type Door = { readonly peer: PeerId; readonly generations: Generations; readonly alive: () => boolean }

/** What a client asked for and what it was given. */
export type Story = {
  readonly key: string
  readonly request: GenerationRequest
  readonly expected: readonly number[]
  session: SessionId | undefined
  readonly tokens: number[]
  /** When each token came. */
  readonly times: Millis[]
  end: Extract<GenerationEvent, { kind: 'end' }> | undefined
  /** Refused before it was admitted. */
  refused: string | undefined
  wrong: string | undefined
}

const LOOK_MS = 50
const AGAIN_MS = 200
const DEADLINE_MS = 600_000

/** Clients that ask for generations, lose the peers they talk to, and go on at others. */
export class Clients {
  readonly stories: Story[] = []
  readonly #kernel: Kernel
  readonly #random: SeededRandom
  readonly #model: Model
  readonly #service: string
  readonly #doors: () => readonly Door[]
  readonly #mayFail: boolean

  /** `mayFail`: an answer may end early with what went wrong. */
  constructor(kernel: Kernel, random: SeededRandom, model: Model, service: string, doors: () => readonly Door[], mayFail = false) {
    this.#kernel = kernel
    this.#random = random
    this.#model = model
    this.#service = service
    this.#doors = doors
    this.#mayFail = mayFail
  }

  /** Asks, and follows to the end. Resolves when it is there, or the mesh has refused. */
  async ask(options: { readonly prompt: number; readonly tokens: number; readonly temperature: number; readonly door?: Door }): Promise<Story> {
    const prompt = Array.from({ length: options.prompt }, () => this.#random.below(this.#model.vocab))
    const request = generationRequest.parse({ model: this.#service, prompt, maxTokens: options.tokens, sampling: { temperature: options.temperature, seed: this.#random.below(1_000_000) }, ignoreEnd: true })
    const expected = unfailed(this.#model, prompt, options.tokens, (logits, position) => drawToken(request.sampling, logits, position))
    const story: Story = { key: `story-${this.stories.length}`, request, expected, session: undefined, tokens: [], times: [], end: undefined, refused: undefined, wrong: undefined }
    this.stories.push(story)
    await this.#begin(story, options.door)
    if (story.session !== undefined) await this.#follow(story, story.session, options.door)
    return story
  }

  /** Invariant 5: what clients are given is what an unfailed run gives, nothing twice, nothing left out; every admitted generation comes to its end. */
  checker(): Checker {
    return {
      name: 'tokens are those of an unfailed run',
      safety: () => this.stories.find(({ wrong }) => wrong !== undefined)?.wrong,
      pending: () => {
        const open = this.stories.filter(({ session, end }) => session !== undefined && end === undefined)
        return open.length === 0 ? undefined : `${open.length} of ${this.stories.length} generations have not ended, ${open[0]?.session} among them with ${open[0]?.tokens.length} of ${open[0]?.request.maxTokens} tokens`
      },
    }
  }

  async #begin(story: Story, first: Door | undefined): Promise<void> {
    const clock = this.#kernel.clock()
    for (let tries = 0; tries < 50 && story.session === undefined && story.refused === undefined; tries += 1) {
      const door = tries === 0 && first?.alive() === true ? first : this.#door()
      if (door === undefined) {
        await clock.sleep(AGAIN_MS)
        continue
      }
      try {
        // The same key at another peer: perhaps the first one began it before it died.
        story.session = await this.#whileAlive(door, door.generations.start(story.request, { key: story.key, deadlineMs: DEADLINE_MS }))
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
        if (!error.retryable) story.refused = error.message
        await clock.sleep(AGAIN_MS)
      }
    }
    if (story.session === undefined) story.refused ??= 'it was tried too often'
  }

  async #follow(story: Story, session: SessionId, first: Door | undefined): Promise<void> {
    const clock = this.#kernel.clock()
    for (let tries = 0; story.end === undefined && story.wrong === undefined; tries += 1) {
      const door = tries === 0 && first?.alive() === true ? first : this.#door()
      if (door === undefined) {
        await clock.sleep(AGAIN_MS)
        continue
      }
      const over = new AbortController()
      const events = door.generations.follow(session, story.tokens.length, over.signal)[Symbol.asyncIterator]()
      try {
        while (story.end === undefined && story.wrong === undefined) {
          const next = await this.#whileAlive(door, events.next())
          if (next === undefined || next.done === true) break
          this.#hear(story, next.value)
        }
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
      } finally {
        over.abort(new MeshError('CANCELLED', 'the client goes elsewhere'))
      }
      if (story.end === undefined) await clock.sleep(LOOK_MS)
    }
  }

  #hear(story: Story, event: GenerationEvent): void {
    const { session, tokens, expected } = story
    if (event.kind === 'end') {
      story.end = event
      if (this.#mayFail && event.reason === 'error') return
      if (event.reason !== 'length' || tokens.length !== expected.length) story.wrong = `${session} ended (${event.reason}: ${event.failure?.message ?? ''}) after ${tokens.length} of ${expected.length} tokens`
      return
    }
    if (event.index !== tokens.length) story.wrong = `${session} was given token ${event.index} after ${tokens.length} tokens`
    else if (event.token !== expected[event.index]) story.wrong = `token ${event.index} of ${session} is ${event.token}; an unfailed run gives ${expected[event.index]}`
    else if (event.text !== textOf(event.token)) story.wrong = `token ${event.index} of ${session} reads "${event.text}"`
    tokens.push(event.token)
    story.times.push(this.#kernel.now)
  }

  /** A peer that is gone answers nothing, ever. */
  async #whileAlive<T>(door: Door, work: Promise<T>): Promise<T | undefined> {
    const { promise, resolve } = Promise.withResolvers<undefined>()
    let cancel = (): void => {}
    const look = (): void => {
      if (!door.alive()) resolve(undefined)
      else cancel = this.#kernel.after(LOOK_MS, look)
    }
    look()
    try {
      return await Promise.race([work, promise])
    } finally {
      cancel()
    }
  }

  #door(): Door | undefined {
    const doors = this.#doors().filter(door => door.alive())
    return doors.length === 0 ? undefined : this.#random.pick(doors)
  }
}
