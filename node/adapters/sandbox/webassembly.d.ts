/** The part of the WebAssembly API that the sandbox uses: the compiler's ES library has none, and its DOM library is not ours. */
declare namespace WebAssembly {
  class Module {
    private readonly compiled: unknown
  }
  class RuntimeError extends Error {}
  interface Memory {
    readonly buffer: ArrayBuffer
  }
  function compile(bytes: Uint8Array): Promise<Module>
}
