import type { Command } from './command.ts'
import { artefactCommands } from './artefact-commands.ts'
import { blockCommands } from './block-commands.ts'
import { chatCommands } from './chat-command.ts'
import { clusterCommands } from './cluster-commands.ts'
import { controllerCommands } from './controller-commands.ts'
import { meshCommands } from './mesh-commands.ts'
import { metricsCommands } from './metrics-commands.ts'
import { modelCommands } from './model-commands.ts'
import { policyCommands } from './policy-commands.ts'
import { reviewCommands } from './review-commands.ts'
import { runCommands } from './run-commands.ts'
import { storeCommands } from './store-commands.ts'
import { taskCommands } from './task-commands.ts'

/** Every command of `aios`, in the order of its help. */
export const commands: readonly Command[] = [...meshCommands, ...metricsCommands, ...clusterCommands, ...artefactCommands, ...policyCommands, ...blockCommands, ...runCommands, ...controllerCommands, ...storeCommands, ...taskCommands, ...reviewCommands, ...modelCommands, ...chatCommands]
