import { MeshError } from '../../protocols/errors.ts'
import type { Template, VdagNode, VdagSpec } from '../../protocols/specs.ts'
import type { Catalogue } from '../roles.ts'
import { entriesOf, tailsOf } from './graph.ts'

type Ends = { readonly input: Template | undefined; readonly output: Template | undefined }
type Shelf = Pick<Catalogue, 'block' | 'component' | 'vdag'>

/** As deep as vDAGs may be nested; what is deeper is refused elsewhere. */
const DEEPEST = 8
const SAYS_NOTHING: Ends = { input: undefined, output: undefined }

/**
 * Gives the nodes that state no protocol of their own those of the block, the component or the vDAG they name, as a run would. A node
 * that names none of them, or one that cannot be had now, stays without.
 */
export async function withProtocols(spec: VdagSpec, shelf: Shelf, signal: AbortSignal): Promise<VdagSpec> {
  return { ...spec, nodes: await Promise.all(spec.nodes.map(async node => ({ ...node, ...stated(await endsOf(node, shelf, signal, DEEPEST)) }))) }
}

async function endsOf(node: VdagNode, shelf: Shelf, signal: AbortSignal, levels: number): Promise<Ends> {
  const named = node.inputProtocol !== undefined && node.outputProtocol !== undefined ? SAYS_NOTHING : await namedBy(node, shelf, signal, levels)
  return { input: node.inputProtocol ?? named.input, output: node.outputProtocol ?? named.output }
}

async function namedBy({ blockId, componentURI, vdagURI }: VdagNode, shelf: Shelf, signal: AbortSignal, levels: number): Promise<Ends> {
  const block = blockId === undefined ? undefined : await shelf.block(blockId)
  if (block !== undefined) return { input: said(block.inputProtocol), output: said(block.outputProtocol) }
  try {
    if (componentURI !== undefined) {
      const { componentInputProtocol, componentOutputProtocol } = (await shelf.component(componentURI, signal)).manifest
      return { input: said(componentInputProtocol), output: said(componentOutputProtocol) }
    }
    if (vdagURI === undefined || levels === 0) return SAYS_NOTHING
    const { spec } = await shelf.vdag(vdagURI, signal)
    // Several of either come as a list or a join, which no one of them describes.
    const only = async (labels: readonly string[]): Promise<Ends> => {
      const inner = labels.length === 1 ? spec.nodes.find(({ label }) => label === labels[0]) : undefined
      return inner === undefined ? SAYS_NOTHING : endsOf(inner, shelf, signal, levels - 1)
    }
    return { input: (await only(entriesOf(spec))).input, output: (await only(tailsOf(spec))).output }
  } catch (error) {
    if (error instanceof MeshError) return SAYS_NOTHING
    throw error
  }
}

function stated({ input, output }: Ends): Pick<VdagNode, 'inputProtocol' | 'outputProtocol'> {
  return { ...(input === undefined ? {} : { inputProtocol: input }), ...(output === undefined ? {} : { outputProtocol: output }) }
}

/** An empty template says nothing. */
function said(template: Template): Template | undefined {
  return Object.keys(template).length === 0 ? undefined : template
}
