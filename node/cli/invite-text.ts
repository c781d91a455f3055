import { readFile } from 'node:fs/promises'
import { text } from 'node:stream/consumers'
import { MeshError } from '../../protocols/errors.ts'

/** What `--join` says: an invite, `@FILE` for one in a file, or `-` for one on `input`, so that it shows in no list of processes. Throws BAD_INPUT. */
export async function inviteText(said: string, input: NodeJS.ReadableStream = process.stdin): Promise<string> {
  if (said !== '-' && !said.startsWith('@')) return said
  const from = said === '-' ? 'standard input' : said.slice(1)
  let invite: string
  try {
    invite = (said === '-' ? await text(input) : await readFile(from, 'utf8')).trim()
  } catch (cause) {
    throw new MeshError('BAD_INPUT', `cannot read an invite from ${from}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
  if (invite === '') throw new MeshError('BAD_INPUT', `there is no invite in ${from}: put there what \`aios invite\` prints`)
  return invite
}

/** The words of a command line, with the invite that `--join` gives left to be read from standard input. */
export function withInviteAside(words: readonly string[]): readonly string[] {
  return words.map((word, at) => (word.startsWith('--join=') ? '--join=-' : words[at - 1] === '--join' ? '-' : word))
}
