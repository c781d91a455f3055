import { type BlockFrame, contentBlocks, contentHave } from '../../../protocols/content.ts'
import type { Network, Stream, Telemetry } from '../../../src/ports.ts'
import { type BlockFiles, parseCid } from './block-files.ts'

/** Blocks read ahead of what is being sent, a stream. */
const AHEAD = 2
const EMPTY = new Uint8Array(0)

/** Gives members the blocks they want, as fast as they take them and no faster. */
export function serveBlocks(network: Network, files: BlockFiles, has: (cid: string) => Promise<boolean>, telemetry: Telemetry): void {
  network.handle(contentHave, async ({ roots }) => ({ held: await Promise.all(roots.map(root => has(root).catch(() => false))) }))
  network.accept(contentBlocks, stream => answer(stream, files, telemetry))
}

async function answer(stream: Stream<BlockFrame>, files: BlockFiles, telemetry: Telemetry): Promise<void> {
  const ahead: { readonly cid: string; readonly bytes: Promise<Uint8Array | undefined> }[] = []
  const give = async (): Promise<void> => {
    const next = ahead.shift()
    if (next === undefined) return
    const bytes = await next.bytes
    if (bytes === undefined) await stream.send({ header: { kind: 'missing', cid: next.cid }, bytes: EMPTY })
    else {
      await stream.send({ header: { kind: 'block', cid: next.cid }, bytes })
      telemetry.count('content_served_bytes_total', {}, bytes.byteLength)
    }
  }
  for await (const { header } of stream) {
    if (header.kind !== 'want') continue
    for (const cid of header.cids) {
      const bytes = files.read(parseCid(cid))
      // Read failures are told when it is this block's turn.
      bytes.catch(() => undefined)
      ahead.push({ cid, bytes })
      if (ahead.length > AHEAD) await give()
    }
    // What was read ahead must leave before the next wait: nothing more may be wanted.
    while (ahead.length > 0) await give()
  }
}
