import type { Context, Hono } from 'hono'
import { z } from 'zod'
import { check } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import { cid, json, type Json } from '../../protocols/ids.ts'
import type { Stored } from '../../src/assets/assets.ts'
import type { JsonObject } from '../../src/lib/json.ts'
import { incoming, namesTag, rangeOf, streamed } from './byte-range.ts'
import { boundaryOf, formParts, textOf } from './multipart-stream.ts'
import { body } from './request-body.ts'
import type { GatewayParts } from './server.ts'

const METADATA_BYTES = 1_048_576

/** Uploads of any size, before the door's limit on bodies: a form as AIOS's clients send it, or the bare bytes with their name in the query. */
export function addAssetUpload(app: Hono, { peer: { assets }, url }: GatewayParts): void {
  const made = (context: Context, data: JsonObject): Response => context.json({ success: true, data: reachable(data, url()) }, 201)

  app.post('/upload_asset', async context => {
    const request = context.req.raw
    const boundary = boundaryOf(context.req.header('content-type'))
    if (boundary === undefined) {
      const { name, asset_name, version, tag, replicas, tags } = context.req.query()
      const document = { name: name ?? asset_name ?? '', mediaType: context.req.header('content-type') ?? 'application/octet-stream', version: version ?? '0.0.1', releaseTag: tag ?? 'stable', ...(replicas === undefined ? {} : { replicas }), ...(tags === undefined ? {} : { tags: tags.split(',') }) }
      if (document.name === '') throw new MeshError('BAD_INPUT', 'name the asset: POST /upload_asset?name=weights.bin&version=1.0.0, or send a form with the parts asset and asset_metadata')
      return made(context, await assets.name(document, await assets.store(incoming(request), request.signal)))
    }
    let stored: Stored | undefined
    let file: { readonly name: string | undefined; readonly type: string | undefined } = { name: undefined, type: undefined }
    let metadata: { readonly [key: string]: Json } = {}
    for await (const part of formParts(incoming(request), boundary)) {
      if (part.name === 'asset') {
        if (stored !== undefined) throw new MeshError('BAD_INPUT', 'the form has the part asset twice')
        file = { name: part.fileName, type: part.contentType }
        stored = await assets.store(part.body, request.signal)
      } else if (part.name === 'asset_metadata') metadata = metadataOf(await textOf(part, METADATA_BYTES))
    }
    if (stored === undefined) throw new MeshError('BAD_INPUT', 'the form has no part called asset')
    const named = ['name', 'asset_name', 'assetName'].some(name => metadata[name] !== undefined)
    const typed = ['mediaType', 'media_type', 'asset_file_info'].some(name => metadata[name] !== undefined)
    return made(context, await assets.name({ ...(named || file.name === undefined ? {} : { name: file.name }), ...(typed || file.type === undefined ? {} : { mediaType: file.type }), ...metadata }, stored))
  })
}

/** AIOS's assets registry: documents, queries, and the bytes themselves, in ranges. */
export function addAssetRoutes(app: Hono, { peer: { assets, ports, view }, url }: GatewayParts): void {
  const told = (data: JsonObject): JsonObject => reachable(data, url())
  app.get('/health', context => context.json({ success: true, data: { healthy: true, peer: view.self } }))

  app.post('/asset', async context => {
    const document = await body(context, json)
    const { content, size } = check(z.looseObject({ content: cid.optional(), size: z.int().nonnegative().optional() }), document, 'request', 'BAD_INPUT')
    if (content === undefined || size === undefined) throw new MeshError('BAD_INPUT', 'an asset has bytes: send them to /upload_asset, or name content (a CID this peer holds) and its size')
    return context.json({ success: true, data: told(await assets.name(document, { cid: content, size })) }, 201)
  })
  app.get('/asset/:uri', async context => context.json({ success: true, data: told(await assets.get(context.req.param('uri'))) }))
  app.put('/asset/:uri', async context => {
    const { replicas, labels } = await body(context, z.looseObject({ replicas: z.int().min(1).max(64).optional(), labels: z.record(z.string(), z.string()).optional() }))
    const uri = context.req.param('uri')
    if (replicas === undefined) throw new MeshError('IMMUTABLE', `${uri} is a version, and a version never changes: publish another. Only {"replicas": n} can be put`)
    await assets.replicate(uri, replicas, labels)
    return context.json({ success: true, data: told(await assets.get(uri)) })
  })
  app.delete('/asset/:uri', async context => {
    await assets.yank(context.req.param('uri'), context.req.query('because'))
    return context.json({ success: true, data: { message: `${context.req.param('uri')} was taken back` } })
  })
  app.get('/asset/:uri/health', async context => {
    const health = await assets.health(await assets.record(context.req.param('uri')))
    return context.json({ success: true, data: health })
  })
  app.get('/assets', async context => context.json({ success: true, data: (await assets.query({})).map(told) }))
  app.post('/assets', async context => context.json({ success: true, data: (await assets.query(await body(context, json))).map(told) }))

  // Hono answers HEAD by what GET answers, without the body.
  app.get('/asset-object/:id', async context => {
    const signal = context.req.raw.signal
    const asset = await assets.object(context.req.param('id'), signal)
    const etag = `"${asset.content}"`
    const headers = { 'content-type': asset.mediaType, 'accept-ranges': 'bytes', etag, 'cache-control': 'public, max-age=31536000, immutable', 'x-content-type-options': 'nosniff', 'content-disposition': `attachment; filename*=UTF-8''${encodeURIComponent(asset.name)}` }
    if (namesTag(context.req.header('if-none-match'), etag)) return new Response(null, { status: 304, headers })
    const condition = context.req.header('if-range')
    const part = condition === undefined || namesTag(condition, etag) ? rangeOf(context.req.header('range'), asset.size) : undefined
    if (part === 'unsatisfiable') return new Response(null, { status: 416, headers: { ...headers, 'content-range': `bytes */${asset.size}` } })
    const send = (status: number, length: number, more: Readonly<Record<string, string>>, bytes: () => AsyncIterable<Uint8Array>): Response =>
      new Response(context.req.method === 'HEAD' || length === 0 ? null : streamed(bytes()), { status, headers: { ...headers, ...more, 'content-length': String(length) } })
    if (part === undefined) return send(200, asset.size, {}, () => ports.content.cat(asset.content, { signal }))
    return send(206, part.length, { 'content-range': `bytes ${part.offset}-${part.offset + part.length - 1}/${asset.size}` }, () => ports.content.cat(asset.content, { ...part, signal }))
  })
}

/** With its public URL on this peer's door. */
function reachable(document: JsonObject, door: string): JsonObject {
  return { ...document, asset_public_url: `${door}${String(document['asset_public_url'])}` }
}

function metadataOf(text: string): { readonly [key: string]: Json } {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new MeshError('BAD_INPUT', 'the part asset_metadata is not JSON', { cause })
  }
  const parsed = z.record(z.string(), json).safeParse(value)
  if (!parsed.success) throw new MeshError('BAD_INPUT', 'the part asset_metadata is a JSON object')
  return parsed.data
}
