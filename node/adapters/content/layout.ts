import * as dagPb from '@ipld/dag-pb'
import { UnixFS } from 'ipfs-unixfs'
import { CID } from 'multiformats/cid'
import { MeshError } from '../../../protocols/errors.ts'

const RAW = 0x55
const DAG_PB = 0x70
const DEPTH_BOUND = 16
/** 1 TiB of 1 MiB leaves. */
const LEAVES_BOUND = 1_048_576

/** A leaf of a file: where its bytes lie in the file. `inline`: bytes that the inner nodes carry themselves. */
export type Leaf = { readonly cid: CID; readonly offset: number; readonly size: number; readonly inline?: Uint8Array }

/** The shape of a UnixFS file: its inner nodes, its leaves in order. */
export type Layout = { readonly inner: readonly CID[]; readonly leaves: readonly Leaf[]; readonly size: number }

/** Blocks that stand alone: raw bytes, records. */
export function isSingle(cid: CID): boolean {
  return cid.code !== DAG_PB
}

/**
 * Reads the inner nodes of a file with `load`, which verifies. Throws CONTENT_CORRUPT when the blocks are no UnixFS file:
 * they are what their CIDs say, but whoever made them lied about sizes or shape.
 */
export async function readLayout(root: CID, load: (cid: CID) => Promise<Uint8Array>): Promise<Layout> {
  const inner: CID[] = []
  const leaves: Leaf[] = []
  let offset = 0

  const walk = async (cid: CID, expected: number | undefined, depth: number): Promise<void> => {
    if (depth > DEPTH_BOUND || leaves.length > LEAVES_BOUND) throw malformed(root, 'it is too deep or has too many parts')
    if (cid.code === RAW) {
      const size = expected ?? (await load(cid)).byteLength
      leaves.push({ cid, offset, size })
      offset += size
      return
    }
    if (cid.code !== DAG_PB) throw malformed(root, `a part of it has codec ${cid.code}`)
    const { Data, Links } = dagPb.decode(await load(cid))
    const node = unixfs(root, Data)
    inner.push(cid)
    if (node.blockSizes.length !== Links.length) throw malformed(root, 'its parts and their sizes do not agree')
    const own = node.data ?? new Uint8Array(0)
    if (own.byteLength > 0) {
      leaves.push({ cid, offset, size: own.byteLength, inline: own })
      offset += own.byteLength
    }
    for (const [at, link] of Links.entries()) await walk(CID.asCID(link.Hash) ?? CID.parse(link.Hash.toString()), Number(node.blockSizes[at] ?? 0n), depth + 1)
  }

  await walk(root, undefined, 0)
  return { inner, leaves, size: offset }
}

/** What an inner node names. */
export function links(node: Uint8Array): readonly CID[] {
  return dagPb.decode(node).Links.map(link => CID.asCID(link.Hash) ?? CID.parse(link.Hash.toString()))
}

function unixfs(root: CID, data: Uint8Array | undefined): UnixFS {
  if (data === undefined) throw malformed(root, 'a part of it is no UnixFS')
  try {
    const node = UnixFS.unmarshal(data)
    if (node.isDirectory()) throw malformed(root, 'it is a directory')
    return node
  } catch (error) {
    if (error instanceof MeshError) throw error
    throw malformed(root, error instanceof Error ? error.message : String(error))
  }
}

function malformed(root: CID, because: string): MeshError {
  return new MeshError('CONTENT_CORRUPT', `${root.toString()} is not a file that can be read: ${because}`, { retryable: false })
}
