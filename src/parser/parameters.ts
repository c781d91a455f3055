import { z } from 'zod'
import { check } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import type { Catalogue } from '../roles.ts'
import { specValues } from '../specs/envelope.ts'
import { Problems } from '../specs/problems.ts'
import { judge } from '../specs/template.ts'

const update = z.looseObject({ blockId: z.string('name the block').min(1, 'name the block'), parameters: z.record(z.string(), z.json(), 'give the parameters to change: { "threshold": 0.5 }') })

/**
 * AIOS's `parameterUpdate`: parameters for the running instances of a block, held to its component's template. Throws SPEC_INVALID
 * naming field, value and what would be right; NOT_FOUND.
 */
export async function parseUpdate(document: Json, catalogue: Pick<Catalogue, 'block' | 'componentByCid'>, signal: AbortSignal): Promise<{ readonly block: BlockRecord; readonly parameters: Readonly<Record<string, Json>> }> {
  const { block_id, ...values } = specValues(document, 'parameter update')
  const { blockId, parameters } = check(update, { ...values, blockId: values['blockId'] ?? block_id }, 'parameter update', 'SPEC_INVALID')
  const block = await catalogue.block(blockId)
  if (block === undefined) throw new MeshError('NOT_FOUND', `no block is called ${blockId}: \`aios block list\` shows those there are`)
  const { componentInitParametersProtocol } = await catalogue.componentByCid(block.component, signal)
  const problems = new Problems('parameter update')
  // Those it leaves out stay as they are.
  judge(componentInitParametersProtocol, { ...block.parameters, ...parameters }, 'parameters', problems)
  problems.settle()
  return { block, parameters }
}
