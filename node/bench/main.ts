import { MeshError } from '../../protocols/errors.ts'

/** One benchmark a file: `run` answers with its figures, ratios within the run wherever a bar is one. */
type Bench = { readonly run: () => Promise<Readonly<Record<string, number>>> }

const BENCHES: Readonly<Record<string, () => Promise<Bench>>> = {
  start: () => import('./start.ts'),
  roundtrip: () => import('./roundtrip.ts'),
  content: () => import('./content.ts'),
  image: () => import('./image.ts'),
  replica: () => import('./replica.ts'),
  failover: () => import('./failover.ts'),
  coordinator: () => import('./coordinator.ts'),
  'vdag-kill': () => import('./vdag-kill.ts'),
  simulate: () => import('./simulate.ts'),
  'llm-kill': () => import('./llm-kill.ts'),
  'llm-exact': () => import('./llm-exact.ts'),
  'llm-split': () => import('./llm-split.ts'),
  'llm-hop': () => import('./llm-hop.ts'),
  'llm-fill': () => import('./llm-fill.ts'),
  'llm-batch': () => import('./llm-batch.ts'),
  'llm-prefix': () => import('./llm-prefix.ts'),
  'llm-speculate': () => import('./llm-speculate.ts'),
  'llm-choose': () => import('./choose.ts'),
  plan: () => import('./plan.ts'),
  policy: () => import('./policy.ts'),
  search: () => import('./search.ts'),
  'llm-import': () => import('./llm-import.ts'),
}

const args = process.argv.slice(2)
const name = args.find(word => !word.startsWith('-'))
const load = name === undefined ? undefined : BENCHES[name]
if (name === undefined || load === undefined) {
  console.error(`usage: npm run bench -- NAME --json    (NAME: ${Object.keys(BENCHES).join(', ')})`)
  process.exit(2)
}
try {
  const figures = await (await load()).run()
  if (!args.includes('--json')) for (const [figure, value] of Object.entries(figures)) console.log(`${figure.padEnd(24)} ${value}`)
  console.log(JSON.stringify({ bench: name, figures }))
  process.exit(0)
} catch (error) {
  console.error(error instanceof MeshError ? `${error.code}: ${error.message}` : error)
  process.exit(1)
}
