import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { inviteText, withInviteAside } from '../../node/cli/invite-text.ts'

describe('the invite that --join gives', () => {
  let dir: string
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-invite-'))
  })
  after(() => rm(dir, { recursive: true, force: true }))

  it('is itself, that of a file after @, or that on standard input for -', async () => {
    const file = join(dir, 'invite')
    await writeFile(file, 'aios1abc\n')
    assert.deepEqual(await Promise.all([inviteText('aios1abc'), inviteText(`@${file}`), inviteText('-', Readable.from(['aios1', 'abc\n']))]), ['aios1abc', 'aios1abc', 'aios1abc'])
    await writeFile(file, '\n')
    await assert.rejects(inviteText(`@${file}`), { code: 'BAD_INPUT', message: /no invite in .*invite: put there what `aios invite` prints/ })
    await assert.rejects(inviteText(`@${file}s`), { code: 'BAD_INPUT', message: /cannot read an invite from .*invites: ENOENT/ })
    await assert.rejects(inviteText('-', Readable.from([])), { code: 'BAD_INPUT', message: /no invite in standard input/ })
  })

  it('is on no command line of a peer that goes on in the background', () => {
    assert.deepEqual(withInviteAside(['up', '--join', 'aios1abc', '--name', 'x']), ['up', '--join', '-', '--name', 'x'])
    assert.deepEqual(withInviteAside(['up', '--join=@file', '--join', '-']), ['up', '--join=-', '--join', '-'])
  })
})
