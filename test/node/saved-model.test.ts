import assert from 'node:assert/strict'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { checkFence, type Isolation } from '../../node/adapters/fence.ts'
import { readComponentDirectory } from '../../node/authoring/component-directory.ts'
import { masked, crc32c } from '../../node/instance/saved-model/checksum.ts'
import { frozenArtifacts, readSavedModelFile } from '../../node/instance/saved-model/open.ts'
import { readTensor } from '../../node/instance/saved-model/weight.ts'
import { answers, never, openBench, packetOf, type Bench, type Parts } from './instance-bundle.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/saved-models/', import.meta.url))
const RUNTIME = { name: 'tfjs', model: 'saved_model.pb', format: 'saved-model' } as const
/** TensorFlow's sums and TensorFlow.js's run in different orders. */
const CLOSE = 1e-5

type Case = { readonly inputs: Readonly<Record<string, Json>>; readonly outputs: Readonly<Record<string, Json>> }
const caseOf = (name: string) => JSON.parse(readFileSync(join(FIXTURES, `${name}.json`), 'utf8')) as Case

function filesOf(name: string): Record<string, Uint8Array> {
  const folder = join(FIXTURES, name)
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter(file => file.isFile()).map(file => join(file.parentPath, file.name))
  return Object.fromEntries(files.map(path => [path.slice(folder.length + 1), new Uint8Array(readFileSync(path))]))
}

function assertClose(actual: Json | undefined, expected: Json, where: string): void {
  if (Array.isArray(expected)) {
    assert.ok(Array.isArray(actual) && actual.length === expected.length, `${where}: ${JSON.stringify(actual)}`)
    for (const [index, one] of (expected as readonly Json[]).entries()) assertClose((actual as readonly Json[])[index], one, `${where}[${index}]`)
  } else if (typeof expected === 'number') {
    assert.ok(typeof actual === 'number' && Math.abs(actual - expected) <= CLOSE, `${where}: ${JSON.stringify(actual)} is not ${expected}`)
  } else {
    assert.equal(actual, expected, where)
  }
}

describe('a SavedModel without tfjs-node', () => {
  let isolation: Isolation = 'L1'
  let bench: Bench
  before(async () => {
    isolation = (await checkFence()).ok ? 'L1' : 'L0'
    bench = await openBench({ isolation })
  })
  after(() => bench[Symbol.asyncDispose]())
  const start = (name: string, more: Partial<Parts> = {}) => bench.backend.start(bench.request({ files: filesOf(name), runtime: RUNTIME, ...more }), never)

  const cases: readonly (readonly [string, string])[] = [
    ['dense', 'of dense layers'],
    ['conv', 'of convolutions, with two outputs'],
    ['ledger', 'of a module with functions, a loop, a branch and variables of several types'],
    ['lstm', 'of a recurrent layer'],
    ['pairs', 'with an operation that only the cpu backend has'],
    ['names', 'of texts and reversed bits'],
    ['first', 'of TensorFlow 1, with a signature of its own name'],
  ]
  for (const [name, what] of cases) {
    it(`${what} answers as TensorFlow does, twice`, async () => {
      await using running = await start(name)
      const { inputs, outputs } = caseOf(name)
      for (let round = 0; round < 2; round++) {
        const [answer] = await answers(running.infer(packetOf(inputs), never)) as readonly Record<string, Json>[]
        assert.deepEqual(Object.keys(answer!).sort(), Object.keys(outputs).sort())
        for (const [key, expected] of Object.entries(outputs)) assertClose(answer![key], expected, key)
      }
    }).timeout(60_000)
  }

  it('is mapped by the names of its signature, and says them', async () => {
    const initData = { inputs: { picture: { tensor: 'image' } }, outputs: { class: { tensor: 'scores', pick: 'argmax' } } }
    await using running = await start('conv', { initData })
    const { inputs, outputs } = caseOf('conv')
    const best = (row: readonly number[]) => row.indexOf(Math.max(...row))
    const [answer] = await answers(running.infer(packetOf({ picture: inputs['image']! }), never))
    assert.deepEqual(answer, { class: (outputs['scores'] as readonly (readonly number[])[]).map(best) })
    const { detail } = await running.health(never)
    assert.deepEqual([(detail as Record<string, Json>)['inputs'], (detail as Record<string, Json>)['outputs']], [{ image: 'float32[?,8,8,3]' }, { scores: 'float32[?,4]', size: 'float32[?,6]' }])
    await assert.rejects(start('conv', { initData: { outputs: { x: { tensor: 'logits' } } } }), (error: MeshError) => error.code === 'SPEC_INVALID' && /has no output "logits"; it has "scores", "size"/.test(error.message))
  }).timeout(60_000)

  it('refuses data of the wrong shape as BAD_INPUT', async () => {
    await using running = await start('dense')
    await assert.rejects(answers(running.infer(packetOf({ features: [[1, 2]] }), never)), (error: MeshError) => error.code === 'BAD_INPUT' && /float32\[\?,5\]/.test(error.message))
  }).timeout(60_000)

  it('that asks for too much is refused at the start, by the name of the operation', async () => {
    await assert.rejects(start('words'), (error: MeshError) => error.code === 'RUNTIME_UNAVAILABLE' && /no operation LookupTableFindV2/.test(error.message))
    await assert.rejects(start('counter'), (error: MeshError) => error.code === 'RUNTIME_UNAVAILABLE' && /writes the variable/.test(error.message))
  }).timeout(60_000)

  it('that is incomplete is refused at the start', async () => {
    await assert.rejects(start('dense', { files: { 'saved_model.pb': filesOf('dense')['saved_model.pb']! } }), (error: MeshError) => error.code === 'COMPONENT_ERROR' && /variables\.index is missing: publish the whole folder/.test(error.message))
  }).timeout(60_000)
})

describe('a component directory with a SavedModel', () => {
  it('is published with its variables and runs as tfjs', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'aios-saved-'))
    try {
      cpSync(join(FIXTURES, 'dense'), join(folder, 'model'), { recursive: true })
      mkdirSync(join(folder, 'model', 'assets'), { recursive: true })
      const values = { componentId: { name: 'dense', version: '1.0.0', releaseTag: 'stable' }, componentType: 'model' }
      for (const runtime of [undefined, { name: 'tfjs', model: 'model' }, { name: 'tfjs', model: 'model/saved_model.pb' }]) {
        writeFileSync(join(folder, 'component.json'), JSON.stringify({ header: { templateUri: 'Parser/V1' }, body: { spec: { values: { ...values, ...(runtime === undefined ? {} : { runtime }) } } } }))
        const { draft, parts } = await readComponentDirectory(folder, '12D3KooWTestTestTestTest')
        assert.deepEqual(draft.runtime, { name: 'tfjs', model: 'model/saved_model.pb', format: 'saved-model' })
        assert.deepEqual(parts.map(({ path }) => path), ['model/saved_model.pb', 'model/variables/variables.data-00000-of-00001', 'model/variables/variables.index'])
      }
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
})

/** Enough protobuf to write what TensorFlow never would. */
const number = (value: number): number[] => (value < 128 ? [value] : [(value % 128) + 128, ...number(Math.floor(value / 128))])
const bytes = (field: number, ...inside: readonly (readonly number[])[]): number[] => {
  const all = inside.flat()
  return [...number(field * 8 + 2), ...number(all.length), ...all]
}
const text = (field: number, value: string): number[] => bytes(field, [...Buffer.from(value)])
const integer = (field: number, value: number): number[] => [...number(field * 8), ...number(value)]
const call = (name: string, called: string, input: string): number[] =>
  bytes(3, text(1, name), text(2, 'PartitionedCall'), text(3, input), bytes(5, text(1, 'f'), bytes(2, bytes(10, text(1, called)))))
const defined = (name: string, returned: string, ...nodes: readonly (readonly number[])[]): number[] =>
  bytes(1, bytes(1, text(1, name), bytes(2, text(1, 'x'), integer(3, 1)), bytes(3, text(1, 'y'), integer(3, 1))), ...nodes, bytes(4, text(1, 'y'), text(2, returned)))
const added = (name: string, a: string, b: string): number[] => bytes(3, text(1, name), text(2, 'AddV2'), text(3, a), text(3, b))
/** A model that feeds its input to the function `first`. */
const calling = (first: string, ...library: readonly (readonly number[])[]): Uint8Array => {
  const placeholder = bytes(1, text(1, 'x'), text(2, 'Placeholder'))
  const node = [...call('y', first, 'x')]
  // A call of the main graph is field 1 there, field 3 in a function.
  node[0] = 10
  const signature = bytes(5, text(1, 'serving_default'), bytes(2, bytes(1, text(1, 'x'), bytes(2, text(1, 'x:0'), integer(2, 1))), bytes(2, text(1, 'y'), bytes(2, text(1, 'y:0'), integer(2, 1)))))
  return Uint8Array.from(bytes(2, bytes(1, text(4, 'serve')), bytes(2, placeholder, node, bytes(2, ...library)), signature))
}

describe('a hostile SavedModel', () => {
  let folder: string
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'aios-hostile-'))
  })
  after(() => rmSync(folder, { recursive: true, force: true }))
  const frozen = async (pb: Uint8Array) => {
    writeFileSync(join(folder, 'saved_model.pb'), pb)
    return frozenArtifacts(await readSavedModelFile(folder))
  }
  const broken = (message: RegExp) => (error: unknown) => error instanceof MeshError && error.code === 'COMPONENT_ERROR' && message.test(error.message)

  it('is built by this test as TensorFlow would', async () => {
    const { frozen: result } = await frozen(calling('f', defined('f', 'n:z:0', added('n', 'x', 'x'))))
    assert.deepEqual(result.nodes.map(({ op, input }) => ({ op, input })), [{ op: 'Placeholder', input: [] }, { op: 'Identity', input: [result.nodes[2]!.name] }, { op: 'AddV2', input: ['input/0', 'input/0'] }])
  })

  it('whose functions call themselves is refused', async () => {
    await assert.rejects(frozen(calling('f', defined('f', 'c:output:0', call('c', 'f', 'x')))), broken(/call each other more than 64 deep/))
  })

  it('whose functions double at each level is refused before it fills the memory', async () => {
    const levels = Array.from({ length: 40 }, (_, level) => defined(`f${level}`, 's:z:0', call('a', `f${level + 1}`, 'x'), call('b', `f${level + 1}`, 'a:output:0'), added('s', 'a:output:0', 'b:output:0')))
    await assert.rejects(frozen(calling('f0', ...levels, defined('f40', 'x'))), broken(/in more than 20000 places|too long to follow/))
  }).timeout(20_000)

  it('whose tensors run in a circle is refused', async () => {
    const passing = (name: string, input: string) => bytes(3, text(1, name), text(2, 'Identity'), text(3, input))
    await assert.rejects(frozen(calling('f', defined('f', 'a:output:0', passing('a', 'b:output:0'), passing('b', 'a:output:0')))), broken(/circle/))
  }).timeout(20_000)

  it('that lacks what it names is refused', async () => {
    await assert.rejects(frozen(calling('f')), broken(/calls the function "f", which it does not hold/))
    await assert.rejects(frozen(calling('f', defined('f', 'gone:0'))), broken(/takes "gone:0"/))
    await assert.rejects(frozen(calling('f', defined('f', 'n:z:0', added('n', 'x', '__proto__')))), broken(/takes "__proto__"/))
  })

  it('whose constant claims more than the file holds is refused', () => {
    const dimension = bytes(2, integer(1, 1_000_000_000))
    const tensor = (...fields: readonly (readonly number[])[]) => Uint8Array.from([...integer(1, 1), ...bytes(2, dimension), ...fields.flat()])
    assert.throws(() => readTensor(tensor([...number(5 * 8 + 5), 0, 0, 128, 63])), broken(/that the file does not hold/))
    assert.throws(() => readTensor(tensor(bytes(4, [1, 2, 3, 4]))), broken(/of 1000000000 float32 has 4 bytes/))
  })

  it('that is incomplete or damaged is refused with what is wrong', async () => {
    const whole = filesOf('dense')
    const data = 'variables/variables.data-00000-of-00001'
    const index = 'variables/variables.index'
    const refusals: readonly (readonly [string, (bytes: Uint8Array) => Uint8Array | undefined, RegExp])[] = [
      [data, () => undefined, /variables\.data-00000-of-00001 is missing/],
      [data, bytes => bytes.subarray(0, 60), /ends before the variable/],
      [data, bytes => bytes.fill(1, 0, 600), /does not match its checksum/],
      [index, () => undefined, /variables\.index is missing/],
      [index, bytes => bytes.fill(1, 10, 20), /does not match its checksum/],
      [index, bytes => bytes.subarray(0, 100), /is no table of variables/],
      ['saved_model.pb', () => undefined, /holds no saved_model\.pb/],
      ['saved_model.pb', bytes => bytes.subarray(0, 9_999), /ends too early/],
      ['saved_model.pb', () => Uint8Array.from(Buffer.from('not a model')), /cannot be read/],
      ['saved_model.pb', () => new Uint8Array(0), /holds no graph/],
    ]
    for (const [path, change, message] of refusals) {
      const own = mkdtempSync(join(folder, 'damaged-'))
      cpSync(join(FIXTURES, 'dense'), own, { recursive: true })
      const changed = change(whole[path]!.slice())
      if (changed === undefined) rmSync(join(own, path))
      else writeFileSync(join(own, path), changed)
      await assert.rejects(readSavedModelFile(own).then(frozenArtifacts), broken(message), String(message))
    }
  })

  it('is refused with a clear error wherever its bytes were changed, or it goes on', async () => {
    const whole = filesOf('ledger')
    mkdirSync(join(folder, 'variables'), { recursive: true })
    await fc.assert(fc.asyncProperty(fc.constantFrom(...Object.keys(whole)), fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }), fc.option(fc.nat()), async (path, changes, cut) => {
      for (const [name, content] of Object.entries(whole)) writeFileSync(join(folder, name), content)
      const mutant = whole[path]!.slice()
      for (const [at, value] of changes) mutant[at % mutant.length] = value
      writeFileSync(join(folder, path), cut === null ? mutant : mutant.subarray(0, cut % mutant.length))
      try {
        await frozenArtifacts(await readSavedModelFile(folder))
      } catch (error) {
        assert.ok(error instanceof MeshError && ['COMPONENT_ERROR', 'RUNTIME_UNAVAILABLE', 'SPEC_INVALID'].includes(error.code), String(error))
      }
    }), { numRuns: 100 })
  }).timeout(30_000)
})

describe('the checksum of tables', () => {
  it('is that of RFC 3720, and masked as LevelDB does', () => {
    // RFC 3720, appendix B.4: 32 bytes of zeros, 32 of ones, 0 to 31.
    assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa)
    assert.equal(crc32c(new Uint8Array(32).fill(255)), 0x62a8ab43)
    assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, index) => index)), 0x46dd794e)
    assert.equal(masked(0), 0xa282ead8)
  })
})
