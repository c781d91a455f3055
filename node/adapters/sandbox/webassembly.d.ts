/** The part of the WebAssembly API that the sandbox uses: the compiler's ES library has none, and its DOM library is not ours. */
declare namespace WebAssembly {
  class Module {
    constructor(bytes: Uint8Array)
    private readonly compiled: unknown
    static imports(module: Module): { readonly module: string; readonly name: string; readonly kind: string }[]
  }
  class Instance {
    constructor(module: Module, imports: Readonly<Record<string, Readonly<Record<string, () => never>>>>)
    readonly exports: Readonly<Record<string, unknown>>
  }
  class RuntimeError extends Error {}
  class Memory {
    private constructor()
    readonly buffer: ArrayBuffer
  }
  function compile(bytes: Uint8Array): Promise<Module>
}
