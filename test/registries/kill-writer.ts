import { createPrivateKey } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { openView } from '../../node/adapters/registry/sqlite-view.ts'
import { granted } from '../../protocols/errors.ts'
import { Registries } from '../../src/registries/store.ts'
import { makeIdentity } from './ed25519.ts'
import { realClock, recording } from './loopback.ts'

// Puts until it is killed, telling its parent what was acknowledged and only then.
const [dir = '', keyFile = ''] = process.argv.slice(2)
const identity = makeIdentity(createPrivateKey(readFileSync(keyFile)))
const view = openView(dir, { outbox: true })
const registry = new Registries(view, { identity, mayWrite: () => granted(true) }, { clock: realClock(), telemetry: recording() }).open('components', z.object({ n: z.number() }))
for (let next = view.count(); ; next += 5) {
  await Promise.all(Array.from({ length: 5 }, (_, i) => registry.put(`k${next + i}`, { n: next + i })))
  process.stdout.write(`${next + 5}\n`)
}
