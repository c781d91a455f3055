import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { z } from 'zod'
import { ROOT } from '../source.ts'

const manifest = z.object({ dependencies: z.record(z.string(), z.string()).default({}), optionalDependencies: z.record(z.string(), z.string()).default({}) }).parse(JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')))
const installed = new Set(Object.keys({ ...manifest.dependencies, ...manifest.optionalDependencies }))
const ignored = readFileSync(join(ROOT, '.dockerignore'), 'utf8').split('\n').filter(line => line !== '')

type Dockerfile = { readonly copied: readonly { readonly from: string; readonly to: string }[]; readonly entry: string; readonly user: string; readonly arguments: readonly string[] }

/** What the last stage of a Dockerfile takes from the repository, who it runs as, and what it starts. */
function read(name: string): Dockerfile {
  const last = readFileSync(join(ROOT, 'docker', name), 'utf8').split(/^FROM /m).at(-1) ?? ''
  const lines = last.split('\n')
  const copied = lines.filter(line => line.startsWith('COPY ') && !line.includes('--from=')).flatMap(line => {
    const words = line.split(/\s+/).slice(1)
    const to = words.at(-1) ?? ''
    return words.slice(0, -1).map(from => ({ from, to: words.length > 2 || to.endsWith('/') ? posix.join('/aios', to, posix.basename(from)) : posix.join('/aios', to) }))
  })
  const command = z.array(z.string()).parse(JSON.parse(/^ENTRYPOINT (\[.*\])$/m.exec(last)?.[1] ?? '[]'))
  return { copied, arguments: command, entry: posix.resolve('/aios', command.find(word => word.endsWith('.ts')) ?? ''), user: /^USER (\S+)$/m.exec(last)?.[1] ?? 'root' }
}

/** Files that a file loads, and packages that it needs whenever it is loaded. */
function loads(path: string): { readonly files: readonly string[]; readonly packages: readonly string[] } {
  const text = readFileSync(join(ROOT, path), 'utf8')
  const from = [...text.matchAll(/(?:^|\n)(?:import|export)(?! type)[^'\n]*from '([^']+)'|(?:^|\n)import '([^']+)'/g)].map(found => found[1] ?? found[2] ?? '')
  const later = [...text.matchAll(/\bimport\('([^']+)'\)|new URL\('(\.[^']+\.ts)', import\.meta\.url\)/g)].map(found => found[1] ?? found[2] ?? '')
  const files = [...from, ...later].filter(name => name.startsWith('.')).map(name => posix.join(posix.dirname(path), name))
  const packages = from.filter(name => !name.startsWith('.') && !name.startsWith('node:')).map(name => name.split('/').slice(0, name.startsWith('@') ? 2 : 1).join('/'))
  return { files, packages }
}

describe('docker/', () => {
  for (const name of ['Dockerfile', 'Dockerfile.block']) {
    it(`${name} copies what is there, starts a file that is in it with all that it loads, and not as root`, () => {
      const { copied, entry, user, arguments: command } = read(name)
      for (const { from } of copied) {
        assert.ok(existsSync(join(ROOT, from)), `${from} is copied and not there`)
        assert.ok(!ignored.includes(from.split('/')[0] ?? ''), `${from} is copied and kept out by .dockerignore`)
      }
      const inImage = (path: string): boolean => copied.some(({ from, to }) => to === posix.join('/aios', from) && (path === from || path.startsWith(`${from}/`)))
      assert.equal(command[0], 'node')
      const missing = new Set<string>()
      const seen = new Set([posix.relative('/aios', entry)])
      for (const path of seen) {
        if (!inImage(path) || !existsSync(join(ROOT, path))) {
          missing.add(path)
          continue
        }
        const { files, packages } = loads(path)
        for (const file of files) seen.add(file)
        for (const one of packages) if (!installed.has(one)) missing.add(`${one} (of ${path})`)
      }
      assert.deepEqual([...missing], [])
      assert.ok(seen.size > 20, `${seen.size} files`)
      assert.notEqual(user.split(':')[0], 'root')
    })
  }

  it('the base of blocks that are containers speaks frames and has its block where the instance looks for it', () => {
    const text = readFileSync(join(ROOT, 'docker/Dockerfile.block'), 'utf8')
    const folder = /const FOLDER = '([^']+)'/.exec(readFileSync(join(ROOT, 'node/instance/stdio.ts'), 'utf8'))?.[1]
    assert.ok(text.includes(`AIOS_BLOCK=${folder}`) && text.includes('AIOS_FRAMES=stdio') && text.includes(`mkdir ${folder}`))
  })
})
