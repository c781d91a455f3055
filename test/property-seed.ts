import fc from 'fast-check'

/**
 * Properties draw the same values in every run, so that a red run says something about the change and not about luck. `npm run test:draws`
 * draws new ones each time: what it finds becomes an example of its property.
 */
const given = process.env['AIOS_PROPERTY_SEED'] ?? '20261127'
fc.configureGlobal({ seed: given === 'new' ? Date.now() : Number(given) })
