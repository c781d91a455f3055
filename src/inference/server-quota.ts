import { z } from 'zod'
import { granted, MeshError, refused } from '../../protocols/errors.ts'
import type { Json, Millis, PeerId } from '../../protocols/ids.ts'
import { filed, type Filed } from '../../protocols/stores.ts'
import { Escrow } from '../controllers/escrow.ts'
import { isJsonObject, type JsonObject } from '../lib/json.ts'
import { Lru } from '../lib/lru.ts'
import type { Clock, Registry, RegistryStore } from '../ports.ts'
import type { PolicyCalls } from '../roles.ts'
import { Fields } from '../specs/fields.ts'
import { parsePolicyRef } from '../specs/policy-refs.ts'
import { Problems } from '../specs/problems.ts'

const SECOND: Millis = 1_000
const KEPT = 10_000
const amount = z.coerce.number().int().nonnegative().max(1_000_000_000).optional().catch(undefined)
/** AIOS's `quota_management_data`: rates of all, of a session and of a block, and how many each may have in all. */
const terms = z.looseObject({ requests_per_second_total: amount, requests_per_second_per_session: amount, requests_per_second_per_block_id: amount, requests_per_session_id: amount, requests_per_block_id: amount })
const allowed = z.looseObject({ allowed: z.boolean() })

/**
 * Keeps the quotas that this peer's own entry in the registry of inference servers sets (the entry of its peer id, written by
 * itself: nobody else closes its door), and asks the `quotaChecker` rule that the entry names.
 */
export class ServerQuota {
  readonly #clock: Clock
  readonly #self: PeerId
  readonly #policies: PolicyCalls
  readonly #records: Registry<Filed>
  readonly #rates = new Lru<string, { readonly limit: number; readonly escrow: Escrow }>(KEPT)
  readonly #counts = new Lru<string, number>(KEPT)

  constructor(ports: { readonly clock: Clock; readonly identity: { readonly peer: PeerId }; readonly registries: RegistryStore }, policies: PolicyCalls) {
    this.#clock = ports.clock
    this.#self = ports.identity.peer
    this.#policies = policies
    this.#records = ports.registries.open('records', filed)
  }

  /** Counts one request of a session to a target, or throws RATE_LIMITED with what is used up. */
  async enter(session: string, target: string, data: Json): Promise<void> {
    const entry = await this.#records.get(`inference_server/${this.#self}`)
    if (entry?.writer !== this.#self) return
    const metadata: Json | undefined = entry.value['inference_server_metadata']
    if (!isJsonObject(metadata)) return
    const given = metadata['quota_management_data']
    const limits = terms.parse(isJsonObject(given) ? given : {})
    this.#rate('all', 'all requests', limits.requests_per_second_total)
    this.#rate(`session\0${session}`, `session ${session}`, limits.requests_per_second_per_session)
    this.#rate(`block\0${target}`, target, limits.requests_per_second_per_block_id)
    const inSession = this.#count(`session\0${session}`)
    const ofBlock = this.#count(`block\0${target}`)
    if (inSession > (limits.requests_per_session_id ?? Infinity)) throw over(`session ${session} has had its ${limits.requests_per_session_id} requests`, false)
    if (ofBlock > (limits.requests_per_block_id ?? Infinity)) throw over(`${target} has had its ${limits.requests_per_block_id} requests`, false)
    await this.#askRule(metadata, session, data, inSession)
  }

  #rate(key: string, what: string, limit: number | undefined): void {
    if (limit === undefined) return
    const now = this.#clock.monotonic()
    const known = this.#rates.get(key)
    const held = known?.limit === limit ? known : { limit, escrow: new Escrow(SECOND, { rights: limit, given: {}, asked: {}, taken: {} }, now, false) }
    this.#rates.set(key, held)
    if (!held.escrow.admit(now)) throw over(`${what} may have ${limit} a second`, true)
  }

  #count(key: string): number {
    const count = (this.#counts.get(key) ?? 0) + 1
    this.#counts.set(key, count)
    return count
  }

  async #askRule(metadata: JsonObject, session: string, input: Json, quota: number): Promise<void> {
    const checker = metadata['quotaChecker']
    const rule = isJsonObject(checker) ? parsePolicyRef(new Fields(checker, 'quotaChecker', new Problems('inference server')), 'quotaCheckerPolicyRule', 'policyRule') : undefined
    const { value, because } = await this.#policies.decide<boolean>({
      hook: 'quotaChecker', rule, scope: 'inference server',
      input: { quota_table: { [session]: quota }, input, quota, session_id: session },
      accept: answer => {
        const parsed = allowed.safeParse(answer)
        return parsed.success ? granted(parsed.data.allowed) : refused('a quota rule must return { allowed }')
      },
      fallback: failure => failure === undefined,
    })
    if (!value) throw over(`the quota rule does not allow it: ${because}`, false)
  }
}

function over(because: string, retryable: boolean): MeshError {
  return new MeshError('RATE_LIMITED', `this inference server: ${because}`, { retryable })
}
