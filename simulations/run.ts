/** Lives many seeds and says which of them broke a property: `node simulations/run.ts --peers 200 --seeds 50`. */
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { Fingerprint } from './fingerprint.ts'
import { hash32 } from './random.ts'
import { live, type Outcome, type ScenarioOptions } from './scenario.ts'
import { drawScenario, SCENARIOS, type ScenarioName } from './scenarios.ts'

type Order = Omit<ScenarioOptions, 'seed'> & { readonly scenario: ScenarioName; readonly seeds: readonly number[] }
type Figures = { readonly seeds: number; readonly violations: number; readonly seconds: number; readonly cpu_s: number; readonly peers: number; readonly virtual_s: number; readonly fingerprint: string }

const USAGE = `usage: node simulations/run.ts [--scenario ${Object.keys(SCENARIOS).join('|')}] [--peers 200] [--seeds 50] [--from 1] [--seconds 20]
  [--loss 0.05] [--churn 0.05] [--no-cuts] [--changes MS] [--bug NAME] [--threads CORES] [--json]
  loss: part of the messages that never arrive; churn: part of the peers that crash each ten seconds; drawn by the seed when not given; --no-cuts: no link is ever cut;
  changes: somebody changes what a block is started with, so often on average.`

/** Messages and promises die young: with room for them they are not copied first. */
const YOUNG_MB = 256

if (isMainThread) process.exitCode = await main()
else await work(workerData)

async function main(): Promise<number> {
  let order: Omit<Order, 'seeds'> & { readonly from: number; readonly count: number; readonly threads: number; readonly json: boolean }
  try {
    order = parse()
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}\n`)
    return 2
  }
  const started = performance.now()
  const seeds = Array.from({ length: order.count }, (_, at) => order.from + at)
  const outcomes = await share(order, seeds, order.threads, outcome => report(outcome, order))
  const total = new Fingerprint()
  for (const { fingerprint } of outcomes.sort((a, b) => a.seed - b.seed)) total.mix(hash32(fingerprint, 0))
  const violations = outcomes.filter(outcome => outcome.violation !== undefined)
  const cpu = process.cpuUsage()
  const figures: Figures = { seeds: outcomes.length, violations: violations.length, seconds: Math.round((performance.now() - started) / 10) / 100, cpu_s: Math.round((cpu.user + cpu.system) / 10_000) / 100, peers: order.peers, virtual_s: Math.round(outcomes.reduce((sum, { virtualMs }) => sum + virtualMs, 0) / 1_000), fingerprint: total.toString() }
  if (!order.json) process.stdout.write(`${figures.seeds} seeds, ${figures.violations} violations, ${figures.seconds} s (${figures.cpu_s} s of CPU, ${figures.virtual_s} s of virtual time), fingerprint ${figures.fingerprint}\n`)
  else process.stdout.write(`${JSON.stringify(figures)}\n`)
  return violations.length === 0 ? 0 : 1
}

function parse(): Omit<Order, 'seeds'> & { readonly from: number; readonly count: number; readonly threads: number; readonly json: boolean } {
  const { values } = parseArgs({
    options: {
      scenario: { type: 'string', default: 'market' },
      peers: { type: 'string', default: '200' },
      seeds: { type: 'string', default: '50' },
      from: { type: 'string', default: '1' },
      seconds: { type: 'string', default: '20' },
      loss: { type: 'string' },
      churn: { type: 'string' },
      'no-cuts': { type: 'boolean', default: false },
      changes: { type: 'string' },
      bug: { type: 'string' },
      threads: { type: 'string', default: String(availableParallelism()) },
      json: { type: 'boolean', default: false },
    },
  })
  const scenario = Object.keys(SCENARIOS).find((name): name is ScenarioName => name === values.scenario)
  if (scenario === undefined) throw new Error(`there is no scenario ${values.scenario}`)
  return {
    scenario,
    peers: number('peers', values.peers, 1, 100_000),
    count: number('seeds', values.seeds, 1, 10_000_000),
    from: number('from', values.from, 0, Number.MAX_SAFE_INTEGER),
    seconds: number('seconds', values.seconds, 1, 86_400),
    threads: number('threads', values.threads, 1, 256),
    json: values.json,
    cuts: !values['no-cuts'],
    ...(values.loss === undefined ? {} : { loss: number('loss', values.loss, 0, 1) }),
    ...(values.churn === undefined ? {} : { churn: number('churn', values.churn, 0, 100) }),
    ...(values.changes === undefined ? {} : { changeEveryMs: number('changes', values.changes, 1, 86_400_000) }),
    ...(values.bug === undefined ? {} : { bug: values.bug }),
  }
}

function number(name: string, text: string, least: number, most: number): number {
  const value = Number(text)
  if (!(value >= least && value <= most)) throw new Error(`--${name} is a number from ${least} to ${most}, not ${text}`)
  return value
}

/** Hands seeds out to threads, one at a time, so that a slow one holds nobody up. */
async function share(order: Omit<Order, 'seeds'>, seeds: readonly number[], threads: number, hear: (outcome: Outcome) => void): Promise<Outcome[]> {
  const outcomes: Outcome[] = []
  const waiting = [...seeds].reverse()
  const lane = (): Promise<void> => new Promise((resolve, reject) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: order, resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB } })
    const next = (): void => {
      const seed = waiting.pop()
      if (seed !== undefined) worker.postMessage(seed)
      else void worker.terminate().then(() => resolve())
    }
    worker.on('message', (outcome: Outcome) => {
      outcomes.push(outcome)
      hear(outcome)
      next()
    })
    worker.on('error', reject)
    next()
  })
  await Promise.all(Array.from({ length: Math.min(threads, seeds.length) }, lane))
  return outcomes
}

async function work(order: Omit<Order, 'seeds'>): Promise<void> {
  parentPort?.on('message', (seed: number) => {
    drawScenario(order.scenario, { ...order, seed }).then(scenario => live(scenario, order.seconds)).then(outcome => parentPort?.postMessage(outcome), error => {
      // Not a property that failed but the simulator: stop, loudly.
      queueMicrotask(() => {
        throw error
      })
    })
  })
}

function report(outcome: Outcome, order: Omit<Order, 'seeds'> & { readonly json: boolean }): void {
  const { seed, violation, drawn, fingerprint, delivered, crashes, partitions, settledInMs, figures } = outcome
  if (violation !== undefined) {
    const same = [`--scenario ${order.scenario}`, `--peers ${order.peers}`, `--seconds ${order.seconds}`]
    if (order.loss !== undefined) same.push(`--loss ${order.loss}`)
    if (order.churn !== undefined) same.push(`--churn ${order.churn}`)
    if (order.cuts === false) same.push('--no-cuts')
    if (order.changeEveryMs !== undefined) same.push(`--changes ${order.changeEveryMs}`)
    if (order.bug !== undefined) same.push(`--bug ${order.bug}`)
    process.stderr.write(`${violation}\n  drawn: ${JSON.stringify(drawn)}\n  again: node simulations/run.ts --seeds 1 --from ${seed} ${same.join(' ')}\n`)
  } else if (!order.json) process.stdout.write(`seed ${seed}: ok, ${delivered} messages, ${crashes} crashes, ${partitions} partitions, well again after ${settledInMs} ms, ${fingerprint}${figures === undefined ? '' : `, ${JSON.stringify(figures)}`}\n`)
}
