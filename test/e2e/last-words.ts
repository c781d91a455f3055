import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Context } from 'mocha'
import { z } from 'zod'
import { DaemonClient } from '../../node/cli/daemon-client.ts'
import type { DevPeer } from '../../node/devnet/devnet.ts'
import { asMeshError } from '../../protocols/errors.ts'

const ASK_MS = 5_000
const LINES = 12

/** After a test that failed: what each peer said last, and what it knows of every block. Whoever reads a report of another machine has nothing else. */
export async function lastWords(context: Context, peers: readonly DevPeer[]): Promise<void> {
  if (context.currentTest?.state !== 'failed') return
  for (const { index, peer, dataDir } of peers) {
    const said = await readFile(join(dataDir, 'output.log'), 'utf8').catch(() => '')
    console.log(`peer ${index} ${peer}\n${said.trimEnd().split('\n').slice(-LINES).join('\n')}`)
    try {
      const asked = await DaemonClient.find(dataDir, AbortSignal.timeout(ASK_MS))
      for (const { blockId } of z.array(z.object({ blockId: z.string() })).parse(await asked.get('/mesh/blocks'))) console.log(`${blockId} ${JSON.stringify(await asked.get(`/mesh/blocks/${blockId}/status`))}`)
    } catch (error) {
      console.log(`it does not answer: ${asMeshError(error).message}`)
    }
  }
}
