import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'

describe('compiling sooner', () => {
  it('says nothing that the V8 of this Node does not know', () => {
    const script = `import { compileSooner } from '${new URL('../../node/instance/compile-sooner.ts', import.meta.url).href}'; compileSooner()`
    const { status, stderr } = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', '--input-type=module', '--eval', script], { encoding: 'utf8' })
    assert.equal(status, 0)
    assert.equal(stderr, '')
  })
})
