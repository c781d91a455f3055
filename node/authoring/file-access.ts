import { open, type FileHandle } from 'node:fs/promises'
import { MeshError } from '../../protocols/errors.ts'
import type { RandomAccess } from '../../src/llm/onnx/random-access.ts'

/** Files of a model, opened as they are asked for, read by ranges, never held. Closed all together. */
export class FileAccess implements AsyncDisposable {
  readonly #open = new Map<string, Promise<{ readonly handle: FileHandle; readonly access: RandomAccess }>>()

  /** Throws NOT_FOUND. */
  async file(path: string): Promise<RandomAccess> {
    const known = this.#open.get(path) ?? openFile(path)
    this.#open.set(path, known)
    return (await known).access
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const opened of this.#open.values()) await opened.then(({ handle }) => handle.close(), () => undefined)
    this.#open.clear()
  }
}

async function openFile(path: string): Promise<{ readonly handle: FileHandle; readonly access: RandomAccess }> {
  let handle: FileHandle
  try {
    handle = await open(path, 'r')
  } catch (cause) {
    throw new MeshError('NOT_FOUND', `${path} cannot be opened: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
  const { size } = await handle.stat()
  return {
    handle,
    access: {
      size,
      read: async (offset, length) => {
        const buffer = new Uint8Array(length)
        let filled = 0
        while (filled < length) {
          const { bytesRead } = await handle.read(buffer, filled, length - filled, offset + filled)
          if (bytesRead === 0) break
          filled += bytesRead
        }
        return buffer.subarray(0, filled)
      },
    },
  }
}
