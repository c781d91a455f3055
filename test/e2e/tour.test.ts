import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const TOUR_MS = 150_000
const PARTS = ['package.json', 'tsconfig.json', 'node', 'src', 'sdk', 'protocols']

/** The fenced blocks of README that are marked as the tour, as one script. */
async function tour(): Promise<string> {
  const readme = await readFile(join(ROOT, 'README.md'), 'utf8')
  return [...readme.matchAll(/^```sh tour\n(.*?)^```/gms)].map(([, block]) => block).join('\n')
}

describe('README', () => {
  it('the five-minute tour works, command by command', async function () {
    this.timeout(TOUR_MS)
    const script = await tour()
    assert.match(script, /vdag submit/)
    // A copy, so that the tour's `.aios` folder does not land in the repository.
    const home = await mkdtemp(join(tmpdir(), 'aios-tour-'))
    try {
      for (const part of PARTS) await cp(join(ROOT, part), join(home, part), { recursive: true })
      await symlink(join(ROOT, 'node_modules'), join(home, 'node_modules'))
      const { code, output } = await bash(`set -euo pipefail\n${script}`, home)
      assert.equal(code, 0, output)
      for (const expected of [/would run on/, /completed/, /"triage"|"decision"|"prediction"/]) assert.match(output, expected)
    } finally {
      await bash('for d in .aios/*/; do kill -9 $(node -p "JSON.parse(require(\'fs\').readFileSync(\'$d/daemon.json\')).pid") 2>/dev/null || true; done', home)
      await rm(home, { recursive: true, force: true })
    }
  })
})

/** What is compiled of the copy goes with the copy. */
function bash(script: string, cwd: string): Promise<{ readonly code: number | null; readonly output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn('bash', ['-c', script], { cwd, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, NODE_COMPILE_CACHE: join(cwd, 'compiled') } })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk.toString()))
    child.once('error', reject)
    child.once('exit', code => resolve({ code, output }))
  })
}
