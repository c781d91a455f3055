/** Something inside a simulation read real time, real randomness or a real timer: the run could not be repeated. */
export class DeterminismViolation extends Error {
  constructor(what: string) {
    super(`${what} was used inside a simulation; take it from the ports`)
    this.name = 'DeterminismViolation'
  }
}

type Trap = { readonly target: object; readonly key: string; readonly replacement: () => unknown; readonly original: PropertyDescriptor }

let depth = 0
let set: readonly Trap[] = []
let sprung: DeterminismViolation | undefined

/** Forbids ambient effects until the returned function is called. Nests. */
export function setTraps(): () => void {
  if (depth === 0) {
    set = describeTraps()
    for (const { target, key, replacement } of set) Object.defineProperty(target, key, { configurable: true, writable: true, value: replacement() })
  }
  depth += 1
  let open = true
  return () => {
    if (!open) return
    open = false
    depth -= 1
    if (depth > 0) return
    for (const { target, key, original } of set) Object.defineProperty(target, key, original)
    set = []
  }
}

/** The violation that somebody may have caught and swallowed since the last question. */
export function sprungTrap(): DeterminismViolation | undefined {
  const found = sprung
  sprung = undefined
  return found
}

function spring(what: string): never {
  sprung = new DeterminismViolation(what)
  throw sprung
}

function describeTraps(): readonly Trap[] {
  const forbid = (target: object, key: string, name: string): Trap => trap(target, key, () => () => spring(name))
  const realDate = Date
  return [
    // Date stays usable on a given instant (`new Date(ms)`): only reading the present is forbidden.
    trap(globalThis, 'Date', () => new Proxy(realDate, {
      construct: (target, given, newTarget): object => (given.length === 0 ? spring('new Date()') : Reflect.construct(target, given, newTarget)),
      apply: () => spring('Date()'),
      get: (target, key, receiver): unknown => (key === 'now' ? () => spring('Date.now') : Reflect.get(target, key, receiver)),
    })),
    forbid(Math, 'random', 'Math.random'),
    forbid(globalThis, 'setTimeout', 'setTimeout'),
    forbid(globalThis, 'setInterval', 'setInterval'),
    forbid(globalThis, 'setImmediate', 'setImmediate'),
    forbid(globalThis, 'fetch', 'fetch'),
    forbid(performance, 'now', 'performance.now'),
    forbid(AbortSignal, 'timeout', 'AbortSignal.timeout'),
    forbid(crypto, 'getRandomValues', 'crypto.getRandomValues'),
    forbid(crypto, 'randomUUID', 'crypto.randomUUID'),
  ]
}

function trap(target: object, key: string, replacement: () => unknown): Trap {
  const own = Object.getOwnPropertyDescriptor(target, key)
  if (own !== undefined) return { target, key, replacement, original: own }
  // Inherited (performance.now, crypto's methods): shadow the prototype's property there, and restore it there.
  const holder: unknown = Object.getPrototypeOf(target)
  const inherited = holder !== null && typeof holder === 'object' ? Object.getOwnPropertyDescriptor(holder, key) : undefined
  if (inherited === undefined || holder === null || typeof holder !== 'object') throw new Error(`cannot trap ${key}`)
  return { target: holder, key, replacement, original: inherited }
}
