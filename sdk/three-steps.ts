/** AIOS's two kinds of jobs in three steps, `begin → main → finish`: whoever cuts models, and whoever sets a third-party system up and takes it down. */
import type { Json } from '../protocols/ids.ts'
import type { BlockDefinition } from './definition.ts'
import type { Fields } from './context.ts'
import { ComponentError } from './error.ts'
import { record, toJson } from './json.ts'

const STEPS = ['begin', 'main', 'finish'] as const
type Step = (typeof STEPS)[number]
/** Jobs under way at once; the oldest is forgotten, and begun anew should it go on. */
const JOBS = 64

/** Each step answers `[ok, data]`, or plain data; what one answers is what the next is given. */
export interface ThreeSteps {
  begin(): unknown
  main(extra: Json): unknown
  finish(extra: Json): unknown
}

/** What a splitter is told: AIOS's TASK_DATA, what is known of the model, and for `finish` the parts as they were published. */
export type SplitterTask = { readonly task_data: Fields; readonly model: Json; readonly parts: Json }
/** What AIOS's init container is told. `operating_mode`: whether the block comes or goes. */
export type LifecycleTask = { readonly envs: Fields; readonly block_data: Fields; readonly cluster_data: Fields; readonly operating_mode: 'create' | 'remove' }

/**
 * A block that says where a model is cut: its `main` answers `{ ranges: [[0, 4], [4, 8]] }`. Named as `splitter` in a job of
 * `aios model split`, it is asked for `begin`, `main` and `finish`.
 */
export function defineSplitter(Splitter: new (task: SplitterTask) => ThreeSteps): BlockDefinition {
  return inSteps(data => new Splitter({ task_data: fields(data['task_data']), model: data['model'] ?? null, parts: data['parts'] ?? null }), data => JSON.stringify(data['task_data'] ?? null))
}

/**
 * AIOS's init container of a third-party block, as a block: sets the system up in mode `create` and takes it down in mode `remove`.
 * What `finish` answers stands in `blockInitData.initContainer`. The class is made with AIOS's arguments: `(envs, block_data, cluster_data, k8s, operating_mode)`;
 * there is no Kubernetes here, so `k8s` is null.
 */
export function defineLifecycle(Lifecycle: new (envs: Fields, block_data: Fields, cluster_data: Fields, k8s: null, operating_mode: LifecycleTask['operating_mode']) => ThreeSteps): BlockDefinition {
  return inSteps(data => {
    const mode = data['operating_mode']
    // AIOS's own controller says "creation" where its SDK compares with "create".
    const removes = mode === 'remove' || mode === 'removal'
    if (!removes && mode !== undefined && mode !== 'create' && mode !== 'creation') throw new ComponentError(`operating_mode is create or remove, not ${JSON.stringify(mode)}`)
    return new Lifecycle(fields(data['envs']), fields(data['block_data']), fields(data['cluster_data']), null, removes ? 'remove' : 'create')
  }, data => JSON.stringify([fields(data['block_data'])['id'] ?? null, data['operating_mode'] ?? 'create']))
}

function inSteps(make: (data: Fields) => ThreeSteps, keyOf: (data: Fields) => string): BlockDefinition {
  const jobs = new Map<string, ThreeSteps>()
  return {
    data: () => { throw new ComponentError('this block answers management commands only: begin, main, finish') },
    async management(action, given) {
      const step = STEPS.find(known => known === action)
      if (step === undefined) throw new ComponentError(`this block knows begin, main and finish, not "${action}"`)
      const data = record(given ?? {}, 'management data')
      const key = keyOf(data)
      const job = (step === 'begin' ? undefined : jobs.get(key)) ?? make(data)
      jobs.delete(key)
      jobs.set(key, job)
      const [oldest] = jobs.keys()
      if (jobs.size > JOBS && oldest !== undefined) jobs.delete(oldest)
      if ('parts' in job || data['parts'] !== undefined) Object.assign(job, { parts: data['parts'] ?? null })
      const answer = await run(job, step, data['extra'] ?? null)
      if (step === 'finish') jobs.delete(key)
      return answer
    },
  }
}

async function run(job: ThreeSteps, step: Step, extra: Json): Promise<{ readonly ok: boolean; readonly data: Json }> {
  const answer: unknown = await (step === 'begin' ? job.begin() : job[step](extra))
  const [ok, data] = Array.isArray(answer) && answer.length === 2 && typeof answer[0] === 'boolean' ? (answer as unknown as readonly [boolean, unknown]) : [true, answer]
  return { ok, data: toJson(data ?? null, step) }
}

function fields(value: Json | undefined): Fields {
  return value === undefined || value === null ? {} : record(value, 'task')
}
