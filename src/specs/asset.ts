import { check } from '../../protocols/codec.ts'
import type { Cid, PeerId } from '../../protocols/ids.ts'
import { assetRecord, type AssetRecord } from '../../protocols/specs.ts'
import { specValues } from './envelope.ts'
import { Fields } from './fields.ts'
import { Problems } from './problems.ts'
import { makeUri } from './uri.ts'

/**
 * An asset's metadata, in AIOS's snake_case or the one form, with the content it was stored as. A missing version is
 * `0.0.1-stable`. Throws SPEC_INVALID that lists what to fix.
 */
export function parseAsset(document: unknown, { author, content, size }: { readonly author: PeerId; readonly content: Cid; readonly size: number }): AssetRecord {
  const problems = new Problems('asset')
  const spec = new Fields(specValues(document, 'asset'), '', problems)
  const name = spec.part(['name', 'asset_name', 'assetName'], 'weights.bin')
  const nested = spec.find('asset_version', 'assetVersion', 'version')
  const versions = typeof nested === 'object' ? spec.inside('asset_version', 'assetVersion', 'version') : spec
  const version = versions.find('version', 'asset_version') === undefined ? '0.0.1' : versions.part(['version', 'asset_version'], '1.0.0')
  const tags = ['releaseTag', 'tag', 'release_tag', 'release-tag']
  const releaseTag = versions.find(...tags) === undefined ? 'stable' : versions.part(tags, 'stable')
  const file = spec.inside('asset_file_info', 'fileInfo')
  const asset = {
    assetURI: makeUri({ name, version, releaseTag }),
    name, version, releaseTag, content, size,
    mediaType: spec.text(['mediaType', 'media_type'], 200) ?? file.text(['file_type', 'fileType'], 200) ?? 'application/octet-stream',
    metadata: spec.object('metadata', 'asset_metadata') ?? {},
    tags: [...spec.texts(['tags', 'asset_tags'])],
    author,
  }
  problems.settle()
  return check(assetRecord, asset, 'asset', 'SPEC_INVALID')
}
