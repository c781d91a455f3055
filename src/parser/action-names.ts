import type { SpecType } from '../../protocols/stores.ts'

export type ActionName =
  | 'createCluster' | 'addNode' | 'addComponent' | 'createBlock' | 'createvDAG' | 'search' | 'filter' | 'executeMgmtCommand' | 'parameterUpdate'
  | 'llmCreate' | 'llmVDAGCreate' | 'llmVDAGCreateManual' | 'startModelSplitJob' | 'queryLayers'

type About = {
  /** AIOS's name of the task it is. */
  readonly type: string
  /** It changes nothing. */
  readonly looks?: true
  /** Begun again after its peer stopped, it makes nothing twice. */
  readonly resumes?: true
  /** The kind of stored spec it takes. */
  readonly spec?: SpecType
}

/** The parser's actions, as AIOS names them. */
export const ACTIONS: ReadonlyMap<ActionName, About> = new Map<ActionName, About>([
  ['createCluster', { type: 'cluster_creation', resumes: true, spec: 'cluster' }],
  ['addNode', { type: 'node_addition', resumes: true, spec: 'node' }],
  ['addComponent', { type: 'component_creation', resumes: true, spec: 'component' }],
  ['createBlock', { type: 'block_allocation', resumes: true, spec: 'block' }],
  ['createvDAG', { type: 'vdag_creation', resumes: true, spec: 'vdag' }],
  ['search', { type: 'search', looks: true, spec: 'search' }],
  ['filter', { type: 'filter', looks: true, spec: 'filter' }],
  ['executeMgmtCommand', { type: 'mgmt_command', spec: 'mgmtCommand' }],
  ['parameterUpdate', { type: 'parameter_update' }],
  ['llmCreate', { type: 'llm_creation' }],
  ['llmVDAGCreate', { type: 'llm_creation' }],
  ['llmVDAGCreateManual', { type: 'llm_creation' }],
  ['startModelSplitJob', { type: 'model_splits', resumes: true }],
  ['queryLayers', { type: 'layer_query', looks: true }],
])

/** By any spelling: `createVDAG`, `start_model_split_job`. */
export function actionNamed(asked: string): ActionName | undefined {
  const plain = (name: string): string => name.toLowerCase().replaceAll(/[-_]/g, '')
  for (const name of ACTIONS.keys()) if (plain(name) === plain(asked)) return name
  return undefined
}
