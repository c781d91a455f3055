import { z } from 'zod'
import { check, hex, utf8 } from '../../protocols/codec.ts'
import { asMeshError, MeshError, type Verdict } from '../../protocols/errors.ts'
import type { Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import { policyJob, policyJobBody, type PolicyJobState } from '../../protocols/policy.ts'
import { background } from '../lib/background.ts'
import { Beat } from '../lib/beat.ts'
import { retry } from '../lib/backoff.ts'
import type { JsonObject } from '../lib/json.ts'
import { foremost } from '../lib/rendezvous.ts'
import type { Ports, Random } from '../ports.ts'
import type { Catalogue, MeshView } from '../roles.ts'
import { seal } from '../trust/seal.ts'
import type { Policies } from './calls.ts'
import { jobDocument, ruleDocument } from './documents.ts'
import { allocatorOf, type Executors } from './executors.ts'
import { JobBook } from './job-book.ts'
import { JOB_BYTES, readJob, type Job } from './job-state.ts'
import { startsWith } from './precedence.ts'

const KEEPERS = 3
const LOOK_MS: Millis = 1_000
const PAGE = 128
const PAGE_CHARS = 2_097_152
/** Peers asked for their jobs at once, and how many pages of each. */
const ASKED_AT_ONCE = 16
const PAGES = 20
/** A rule whose holders cannot be reached just now may be reached soon; what the rule itself says is final. */
const AGAIN = { firstMs: 500, maxMs: 5_000, retries: 5 }

const given = z.looseObject({
  job_id: z.string().optional(),
  name: z.string('name the job').min(1).max(200),
  policy_rule_uri: z.string('name the rule').min(1).max(300),
  policy_rule_parameters: z.record(z.string(), z.json()).nullish(),
  node_selector: z.record(z.string(), z.coerce.string()).nullish(),
  inputs: z.json().default({}),
  alloc: z.json().optional(),
})

type JobPorts = Pick<Ports, 'clock' | 'identity' | 'journal' | 'network' | 'random' | 'telemetry'>

/** AIOS's third kind of execution: rules run once, for long if need be, by whichever executor lives to finish them. */
export class Jobs {
  readonly #ports: JobPorts
  readonly #random: Random
  readonly #view: MeshView
  readonly #catalogue: Pick<Catalogue, 'policy'>
  readonly #policies: Policies
  readonly #executors: Executors
  readonly #may: (peer: PeerId, right: Right) => Verdict<true>
  readonly #book: JobBook
  /** Epochs of jobs this peer runs or has queued. */
  readonly #mine = new Map<string, number>()
  /** Which state each peer was told of, by job. */
  readonly #told = new Map<string, Map<PeerId, PolicyJobState>>()
  #turn: Promise<unknown> = Promise.resolve()
  #unhear: () => void = () => undefined
  readonly #beat: Beat
  #stopped = false

  constructor(ports: JobPorts, parts: { readonly view: MeshView; readonly catalogue: Pick<Catalogue, 'policy'>; readonly policies: Policies; readonly executors: Executors; readonly may: (peer: PeerId, right: Right) => Verdict<true> }) {
    this.#ports = ports
    this.#random = ports.random.fork('jobs')
    this.#view = parts.view
    this.#catalogue = parts.catalogue
    this.#policies = parts.policies
    this.#executors = parts.executors
    this.#may = parts.may
    this.#book = new JobBook(ports.journal, ports.identity)
    this.#beat = new Beat(ports.clock, LOOK_MS, { needed: () => this.#told.size > 0 || this.#book.waiting, look: () => this.#look() })
  }

  /** Goes on with what it had before a restart. */
  async start(): Promise<void> {
    await this.#book.open()
    this.#ports.network.handle(policyJob, async (request, from) => {
      const verdict = this.#may(from, 'join')
      if (!verdict.ok) throw new MeshError('FORBIDDEN', verdict.because)
      if (request.do === 'read') return { known: this.#book.get(request.job)?.state }
      if (request.do === 'list') return this.#page(request.after)
      return { known: (await this.#heard(readJob(this.#ports.identity, request.state))).state }
    })
    this.#unhear = this.#view.onLife((_, what) => {
      if (what === 'dead' || what === 'left') this.#look()
    })
    this.#look()
  }

  stop(): void {
    this.#stopped = true
    this.#unhear()
    this.#beat.stop()
  }

  /**
   * AIOS's `/jobs/submit`: durable here and wherever it is kept when it resolves. The same `job_id` again is the same job. Throws
   * BAD_INPUT naming the field, NOT_FOUND, NO_CAPACITY, POLICY_DENIED (with an estimate), CONFLICT, OVERLOADED.
   */
  async submit(document: Json, executor: string, options: { readonly estimate?: boolean } = {}): Promise<{ readonly job: string; readonly existing: boolean }> {
    const { clock, identity } = this.#ports
    const asked = check(given, document, 'job', 'BAD_INPUT')
    const { rule } = await this.#catalogue.policy(asked.policy_rule_uri, clock.deadline(policyJob.limits.deadlineMs))
    const parameters = asked.policy_rule_parameters ?? {}
    startsWith(rule, { parameters, settings: {} })
    if (utf8(JSON.stringify([parameters, asked.inputs])).byteLength > JOB_BYTES) throw new MeshError('BAD_INPUT', `job: inputs: parameters and inputs may have ${JOB_BYTES} bytes as JSON: give a large input as an asset`)
    const body = check(policyJobBody, {
      id: asked.job_id ?? `job-${hex(this.#random.bytes(12))}`, name: asked.name, policy: rule.policyRuleURI, parameters, input: asked.inputs,
      nodeSelector: asked.node_selector ?? {}, executor, submittedAt: clock.unix(),
    }, 'job', 'BAD_INPUT')
    const known = asked.job_id === undefined ? undefined : await this.#find(body.id)
    if (known !== undefined) {
      if (known.body.policy === body.policy && JSON.stringify(known.body.input) === JSON.stringify(body.input)) return { job: body.id, existing: true }
      throw new MeshError('CONFLICT', `job ${body.id} was submitted with another rule or other inputs: choose another job_id`)
    }
    const { host } = await this.#executors.choose({ executor, nodeSelector: body.nodeSelector, allocator: allocatorOf(asked.alloc), policy: body.policy, type: 'job' })
    if (options.estimate === true) await this.#executors.needEstimate(executor === '' ? host : executor, ruleDocument(rule), 'job')
    const job = readJob(identity, { job: seal(identity, 'policy-job', body), executor: host, epoch: 1 })
    await this.#book.keep(job)
    await this.#spread(job)
    this.#look()
    return { job: body.id, existing: false }
  }

  /** Throws NOT_FOUND. */
  async get(id: string): Promise<JsonObject> {
    const job = await this.#find(id)
    if (job === undefined) throw new MeshError('NOT_FOUND', `no job is called ${id}, as far as live peers know`)
    return jobDocument(job)
  }

  /** Every job that live peers keep, newest first. */
  async list(): Promise<readonly JsonObject[]> {
    const found = new Map(this.#book.all().map(job => [job.body.id, job]))
    const others = this.#others()
    const lane = async (): Promise<void> => {
      for (let peer = others.shift(); peer !== undefined; peer = others.shift()) {
        for (const job of await this.#kept(peer)) {
          const known = found.get(job.body.id)
          if (known?.result === undefined) found.set(job.body.id, job)
        }
      }
    }
    await Promise.all(Array.from({ length: ASKED_AT_ONCE }, lane))
    return [...found.values()].sort((a, b) => b.body.submittedAt - a.body.submittedAt || (a.body.id < b.body.id ? -1 : 1)).map(jobDocument)
  }

  async #kept(peer: PeerId): Promise<readonly Job[]> {
    const jobs: Job[] = []
    let after: string | undefined
    try {
      for (let page = 0; page < PAGES; page += 1) {
        const { states = [], next } = await this.#ports.network.request(peer, policyJob, { do: 'list', after })
        jobs.push(...states.map(state => readJob(this.#ports.identity, state)))
        if (next === undefined) break
        after = next
      }
    } catch (error) {
      this.#ports.telemetry.event('debug', 'policy.jobs-not-listed', { peer, because: asMeshError(error).message })
    }
    return jobs
  }

  #page(after = ''): { readonly states: PolicyJobState[]; readonly next?: string } {
    const states: PolicyJobState[] = []
    let bytes = 0
    for (const { body, state } of this.#book.all()) {
      if (body.id <= after) continue
      bytes += state.job.payload.byteLength + (state.result?.payload.byteLength ?? 0)
      if (states.length === PAGE || (bytes > PAGE_CHARS && states.length > 0)) return { states, next: after }
      states.push(state)
      after = body.id
    }
    return { states }
  }

  /** From here, else from whoever keeps it, else from anybody. */
  async #find(id: string): Promise<Job | undefined> {
    const here = this.#book.get(id)
    if (here?.result !== undefined) return here
    const keepers = this.#keepers(id)
    let best = here
    for (const peer of [...keepers, ...this.#others().filter(other => best === undefined && !keepers.includes(other))]) {
      if (peer === this.#view.self) continue
      try {
        const { known } = await this.#ports.network.request(peer, policyJob, { do: 'read', job: id })
        if (known === undefined) continue
        const job = readJob(this.#ports.identity, known)
        best = here === undefined ? job : await this.#book.keep(job)
        if (best.result !== undefined) return best
      } catch (error) {
        this.#ports.telemetry.event('debug', 'policy.job-not-read', { peer, because: asMeshError(error).message })
      }
    }
    return best
  }

  #keepers(id: string): readonly PeerId[] {
    return foremost(id, this.#view.live(), KEEPERS)
  }

  #others(): PeerId[] {
    return this.#view.live().filter(peer => peer !== this.#view.self)
  }

  async #heard(offered: Job): Promise<Job> {
    const job = await this.#book.keep(offered)
    this.#take(job)
    this.#beat.wake()
    return job
  }

  /** What is to be done about each job that is unfinished, or not told to all who keep it: name another host, run it, tell them. */
  #look(): void {
    if (this.#stopped) return
    const finished = [...this.#told.keys()].flatMap(id => this.#book.get(id) ?? []).filter(({ result }) => result !== undefined)
    for (const job of [...this.#book.unfinished(), ...finished]) background(this.#ports.telemetry, 'policy.job-not-tended', this.#tend(job), 'warn')
    this.#beat.wake()
  }

  async #tend(job: Job): Promise<void> {
    const [first] = this.#keepers(job.body.id)
    const orphaned = job.result === undefined && first === this.#view.self && !this.#view.live().includes(job.executor)
    await this.#spread(orphaned ? await this.#rename(job) : job)
    // After the others were heard: while this peer was away its turn may have gone to another.
    this.#take(this.#book.get(job.body.id) ?? job)
  }

  async #rename({ body, state, epoch, executor }: Job): Promise<Job> {
    // The executor asked for is gone: whoever carries the same labels may do it.
    const [host] = this.#executors.hosts(body.nodeSelector).filter(peer => peer !== executor)
    if (host === undefined) return readJob(this.#ports.identity, state)
    this.#ports.telemetry.event('info', 'policy.job-moved', { job: body.id, from: executor, to: host, epoch: epoch + 1 })
    return this.#book.keep(readJob(this.#ports.identity, { job: state.job, executor: host, epoch: epoch + 1 }))
  }

  /** Tells the keepers and the executor, each once of each state; resolves when they have answered or failed to. */
  async #spread(job: Job): Promise<void> {
    const { id } = job.body
    const told = this.#told.get(id) ?? new Map<PeerId, PolicyJobState>()
    this.#told.set(id, told)
    const concerned = new Set([...this.#keepers(id), ...(this.#view.live().includes(job.executor) ? [job.executor] : []), ...(this.#view.live().includes(job.submitter) ? [job.submitter] : [])])
    const missing = [...concerned].filter(peer => peer !== this.#view.self && told.get(peer) !== job.state)
    await Promise.all(missing.map(async peer => {
      told.set(peer, job.state)
      try {
        const { known } = await this.#ports.network.request(peer, policyJob, { do: 'keep', state: job.state })
        if (known !== undefined) await this.#heard(readJob(this.#ports.identity, known))
      } catch (error) {
        told.delete(peer)
        this.#ports.telemetry.event('debug', 'policy.job-not-told', { peer, because: asMeshError(error).message })
      }
    }))
    if (job.result !== undefined && missing.every(peer => told.get(peer) === job.state)) this.#told.delete(id)
  }

  /** Runs the job where this peer is named for it; one after the other. */
  #take({ body, executor, epoch, result }: Job): void {
    if (result !== undefined || executor !== this.#view.self || (this.#mine.get(body.id) ?? 0) >= epoch || this.#stopped) return
    this.#mine.set(body.id, epoch)
    const turn = this.#turn.then(() => this.#run(body.id, epoch))
    this.#turn = turn.catch(() => undefined)
    background(this.#ports.telemetry, 'policy.job-not-run', turn.finally(() => {
      if (this.#mine.get(body.id) === epoch) this.#mine.delete(body.id)
    }), 'warn')
  }

  async #run(id: string, epoch: number): Promise<void> {
    const job = this.#book.get(id)
    if (this.#stopped || job === undefined || job.result !== undefined || job.epoch !== epoch) return
    const { clock, identity, telemetry } = this.#ports
    const startedAt = clock.unix()
    const { status, output } = await this.#evaluate(job)
    telemetry.count('policy_jobs_total', { status })
    if (this.#stopped) return
    const result = seal(identity, 'policy-result', { job: id, epoch, status, output, startedAt, endedAt: clock.unix() })
    const done = await this.#book.keep(readJob(identity, { ...job.state, result }))
    await this.#spread(done)
  }

  async #evaluate({ body }: Job): Promise<{ readonly status: 'completed' | 'failed'; readonly output: Json }> {
    try {
      const { value } = await retry(this.#ports, AGAIN, () => this.#policies.execute({ policyRuleURI: body.policy, parameters: body.parameters, settings: {} }, { input: body.input }, 'job'))
      const bytes = utf8(JSON.stringify(value)).byteLength
      if (bytes > JOB_BYTES) throw new MeshError('POLICY_FAILED', `${body.policy}: its output has ${bytes} bytes; a job's may have ${JOB_BYTES}`)
      return { status: 'completed', output: value }
    } catch (error) {
      const failure = asMeshError(error)
      return { status: 'failed', output: { error: { code: failure.code, message: failure.message.slice(0, 2_000) } } }
    }
  }
}
