import { blockId } from '../../protocols/ids.ts'
import { MeshError } from '../../protocols/errors.ts'
import { vdagSpec, type VdagSpec } from '../../protocols/specs.ts'

/** Its URI says what it is; nobody publishes it. */
const ADHOC = { vdagName: 'adhoc', vdagVersion: { version: '1.0.0', releaseTag: 'graph' }, vdagURI: 'adhoc:1.0.0-graph' } as const

/**
 * AIOS's ad-hoc graph, `{ graph: { block: [next, …] } }` with or without the wrapper or `is_graph`, as a vDAG whose labels are the
 * block ids. Blocks that are only named as somebody's next belong to it too. Throws SPEC_INVALID naming the entry.
 */
export function parseBlockGraph(document: unknown): VdagSpec {
  const outer = isObject(document) ? document : wrong('graph', document)
  const graph = isObject(outer['graph']) ? outer['graph'] : outer['is_graph'] === undefined ? outer : wrong('graph', outer['graph'])
  const edges: { from: string; to: string }[] = []
  const labels = new Set<string>()
  for (const [from, value] of Object.entries(graph)) {
    labels.add(block(from))
    const next = isObject(value) ? value['outputs'] ?? wrong(from, value) : value
    if (!Array.isArray(next)) wrong(from, value)
    for (const to of next) {
      labels.add(block(to))
      edges.push({ from, to: block(to) })
    }
  }
  if (labels.size === 0) wrong('graph', graph)
  const all = [...labels]
  return vdagSpec.parse({
    ...ADHOC,
    nodes: all.map(label => ({ label, type: 'block', blockId: label })),
    edges,
    inputs: all.filter(label => !edges.some(({ to }) => to === label)),
    outputs: all.filter(label => !edges.some(({ from }) => from === label)),
  })
}

function block(id: unknown): string {
  const parsed = blockId.safeParse(id)
  return parsed.success ? parsed.data : wrong('graph', id)
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return value !== null && typeof value === 'object' && !Array.isArray(value)
}

function wrong(field: string, value: unknown): never {
  throw new MeshError('SPEC_INVALID', `graph: ${field}: ${JSON.stringify(value)?.slice(0, 100) ?? 'nothing'} is not what belongs there; give { "graph": { "first-block": ["next-block"], "next-block": [] } }`)
}
