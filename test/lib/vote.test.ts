import assert from 'node:assert/strict'
import { vote } from '../../src/lib/vote.ts'

/** Asks in turn; remembers whom. A missing answer is a voter out of reach. */
function voters(answers: Readonly<Record<string, boolean>>): { readonly asked: string[]; readonly ask: (voter: string) => Promise<readonly boolean[]> } {
  const asked: string[] = []
  return {
    asked,
    ask: async voter => {
      asked.push(voter)
      const answer = answers[voter]
      return answer === undefined ? [] : [answer]
    },
  }
}

const grants = (answer: boolean): boolean => answer

describe('a vote of a few peers', () => {
  it('asks the others once the first that answers has granted', async () => {
    const { asked, ask } = voters({ b: true, c: false, d: true })
    assert.deepEqual(await vote(['a', 'b', 'c', 'd'], ask, grants), [true, false, true])
    assert.deepEqual(asked, ['a', 'b', 'c', 'd'])
  })

  it('ends where the first that answers refuses', async () => {
    const { asked, ask } = voters({ b: false, c: true })
    assert.deepEqual(await vote(['a', 'b', 'c'], ask, grants), [false])
    assert.deepEqual(asked, ['a', 'b'])
  })

  it('is empty where nobody can be reached', async () => {
    assert.deepEqual(await vote(['a', 'b'], voters({}).ask, grants), [])
  })

  it('fails as a voter fails', async () => {
    await assert.rejects(vote(['a'], () => Promise.reject(new Error('no')), grants), /no/)
  })
})
