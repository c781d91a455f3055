import { refused, type Verdict } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import type { RegistryName } from '../../protocols/registry.ts'
import { REVIEW_SLOTS } from '../../protocols/reviews.ts'
import { TASK_SLOTS } from '../../protocols/tasks.ts'

type May = (peer: PeerId, right: Right) => Verdict<true>

/** What a registry asks of whoever writes into it. */
const RIGHT_TO_WRITE: Readonly<Record<RegistryName, Right>> = {
  components: 'publish', policies: 'publish', vdags: 'publish', specs: 'publish', templates: 'publish', assets: 'publish', layers: 'publish', images: 'publish', annotations: 'publish', records: 'publish', replicas: 'publish', yanks: 'publish', graphs: 'publish',
  blocks: 'operate', services: 'operate', controllers: 'operate', clusters: 'operate', lifecycles: 'operate', members: 'join', tasks: 'join', reviews: 'join', nodes: 'operate', groups: 'operate', networks: 'operate', executors: 'operate', functions: 'operate',
}

/** Keys that begin with the peer whose they are: nobody else may claim them. */
const PERSONAL: ReadonlySet<RegistryName> = new Set(['annotations', 'tasks', 'reviews', 'nodes'])
/** Keys that end in a number below this, and that whoever may operate may change: somebody closes what its peer cannot. */
const SLOTS: Readonly<Partial<Record<RegistryName, number>>> = { tasks: TASK_SLOTS, reviews: REVIEW_SLOTS }
/** Keys that nobody but their owner changes. */
const OWNERS_ALONE: ReadonlySet<RegistryName> = new Set(['records', 'clusters', 'nodes', 'groups'])

/** May this peer write this key at all? */
export function mayWriteKey(may: May, writer: PeerId, registry: RegistryName, key: string): Verdict<true> {
  const right = may(writer, RIGHT_TO_WRITE[registry])
  const slots = SLOTS[registry]
  if (slots !== undefined && !(Number(/\/(0|[1-9]\d{0,4})$/.exec(key)?.[1] ?? NaN) < slots)) return refused(`${key.slice(0, 80)} is no slot of ${registry}: they are numbered from 0 to ${slots - 1}`)
  if (!right.ok || !PERSONAL.has(registry) || key.startsWith(`${writer}/`)) return right
  return slots !== undefined ? may(writer, 'operate') : refused(`${registry} ${key.slice(0, 80)} is another peer's to write`)
}

/** May this peer change a key that another claimed? */
export function mayOperateKey(may: May, writer: PeerId, registry: RegistryName, key: string): Verdict<true> {
  if (OWNERS_ALONE.has(registry)) return refused(`${registry} ${key.slice(0, 80)} was made by another peer: only that one may change or remove it`)
  return may(writer, 'operate')
}
