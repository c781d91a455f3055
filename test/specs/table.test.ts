import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../source.ts'

/** Cells look like `test/vdag/graph.test.ts` "with a cycle is refused"; a cell may hold several. */
const NAMED = /`(test\/[^`]+)` "([^"]+)"/g

describe('src/specs/README.md, the tables of systems, hooks and defects', () => {
  const rows = readFileSync(join(ROOT, 'src/specs/README.md'), 'utf8').split('## AIOS, row by row')[1]!.split('\n')
    .filter(line => line.startsWith('| ')).map(line => line.slice(2).split(' | ')).filter(([name]) => !['system', 'hook', 'defect'].includes(name!))

  it('name a test for each row, and each of these tests is there', () => {
    const missing = rows.flatMap(([name, cell = '']) => {
      const named = [...cell.matchAll(NAMED)]
      return named.length === 0 ? [`${name}: no test`] : named.flatMap(([, file, title]) => {
        const path = join(ROOT, file!)
        const source = existsSync(path) ? readFileSync(path, 'utf8').replaceAll("\\'", "'") : undefined
        return source === undefined ? [`${name}: ${file} does not exist`] : source.includes(title!) ? [] : [`${name}: ${file} has no test "${title}"`]
      })
    })
    assert.deepEqual(missing, [])
  })
})
