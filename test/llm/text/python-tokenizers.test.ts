import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { ModelText } from '../../../src/llm/text/model-text.ts'
import { isMeshCode } from '../mesh-code.ts'

type Small = { readonly texts: readonly string[]; readonly models: readonly object[]; readonly cases: Readonly<Record<string, { readonly tokenizer: { readonly model: number }; readonly ids: readonly (readonly number[])[] }>> }
const { texts, models, cases }: Small = JSON.parse(readFileSync(new URL('../../fixtures/tokenizers/small.json', import.meta.url), 'utf8'))

/** What Hugging Face's library in Python makes of the same files and texts: fixtures/tokenizers/make.py. */
describe('a tokenizer.json gives the tokens that it gives in Python', () => {
  for (const [name, { tokenizer, ids }] of Object.entries(cases)) {
    it(`with ${name}`, () => {
      const text = new ModelText({ 'tokenizer.json': { ...tokenizer, model: models[tokenizer.model] } })
      assert.deepEqual(texts.map(one => text.encode(one, true)), ids)
    })
  }

  it('or is refused, where nothing here knows what it means', () => {
    const [first] = Object.values(cases)
    const file = { ...first!.tokenizer, model: models[0] }
    for (const wrong of [{ ...file, model: { ...models[0], type: 'Unheard' } }, { ...file, pre_tokenizer: { type: 'UnicodeScripts' } }, { ...file, normalizer: { type: 'ByteLevel' } }]) {
      assert.throws(() => new ModelText({ 'tokenizer.json': wrong }), isMeshCode('SPEC_INVALID'))
    }
  })
})
