import { hex } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import { json, type Cid, type Json, type Millis, type PeerId } from '../../protocols/ids.ts'
import { TASK_DATA_BYTES, TASK_SLOTS, taskRecord, type TaskRecord, type TaskStatus } from '../../protocols/tasks.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random, Registry } from '../ports.ts'

/** Tasks that change nothing are kept here alone. */
const LOOKS = 10_000

export type NewTask = {
  readonly type: string
  readonly action?: string
  readonly input?: Json
  readonly key?: string | undefined
  readonly replays?: string | undefined
  /** What it is called, where that was settled before. */
  readonly id?: string | undefined
  /** It only looks: kept in memory. */
  readonly looks?: boolean
}
export type TaskChange = { readonly status?: TaskStatus; readonly data?: Json; readonly output?: Json; readonly subject?: string | undefined; readonly progress?: TaskRecord['progress'] }
export type TaskQuery = { readonly type?: string | undefined; readonly action?: string | undefined; readonly status?: string | undefined; readonly from?: Millis | undefined; readonly to?: Millis | undefined; readonly limit?: number | undefined }

type Known = { readonly slot: string; readonly owner: PeerId; readonly open: boolean; readonly ours: boolean; readonly key: string | undefined }

/** The tasks of the whole mesh: this peer's own are on its disk before anybody is told of them, everybody's can be read here. */
export class TaskBook {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'content'>
  readonly #random: Random
  readonly #registry: Registry<TaskRecord>
  readonly #looks = new Lru<string, TaskRecord>(LOOKS)
  /** By task id; bounded by the slots of every peer. */
  readonly #known = new Map<string, Known>()
  readonly #inSlot = new Map<string, string>()
  /** Slots that a write is on its way to. */
  readonly #taken = new Set<number>()
  #opened: Promise<void> | undefined

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'content' | 'registries'>) {
    this.#ports = ports
    this.#random = ports.random.fork('tasks')
    this.#registry = ports.registries.open('tasks', taskRecord)
    this.#registry.onChange((slot, entry) => this.#learn(slot, entry?.value))
  }

  /** Reads what was there before this process. */
  open(): Promise<void> {
    this.#opened ??= this.#registry.list().then(entries => {
      for (const { key, value } of entries) this.#learn(key, value)
    })
    return this.#opened
  }

  newId(): string {
    return `task-${hex(this.#random.bytes(8))}`
  }

  /** Durable when it resolves. Throws OVERLOADED when as many tasks as a peer keeps are all open. */
  async begin({ type, action, input = null, key, replays, id = this.newId(), looks = false }: NewTask): Promise<TaskRecord> {
    await this.open()
    const { clock, identity, content } = this.#ports
    const now = clock.unix()
    const record: TaskRecord = {
      task_id: id, task_type: type, task_status: 'pending', task_create_timestamp: now, task_update_timestamp: now,
      task_status_data: null, task_data: small(input), owner: identity.peer,
      ...(action === undefined ? {} : { action }), ...(key === undefined ? {} : { key }), ...(replays === undefined ? {} : { replays }),
      ...(looks ? {} : { input: await content.putRecord(input) }),
    }
    if (looks) this.#looks.set(record.task_id, record)
    else await this.#fill(record)
    return record
  }

  /** Throws NOT_FOUND; FORBIDDEN when it is another peer's and this one may not operate. */
  async change(id: string, { status, data, output, subject, progress }: TaskChange): Promise<TaskRecord> {
    const before = await this.get(id)
    const after: TaskRecord = {
      ...before, task_update_timestamp: Math.max(this.#ports.clock.unix(), before.task_create_timestamp),
      ...(status === undefined ? {} : { task_status: status }), ...(data === undefined ? {} : { task_status_data: small(data) }), ...(subject === undefined ? {} : { subject }), ...(progress === undefined ? {} : { progress }),
    }
    if (output !== undefined) after.task_status_data = small(output)
    if (this.#looks.has(id)) {
      this.#looks.set(id, after)
      return after
    }
    if (output !== undefined) after.output = await this.#ports.content.putRecord(output)
    await this.#registry.put(this.#slotOf(id), after)
    return after
  }

  /** Throws NOT_FOUND. */
  async get(id: string): Promise<TaskRecord> {
    await this.open()
    const look = this.#looks.peek(id)
    if (look !== undefined) return look
    const found = await this.#registry.get(this.#slotOf(id))
    if (found?.value.task_id !== id) throw new MeshError('NOT_FOUND', `no task is called ${id}: a peer keeps its last ${TASK_SLOTS}`)
    return found.value
  }

  /** Throws NOT_FOUND, FORBIDDEN. */
  async remove(id: string): Promise<void> {
    await this.get(id)
    if (this.#looks.has(id)) this.#looks.delete(id)
    else await this.#registry.withdraw(this.#slotOf(id))
  }

  /** The newest first. */
  async list({ type, action, status, from, to, limit = 1_000 }: TaskQuery = {}): Promise<readonly TaskRecord[]> {
    await this.open()
    const wanted = status === 'complete' ? 'completed' : status
    const all = [...(await this.#registry.list()).map(({ value }) => value), ...[...this.#looks].map(([, task]) => task)]
    return all
      .filter(task => (type === undefined || task.task_type === type) && (action === undefined || task.action === action) && (wanted === undefined || task.task_status === wanted) && (from === undefined || task.task_create_timestamp >= from) && (to === undefined || task.task_create_timestamp <= to))
      .sort((a, b) => b.task_create_timestamp - a.task_create_timestamp || (a.task_id < b.task_id ? -1 : 1))
      .slice(0, limit)
  }

  /** What the task was asked with. Throws NOT_FOUND, CONTENT_UNAVAILABLE. */
  async input(task: TaskRecord, signal: AbortSignal): Promise<Json> {
    return task.input === undefined || task.task_data !== null ? task.task_data : this.content(task.input, signal)
  }

  content(cid: Cid, signal: AbortSignal): Promise<Json> {
    return this.#ports.content.getRecord(cid, json, signal)
  }

  /** The last task that was asked for with this key. */
  async keyed(key: string): Promise<TaskRecord | undefined> {
    await this.open()
    const ids = [...this.#known].filter(([, known]) => known.key === key).map(([id]) => id)
    const tasks = await Promise.all(ids.map(id => this.get(id)))
    return tasks.sort((a, b) => b.task_create_timestamp - a.task_create_timestamp || (a.task_id < b.task_id ? -1 : 1))[0]
  }

  /** Tasks of the parser that have not ended, by the peer that was asked. */
  unended(): readonly { readonly id: string; readonly owner: PeerId }[] {
    return [...this.#known].filter(([, { open, ours }]) => open && ours).map(([id, { owner }]) => ({ id, owner })).sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  onChange(hear: () => void): () => void {
    return this.#registry.onChange(hear)
  }

  async #fill(record: TaskRecord): Promise<void> {
    const slot = await this.#takeSlot()
    try {
      await this.#registry.put(`${this.#ports.identity.peer}/${slot}`, record)
    } finally {
      this.#taken.delete(slot)
    }
  }

  /** An empty one, or that of the oldest task that has ended. */
  async #takeSlot(): Promise<number> {
    const { peer } = this.#ports.identity
    const used = new Map((await this.#registry.list(`${peer}/`)).map(({ key, value }) => [Number(key.slice(peer.length + 1)), value]))
    const free = (slot: number): boolean => !this.#taken.has(slot)
    const empty = Array.from({ length: TASK_SLOTS }, (_, slot) => slot).find(slot => !used.has(slot) && free(slot))
    const [oldest] = [...used].filter(([slot, task]) => !isOpen(task) && free(slot)).sort(([, a], [, b]) => a.task_update_timestamp - b.task_update_timestamp)
    const slot = empty ?? oldest?.[0]
    if (slot === undefined) throw new MeshError('OVERLOADED', `${TASK_SLOTS} tasks of this peer are open: wait for one to end`)
    this.#taken.add(slot)
    return slot
  }

  #learn(slot: string, task: TaskRecord | undefined): void {
    const before = this.#inSlot.get(slot)
    if (before !== undefined && before !== task?.task_id) this.#known.delete(before)
    if (task === undefined) this.#inSlot.delete(slot)
    else {
      this.#inSlot.set(slot, task.task_id)
      this.#known.set(task.task_id, { slot, owner: task.owner, open: isOpen(task), ours: task.action !== undefined, key: task.key })
    }
  }

  #slotOf(id: string): string {
    const known = this.#known.get(id)
    if (known === undefined) throw new MeshError('NOT_FOUND', `no task is called ${id}: a peer keeps its last ${TASK_SLOTS}`)
    return known.slot
  }
}

export function isOpen({ task_status }: TaskRecord): boolean {
  return task_status === 'pending' || task_status === 'in_progress'
}

/** What fits beside a record; the whole is behind its CID. */
function small(value: Json): Json {
  return spend(value, TASK_DATA_BYTES) < 0 ? null : value
}

/** What is left of so many bytes after a value, at least; below zero as soon as it is too much. Most results are far too large to be written out only to be counted. */
function spend(value: Json, left: number): number {
  if (typeof value === 'string') return left - value.length - 2
  if (value === null || typeof value !== 'object') return left - 9
  let rest = left - 3
  for (const [key, inner] of Object.entries(value)) {
    if (rest < 0) return rest
    rest = spend(inner, rest - (Array.isArray(value) ? 0 : key.length + 2))
  }
  return rest
}
