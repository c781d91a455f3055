import { MeshError } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import type { Ports, StageRunner, StageStep } from '../../src/ports.ts'
import { replacing } from '../../simulations/scenarios/planted.ts'
import { withStages } from '../../simulations/scenarios/planted-stages.ts'

export type Where = { readonly host: PeerId; /** First layer of the stage. */ readonly first: number }

/** Stages that fail when, where and how a test says: by default none does. */
export class FailingStages {
  /** What becomes of a step: `throws` as when the runtime refuses it, `hangs` for ever. */
  step: (step: StageStep, where: Where) => 'throws' | 'hangs' | undefined = () => undefined
  /** What becomes of a session's place: `forgets` what it had and has no room. */
  place: (where: Where) => 'forgets' | 'hangs' | undefined = () => undefined
  /** Can instances be started? */
  starts = true
  /** Steps that failed. */
  failed = 0

  /** The ports of a host whose stages may fail. */
  readonly corrupt = (ports: Ports): Ports => {
    const host = ports.identity.peer
    const changed = withStages(ports, stage => this.#failing(stage, { host, first: stage.spec.first }))
    const { backend } = changed
    return {
      ...changed,
      backend: {
        ...backend,
        start: async (request, signal) => {
          if (!this.starts) throw new MeshError('RUNTIME_UNAVAILABLE', 'no instance can be started here now')
          return backend.start(request, signal)
        },
      },
    }
  }

  #failing(stage: StageRunner, where: Where): StageRunner {
    return replacing(stage, {
      step: async (step: StageStep, signal: AbortSignal) => {
        const how = this.step(step, where)
        if (how === undefined) return stage.step(step, signal)
        this.failed += 1
        if (how === 'throws') throw new MeshError('INSTANCE_FAILED', 'the runtime refused the step')
        return new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
      },
      position: (session: string) => {
        if (this.place(where) === 'forgets') throw new MeshError('NOT_FOUND', 'no such session')
        return stage.position(session)
      },
      open: async (session: string, tokens: number, prefix: readonly string[]) => {
        const how = this.place(where)
        if (how === 'forgets') throw new MeshError('NO_CAPACITY', 'no room is left')
        return how === 'hangs' ? new Promise<never>(() => {}) : stage.open(session, tokens, prefix)
      },
    })
  }
}
