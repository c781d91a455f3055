#!/usr/bin/env node
// Starts the CLI on the Node this project pins, whatever Node the user has: 24 LTS runs the sources as they are.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('./main.ts', import.meta.url))
const [major, minor] = process.versions.node.split('.').map(Number)
const fits = (major === 24 && minor >= 19) || major > 26 || (major === 26 && minor >= 6)

if (fits) {
  await import('./main.ts')
} else {
  const pinned = locate(`node-${process.platform}-${process.arch}`)
  if (pinned === undefined) {
    console.error(`aios needs Node 24.19 or newer (this is ${process.version}) and no pinned runtime is installed for ${process.platform}-${process.arch}.`)
    process.exit(1)
  }
  const child = spawnSync(pinned, [main, ...process.argv.slice(2)], { stdio: 'inherit' })
  process.exit(child.status ?? 1)
}

function locate(name) {
  try {
    const manifest = createRequire(import.meta.url).resolve(`${name}/package.json`)
    const binary = manifest.replace(/package\.json$/, 'bin/node')
    return existsSync(binary) ? binary : undefined
  } catch {
    return undefined
  }
}
