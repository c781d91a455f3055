import { decode, encode } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import { policyJob, policyJobState } from '../../protocols/policy.ts'
import type { Identity, Journal } from '../ports.ts'
import { readJob, standing, type Job } from './job-state.ts'

const CELL = 'policy-job/'
/** Jobs kept here; finished ones leave first, oldest first. */
const KEPT = 10_000

/** The jobs this peer keeps: durable before `keep` resolves, and each in its newest state. */
export class JobBook {
  readonly #journal: Pick<Journal, 'get' | 'set' | 'keys'>
  readonly #identity: Identity
  readonly #jobs = new Map<string, Job>()
  readonly #unfinished = new Set<string>()
  /** Writes of one job follow one another. */
  readonly #writing = new Map<string, Promise<unknown>>()

  constructor(journal: Pick<Journal, 'get' | 'set' | 'keys'>, identity: Identity) {
    this.#journal = journal
    this.#identity = identity
  }

  /** Reads what was kept before a restart. */
  async open(): Promise<void> {
    for (const key of await this.#journal.keys(CELL)) {
      const bytes = await this.#journal.get(key)
      if (bytes === undefined) continue
      const job = readJob(this.#identity, decode(policyJobState, bytes, policyJob.limits.requestBytes, key))
      this.#note(job)
    }
  }

  get(id: string): Job | undefined {
    return this.#jobs.get(id)
  }

  /** Sorted by id. */
  all(): readonly Job[] {
    return [...this.#jobs.values()].sort((a, b) => (a.body.id < b.body.id ? -1 : 1))
  }

  /** Sorted by id. */
  unfinished(): readonly Job[] {
    return [...this.#unfinished].sort().flatMap(id => this.#jobs.get(id) ?? [])
  }

  get waiting(): boolean {
    return this.#unfinished.size > 0
  }

  /** Keeps the newer of what is known and what is offered; durable when it resolves. Throws OVERLOADED, STORAGE_FULL. */
  async keep(offered: Job): Promise<Job> {
    const { id } = offered.body
    const before = this.#writing.get(id) ?? Promise.resolve()
    const write = before.catch(() => undefined).then(() => this.#write(offered))
    this.#writing.set(id, write)
    try {
      return await write
    } finally {
      if (this.#writing.get(id) === write) this.#writing.delete(id)
    }
  }

  async #write(offered: Job): Promise<Job> {
    const { id } = offered.body
    const known = this.#jobs.get(id)
    const job = known === undefined ? offered : standing(known, offered)
    if (job === known) return job
    if (known === undefined) await this.#makeRoom()
    await this.#journal.set(`${CELL}${id}`, encode(job.state))
    this.#note(job)
    return job
  }

  #note(job: Job): void {
    this.#jobs.set(job.body.id, job)
    if (job.result === undefined) this.#unfinished.add(job.body.id)
    else this.#unfinished.delete(job.body.id)
  }

  async #makeRoom(): Promise<void> {
    if (this.#jobs.size < KEPT) return
    const [oldest] = [...this.#jobs.values()].filter(({ result }) => result !== undefined).sort((a, b) => a.body.submittedAt - b.body.submittedAt)
    if (oldest === undefined) throw new MeshError('OVERLOADED', `${KEPT} jobs wait here: submit more when some are done`)
    this.#jobs.delete(oldest.body.id)
    await this.#journal.set(`${CELL}${oldest.body.id}`, undefined)
  }
}
