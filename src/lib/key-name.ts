import { digest, hex, utf8 } from '../../protocols/codec.ts'

/** What an idempotency key of one kind is called between peers: the same everywhere, and nothing that tells the key. */
export function keyName(kind: string, ...key: readonly string[]): string {
  return hex(digest(utf8([`aios-${kind}`, ...key].join('\0')))).slice(0, 32)
}
