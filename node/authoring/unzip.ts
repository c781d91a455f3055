import { inflateRawSync } from 'node:zlib'
import { MeshError } from '../../protocols/errors.ts'
import { bundlePath } from '../../protocols/specs.ts'

const END = 0x06054b50
const ENTRY = 0x02014b50
const END_BYTES = 22
const COMMENT_BYTES = 65_535
const STORED = 0
const DEFLATED = 8

export type UnzipLimits = { readonly files: number; readonly bytes: number }

/**
 * The files of a zip archive by path, from its central directory (APPNOTE 6.3). Throws SPEC_INVALID for what is no archive, is
 * encrypted, names a path that leads out, or unpacks to more than the limits.
 */
export function unzip(archive: Buffer, limits: UnzipLimits): ReadonlyMap<string, Buffer> {
  const files = new Map<string, Buffer>()
  let left = limits.bytes
  try {
    const end = endOf(archive)
    const count = archive.readUInt16LE(end + 10)
    let at = archive.readUInt32LE(end + 16)
    for (let index = 0; index < count; index += 1) {
      if (archive.readUInt32LE(at) !== ENTRY) throw refused('its directory is damaged')
      const [flags, method] = [archive.readUInt16LE(at + 8), archive.readUInt16LE(at + 10)]
      const [packed, whole] = [archive.readUInt32LE(at + 20), archive.readUInt32LE(at + 24)]
      const [nameBytes, extraBytes, commentBytes] = [archive.readUInt16LE(at + 28), archive.readUInt16LE(at + 30), archive.readUInt16LE(at + 32)]
      const local = archive.readUInt32LE(at + 42)
      const path = archive.toString('utf8', at + 46, at + 46 + nameBytes)
      at += 46 + nameBytes + extraBytes + commentBytes
      if (path.endsWith('/')) continue
      if (!bundlePath.safeParse(path).success) throw refused(`${JSON.stringify(path.slice(0, 100))} is not a path inside it`)
      if ((flags & 1) === 1) throw refused(`${path} is encrypted`)
      if (whole > left || files.size >= limits.files) throw refused(`it unpacks to more than ${limits.files} files or ${limits.bytes} bytes`)
      const from = local + 30 + archive.readUInt16LE(local + 26) + archive.readUInt16LE(local + 28)
      const bytes = archive.subarray(from, from + packed)
      if (method !== STORED && method !== DEFLATED) throw refused(`${path} is packed in a way (${method}) that is not read here`)
      const content = method === STORED ? bytes : inflateRawSync(bytes, { maxOutputLength: Math.max(1, left) })
      left -= content.byteLength
      files.set(path, content)
    }
  } catch (error) {
    if (error instanceof MeshError) throw error
    throw refused(error instanceof Error ? error.message : String(error))
  }
  return files
}

function endOf(archive: Buffer): number {
  for (let at = archive.byteLength - END_BYTES; at >= Math.max(0, archive.byteLength - END_BYTES - COMMENT_BYTES); at -= 1) if (archive.readUInt32LE(at) === END) return at
  throw refused('it is no zip archive')
}

function refused(because: string): MeshError {
  return new MeshError('SPEC_INVALID', `the archive cannot be unpacked: ${because}`)
}
