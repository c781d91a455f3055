import { createWriteStream } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { resolve } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import { arg, count, text, UsageError, type Command, type Context } from './command.ts'
import { bytes, pretty, shortId, table } from './output.ts'

const progressLine = z.object({ progress: z.object({ doneBytes: z.number(), totalBytes: z.number() }) })
const resultLine = z.object({ result: json })
const published = z.object({ uri: z.string(), cid: z.string(), bytes: z.number(), existing: z.boolean().optional() })
const answer = z.object({ data: json })
const listed = z.array(z.object({ uri: z.string(), cid: z.string() }).loose())
const assets = z.array(z.object({ uri: z.string(), cid: z.string(), size: z.number(), writer: z.string() }))

export const artefactCommands: readonly Command[] = [
  {
    words: ['component', 'publish'], args: 'DIR', count: [1, 1], what: 'bundle, sign and publish a component',
    async run(context) {
      await publish(context, '/mesh/components', { directory: resolve(arg(context, 0)) })
    },
  },
  { words: ['component', 'list'], args: '', count: [0, 0], what: 'components of the network', run: context => listing(context, '/mesh/components') },
  {
    words: ['component', 'show'], args: 'URI', count: [1, 1], what: 'one component\'s manifest',
    async run(context) {
      const manifest = await (await context.daemon()).get(`/mesh/components/${encodeURIComponent(arg(context, 0))}`)
      context.out.result(manifest, () => pretty(manifest))
    },
  },
  {
    words: ['asset', 'add'], args: 'FILE', count: [1, 1], what: 'publish a file',
    options: [{ name: 'name', value: 'NAME', what: 'asset name (default: the file\'s)' }, { name: 'version', value: 'V', what: 'default 1.0.0' }, { name: 'tag', value: 'TAG', what: 'release tag, default stable' }, { name: 'replicas', value: 'N', what: 'on how many live hosts the mesh shall keep it (default: here)' }],
    async run(context) {
      const body: Record<string, Json> = { file: resolve(arg(context, 0)) }
      for (const name of ['name', 'version', 'tag']) {
        const value = text(context, name)
        if (value !== undefined) body[name] = value
      }
      const replicas = text(context, 'replicas') === undefined ? undefined : count(context, 'replicas', 1)
      const result = published.parse(await follow(context, (await context.daemon()).lines('POST', '/mesh/assets', body), 'publishing'))
      if (replicas !== undefined) await (await context.daemon()).send('PUT', `/asset/${encodeURIComponent(result.uri)}`, { replicas })
      told(context, result)
    },
  },
  {
    words: ['asset', 'show'], args: 'URI', count: [1, 1], what: 'one asset, and which hosts hold it',
    async run(context) {
      const daemon = await context.daemon()
      const path = `/asset/${encodeURIComponent(arg(context, 0))}`
      const [asset, health] = [answer.parse(await daemon.get(path)).data, answer.parse(await daemon.get(`${path}/health`)).data]
      context.out.result({ asset, health }, () => `${pretty(asset)}\n${pretty(health)}`)
    },
  },
  {
    words: ['asset', 'replicate'], args: 'URI N', count: [2, 2], what: 'change on how many live hosts an asset is kept',
    async run(context) {
      const replicas = Number(arg(context, 1))
      const result = await (await context.daemon()).send('PUT', `/asset/${encodeURIComponent(arg(context, 0))}`, { replicas })
      context.out.result(result, () => `${arg(context, 0)} is kept on ${replicas} host(s)`)
    },
  },
  {
    words: ['asset', 'remove'], args: 'URI', count: [1, 1], what: 'take a version back that was published here; its copies are let go',
    async run(context) {
      const result = await (await context.daemon()).send('DELETE', `/asset/${encodeURIComponent(arg(context, 0))}`)
      context.out.result(result, () => `${arg(context, 0)} was taken back`)
    },
  },
  {
    words: ['asset', 'get'], args: 'URI', count: [1, 1], what: 'fetch a file from whoever holds it',
    options: [{ name: 'output', value: 'FILE', what: 'where to write it (also -o)' }],
    async run(context) {
      const output = text(context, 'output')
      if (output === undefined) throw new UsageError('usage: aios asset get URI -o FILE')
      const uri = encodeURIComponent(arg(context, 0))
      const daemon = await context.daemon()
      const size = await follow(context, daemon.lines('POST', `/mesh/assets/${uri}/fetch`, {}), 'fetching')
      const response = await daemon.fetch('GET', `/mesh/assets/${uri}/content`)
      if (response.body === null) throw new MeshError('CONTENT_UNAVAILABLE', 'the peer sent no content')
      // Written beside and renamed, so that a half-written file never has the asked-for name.
      const part = `${resolve(output)}.part`
      try {
        await pipeline(Readable.fromWeb(response.body as import('node:stream/web').ReadableStream<Uint8Array>), createWriteStream(part))
        await rename(part, resolve(output))
      } catch (error) {
        await rm(part, { force: true })
        if (error instanceof Error && 'syscall' in error) throw new MeshError('BAD_INPUT', `cannot write ${output}: ${error.message}`, { cause: error })
        throw error
      }
      context.out.result(size, () => `wrote ${output}`)
    },
  },
  {
    words: ['asset', 'list'], args: '', count: [0, 0], what: 'assets of the network',
    async run(context) {
      const rows = assets.parse(await (await context.daemon()).get('/mesh/assets'))
      context.out.result(rows, () => table(['URI', 'SIZE', 'AUTHOR', 'CID'], rows.map(row => [row.uri, bytes(row.size), shortId(row.writer), row.cid])))
    },
  },
  {
    words: ['policy', 'publish'], args: 'DIR', count: [1, 1], what: 'bundle, try and publish a policy rule',
    async run(context) {
      await publish(context, '/mesh/policies', { directory: resolve(arg(context, 0)) })
    },
  },
  { words: ['policy', 'list'], args: '', count: [0, 0], what: 'policy rules of the network', run: context => listing(context, '/mesh/policies') },
]

async function publish(context: Context, path: string, body: Json): Promise<void> {
  told(context, published.parse(await follow(context, (await context.daemon()).lines('POST', path, body), 'publishing')))
}

function told(context: Context, result: z.infer<typeof published>): void {
  context.out.result(result, () => `${result.existing === true ? 'already published' : 'published'} ${result.uri}  (${bytes(result.bytes)}, ${result.cid})`)
}

/** Shows progress lines, answers with the result line. */
export async function follow(context: Context, lines: AsyncIterable<Json>, what: string): Promise<Json> {
  const began = performance.now()
  let result: Json | undefined
  for await (const line of lines) {
    const progress = progressLine.safeParse(line)
    if (progress.success) {
      const { doneBytes, totalBytes } = progress.data.progress
      context.out.progress(what, doneBytes, totalBytes, doneBytes / ((performance.now() - began) / 1_000))
    }
    const done = resultLine.safeParse(line)
    if (done.success) result = done.data.result
  }
  if (result === undefined) throw new MeshError('INTERNAL', 'the peer stopped before it was done')
  return result
}

async function listing(context: Context, path: string): Promise<void> {
  const rows = listed.parse(await (await context.daemon()).get(path))
  context.out.result(rows, () => table(['URI', 'CID'], rows.map(row => [row.uri, row.cid])))
}
