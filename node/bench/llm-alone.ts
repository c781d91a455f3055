import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'

const answer = z.object({ ids: z.array(z.int()), ms: z.array(z.number()) })

/** The same model whole, in one process of its own, to be measured against. */
export class AloneModel implements Disposable {
  readonly #child: ChildProcess
  readonly #lines: Interface

  private constructor(child: ChildProcess, lines: Interface) {
    this.#child = child
    this.#lines = lines
  }

  /** `largePages`: as the instances of a mesh have them. */
  static async open(folder: string, threads: number, largePages = false): Promise<AloneModel> {
    const env = largePages ? { ...process.env, GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1' } : process.env
    const child = spawn(process.execPath, [fileURLToPath(new URL('./llm-whole.ts', import.meta.url)), folder, String(threads)], { stdio: ['pipe', 'pipe', 'inherit'], env })
    const lines = createInterface(child.stdout)
    await once(lines, 'line')
    return new AloneModel(child, lines)
  }

  /** Greedy tokens and the time of each; the first one's is the prompt's. `forced`: what it says at each place of an answer that is given. */
  async greedy(prompt: readonly number[], count: number, forced?: readonly number[]): Promise<z.infer<typeof answer>> {
    const said = once(this.#lines, 'line')
    this.#child.stdin?.write(`${JSON.stringify({ prompt, count, ...(forced === undefined ? {} : { forced }) })}\n`)
    const [line] = await said
    return answer.parse(JSON.parse(String(line)))
  }

  [Symbol.dispose](): void {
    this.#child.kill('SIGKILL')
  }
}
