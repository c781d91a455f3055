import fc from 'fast-check'
import { compiledFolder } from '../node/compiled.ts'

/**
 * Properties draw the same values in every run, so that a red run says something about the change and not about luck. `npm run test:draws`
 * draws new ones each time: what it finds becomes an example of its property.
 */
const given = process.env['AIOS_PROPERTY_SEED'] ?? '20261127'
fc.configureGlobal({ seed: given === 'new' ? Date.now() : Number(given) })

// The daemons and commands that tests start need not compile the same again each time.
const compiled = compiledFolder()
if (compiled !== undefined) process.env['NODE_COMPILE_CACHE'] = compiled
