import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { granted } from '../../protocols/errors.ts'
import type { PolicyRule } from '../../protocols/specs.ts'
import { Policies } from '../../src/policies/calls.ts'
import { QuickjsSandbox } from '../adapters/quickjs.ts'
import { clock, quantile, rounded, silent } from './peers.ts'

const WARM_UP = 2_000
const WARM = 20_000
const DIFFERENT = 10_000
const AUTHOR = '12D3KooWBenchBenchBenchBenchBenchBenchBenchBenchBe'

/**
 * What a rule costs at a hook, schemas and clamp included: asked again and again (`warm_…`, sequential calls; in turn with `thread_…`, a
 * message to another thread and back, which is what the machine takes for nothing), and 10,000 different rules,
 * each opened for its first call (`first_…`) and every tenth asked once more when most have made room (`again_…`). `rss_…` is this process, threads
 * and their VMs included, before any rule, after one and after all.
 */
export async function run(): Promise<Record<string, number>> {
  const before = process.memoryUsage.rss()
  await using sandbox = new QuickjsSandbox()
  const policies = new Policies({ clock, sandbox, telemetry: silent }, {
    policy: async uri => ({ rule: published(uri), source: `let n = ${uri.length}; export default (parameters, input) => ({ instance_id: input.instances[++n % input.instances.length], because: ${JSON.stringify(uri)} })` }),
  })
  const ask = async (name: string): Promise<number> => {
    const began = performance.now()
    const { by, because } = await policies.decide({
      hook: 'loadBalancer', rule: { policyRuleURI: `${name}:1-bench`, parameters: { most: 3 }, settings: {} }, scope: name,
      input: { mode: 'load_balance', packet: { session_id: 's', seq_no: 1, data: { text: 'hello' } }, instances: ['in-a', 'in-b', 'in-c'] }, settings: { get_metrics: { block_metrics: {}, cluster_metrics: {} } },
      accept: answer => granted(answer), fallback: () => null,
    })
    if (by !== 'policy') throw new Error(`the rule gave no opinion: ${because}`)
    return performance.now() - began
  }
  for (let at = 0; at < WARM_UP; at += 1) await ask('warm')
  const warm: number[] = []
  const bare: number[] = []
  const thread = new Worker(ECHO, { eval: true })
  for (let at = 0; at < WARM; at += 1) {
    warm.push(await ask('warm'))
    bare.push(await echo(thread))
  }
  await thread.terminate()
  const one = process.memoryUsage.rss()
  const first: number[] = []
  let most = one
  for (let at = 0; at < DIFFERENT; at += 1) {
    first.push(await ask(`rule-${at}`))
    if (at % 100 === 0) most = Math.max(most, process.memoryUsage.rss())
  }
  const again: number[] = []
  for (let at = 0; at < DIFFERENT; at += 10) again.push(await ask(`rule-${at}`))
  const after = process.memoryUsage.rss()
  const { live, bytes } = sandbox.stats()
  policies.close()
  return {
    warm_p50_ms: rounded(quantile(warm, 0.5)), warm_p99_ms: rounded(quantile(warm, 0.99)), thread_p50_ms: rounded(quantile(bare, 0.5)), thread_p99_ms: rounded(quantile(bare, 0.99)),
    first_p50_ms: rounded(quantile(first, 0.5)), first_p99_ms: rounded(quantile(first, 0.99)), again_p50_ms: rounded(quantile(again, 0.5)), again_p99_ms: rounded(quantile(again, 0.99)),
    rules: DIFFERENT, live_vms: live, vm_mib: mib(bytes), rss_before_mib: mib(before), rss_one_mib: mib(one), rss_most_mib: mib(Math.max(most, after)), rss_all_mib: mib(after),
  }
}

const ECHO = "const { parentPort } = require('node:worker_threads'); parentPort.on('message', message => parentPort.postMessage(message))"

async function echo(thread: Worker): Promise<number> {
  const began = performance.now()
  thread.postMessage({ kind: 'call', text: 'hello' })
  await once(thread, 'message')
  return performance.now() - began
}

function published(uri: string): PolicyRule {
  const [name = uri] = uri.split(':')
  return {
    policyRuleURI: uri, name, version: '1', releaseTag: 'bench', description: '', tags: [], code: 'bafkreibench', codeType: 'js_module_v1', settings: {}, parameters: { most: 1 },
    inputSchema: { mode: { type: 'string', required: true }, instances: { type: 'array', required: true } }, outputSchema: { instance_id: { type: 'string', required: true } }, parametersSchema: { most: { type: 'integer', min: 1 } }, managementCommands: {}, author: AUTHOR,
  }
}

function mib(bytes: number): number {
  return Math.round(bytes / 1_048_576)
}
