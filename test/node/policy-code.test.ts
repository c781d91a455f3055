import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { deflateRawSync } from 'node:zlib'
import { readPolicyCode, type CodePorts } from '../../node/authoring/policy-code.ts'
import { QuickjsSandbox } from '../../node/adapters/quickjs.ts'
import type { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { ECHO, source, wasm } from './wasm-module.ts'

const CLASS = 'class AIOSv1PolicyRule { constructor(id, settings, parameters) { this.by = parameters.by } eval(parameters, input) { return input.n * this.by } }'
const TYPED = 'export default class AIOSv1PolicyRule {\n  readonly by: number = 3\n  eval(parameters: { readonly by?: number }, input: { readonly n: number }): number { return input.n * (parameters.by ?? this.by) }\n}'
const ASSET_CID = 'bafkreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'

/** A zip archive as `zip` writes it, each file deflated. */
function zip(files: Readonly<Record<string, string>>): Buffer {
  const parts: Buffer[] = []
  const directory: Buffer[] = []
  let at = 0
  for (const [path, text] of Object.entries(files)) {
    const [name, whole] = [Buffer.from(path), Buffer.from(text)]
    const packed = deflateRawSync(whole)
    const local = Buffer.alloc(30)
    local.writeUInt32LE(0x04034b50, 0)
    local.writeUInt16LE(8, 8)
    local.writeUInt32LE(packed.length, 18)
    local.writeUInt32LE(whole.length, 22)
    local.writeUInt16LE(name.length, 26)
    const entry = Buffer.alloc(46)
    entry.writeUInt32LE(0x02014b50, 0)
    entry.writeUInt16LE(8, 10)
    entry.writeUInt32LE(packed.length, 20)
    entry.writeUInt32LE(whole.length, 24)
    entry.writeUInt16LE(name.length, 28)
    entry.writeUInt32LE(at, 42)
    parts.push(local, name, packed)
    directory.push(entry, name)
    at += 30 + name.length + packed.length
  }
  const listed = Buffer.concat(directory)
  const end = Buffer.alloc(22)
  end.writeUInt32LE(0x06054b50, 0)
  end.writeUInt16LE(Object.keys(files).length, 10)
  end.writeUInt32LE(listed.length, 12)
  end.writeUInt32LE(at, 16)
  return Buffer.concat([...parts, listed, end])
}

describe('the code of a policy document', function () {
  this.timeout(60_000)
  const sandbox = new QuickjsSandbox()
  const stored = new Map<string, Uint8Array>()
  const ports: CodePorts = {
    content: {
      async *cat(cid) {
        const bytes = stored.get(cid)
        assert(bytes, cid)
        yield bytes
      },
    },
    catalogue: { asset: async assetURI => ({ assetURI, name: 'x', version: '1', releaseTag: 's', content: ASSET_CID, size: 1, mediaType: 'application/zip', metadata: {}, tags: [], author: '12D3KooWauthor' }) },
  }
  after(() => sandbox[Symbol.asyncDispose]())

  const runs = async (code: Json): Promise<Json> => {
    const read = await readPolicyCode(code, 'js_module_v1', ports)
    assert(typeof read === 'string')
    const opened = await sandbox.open(read, { ruleId: 'r:1-s', settings: {}, parameters: { by: 2 } })
    assert(opened.ok, opened.ok ? '' : opened.message)
    const answer = await opened.rule.eval({ by: 2 }, { n: 21 }, null)
    opened.rule.close()
    return answer.ok ? answer.value : answer.message
  }
  const refusal = async (code: Json | undefined): Promise<string> => {
    try {
      await readPolicyCode(code, 'js_module_v1', ports)
    } catch (error) {
      return (error as MeshError).message
    }
    return assert.fail('it was taken')
  }

  it('is the source itself, in JavaScript or TypeScript, exported or not', async () => {
    for (const code of [CLASS, `module.exports = { AIOSv1PolicyRule: ${CLASS} }`, TYPED, 'export default (parameters, input) => input.n * parameters.by']) assert.equal(await runs(code), 42)
    assert.match(await refusal('let x = ;'), /code/)
    assert.match(await refusal('const nothing = 1'), /exports no rule/)
  })

  it('is an asset, content by its CID, or a web address: a source, a zip of AIOS\'s code folder, or a WebAssembly module', async () => {
    stored.set(ASSET_CID, zip({ 'code/function.js': `import { by } from './by.js'\nexport default (parameters, input) => input.n * by`, 'code/by.js': 'export const by = 2', 'code/requirements.txt': '' }))
    assert.equal(await runs('rule-code:1.0-beta'), 42)
    assert.equal(await runs(`ipfs://${ASSET_CID}`), 42)
    const module = wasm({ eval: ECHO })
    stored.set(ASSET_CID, module)
    assert.deepEqual(await readPolicyCode(ASSET_CID, 'wasm_v1', ports), Buffer.from(module))
    assert.deepEqual(await readPolicyCode(source(module), 'js_module_v1', ports), Buffer.from(module))
    const server = createServer((request, response) => {
      if (request.url === '/rule.js') response.end(CLASS)
      else response.writeHead(404).end()
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const address = server.address()
    const base = `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`
    try {
      assert.equal(await runs(`${base}/rule.js`), 42)
      assert.match(await refusal(`${base}/gone.zip`), /answers 404: give the source itself/)
    } finally {
      server.close()
    }
  })

  it('is refused with what to write instead: nothing, Python, in an archive too, other archives, paths that lead out, bombs', async () => {
    assert.match(await refusal(undefined), /code: missing; give the source/)
    assert.match(await refusal('import os\nclass AIOSv1PolicyRule:\n    def eval(self, parameters, input_data, context):\n        return {}'), /is Python.*class AIOSv1PolicyRule/)
    const archived = async (bytes: Uint8Array): Promise<string> => {
      stored.set(ASSET_CID, bytes)
      return refusal(ASSET_CID)
    }
    assert.match(await archived(zip({ 'code/function.py': 'class AIOSv1PolicyRule: pass' })), /code\/function\.py is Python/)
    assert.match(await archived(zip({ 'readme.md': 'hello' })), /holds no code\/function/)
    assert.match(await archived(zip({ '../evil.js': 'x', 'code/function.js': CLASS })), /"\.\.\/evil\.js" is not a path inside it/)
    assert.match(await archived(zip({ 'code/function.js': 'x'.repeat(9_000_000) })), /unpacks to more than/)
    assert.match(await archived(Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 1, 2])), /tar\.xz.*as a zip/)
    assert.match(await archived(zip({ 'code/function.js': CLASS }).subarray(0, 90)), /cannot be unpacked/)
  })
})
