/** Programs that try to stop, starve, deceive or leave the sandbox. `body` runs inside eval(parameters, input, context). */
export type Attack = { readonly name: string; readonly body: string }

const loops: readonly Attack[] = [
  { name: 'a plain endless loop', body: 'for (;;) {}' },
  { name: 'a loop that calls', body: 'let i = 0; for (;;) Math.sqrt(i++)' },
  { name: 'a loop inside try and finally', body: 'for (;;) { try { throw 1 } catch {} finally { continue } }' },
  { name: 'a loop that catches its own interruption', body: 'const again = () => { try { for (;;) {} } catch { again() } }; again()' },
  { name: 'an endless await', body: 'return (async () => { for (;;) await 0 })()' },
  { name: 'an endless chain of then', body: 'const next = () => Promise.resolve().then(next); return next()' },
  { name: 'a microtask flood', body: 'const flood = () => { queueMicrotask(flood); queueMicrotask(() => 1) }; flood(); return 1' },
  { name: 'a flood of promises', body: 'for (;;) Promise.resolve().then(() => {})' },
  { name: 'a promise that never settles', body: 'return new Promise(() => {})' },
  { name: 'a promise that resolves to itself', body: 'let settle; const p = new Promise(r => { settle = r }); settle(p); return p' },
  { name: 'a thenable that loops', body: 'return { then() { for (;;) {} } }' },
  { name: 'a thenable whose then is a looping getter', body: 'return { get then() { for (;;) {} } }' },
  { name: 'a thenable that resolves to thenables for ever', body: 'const t = { then(r) { r(t) } }; return t' },
  { name: 'an endless generator, spread', body: 'function* g() { for (;;) yield 1 } return [...g()]' },
  { name: 'an endless async generator', body: 'return (async () => { async function* g() { for (;;) yield 1 } for await (const x of g()) {} })()' },
  { name: 'an endless iterator given to Array.from', body: 'return Array.from({ [Symbol.iterator]: () => ({ next: () => ({ done: false, value: 0 }) }) })' },
  { name: 'a comparison that never agrees', body: 'const a = Array.from({ length: 50000 }, (_, i) => i); for (;;) a.sort(() => Math.random() - 0.5)' },
  { name: 'a catastrophic regular expression', body: 'for (;;) /^(a+)+$/.test("a".repeat(32) + "b")' },
  { name: 'a regular expression with many back references', body: 'for (;;) /(x+x+)+y(\\1)+/.test("x".repeat(40))' },
  { name: 'indexOf over a huge array-like', body: 'return Array.prototype.indexOf.call({ length: 2 ** 53 - 1 }, 1)' },
  { name: 'lastIndexOf over a huge array-like', body: 'return Array.prototype.lastIndexOf.call({ length: 2 ** 53 - 1 }, 1)' },
  { name: 'join over a huge array-like', body: 'return Array.prototype.join.call({ length: 2 ** 31 }, "")' },
  { name: 'reverse of a huge array-like', body: 'Array.prototype.reverse.call({ length: 2 ** 53 - 2 })' },
  { name: 'fill of a huge array-like', body: 'Array.prototype.fill.call({ length: 2 ** 53 - 1 }, 1)' },
  { name: 'copyWithin over a huge array-like', body: 'Array.prototype.copyWithin.call({ length: 2 ** 53 - 1 }, 0, 1)' },
  { name: 'includes over a huge array-like', body: 'return Array.prototype.includes.call({ length: 2 ** 53 - 1 }, 1)' },
  { name: 'substring search that almost matches', body: 'const hay = "a".repeat(1e6), needle = "a".repeat(5e5) + "b"; for (;;) hay.indexOf(needle)' },
  { name: 'replaceAll in a loop', body: 'const s = "ab".repeat(2e5); for (;;) s.replaceAll("b", "c")' },
  { name: 'split and join in a loop', body: 'const s = "ab,".repeat(1e5); for (;;) s.split(",").join(";")' },
  { name: 'JSON of a large value in a loop', body: 'const a = Array.from({ length: 20000 }, (_, i) => ({ i })); for (;;) JSON.stringify(a)' },
  { name: 'a BigInt power', body: 'let b = 3n; for (;;) b = b ** 7n % (2n ** 4096n + 1n)' },
  { name: 'a BigInt turned into text in a loop', body: 'const b = 7n ** 60000n; for (;;) b.toString()' },
]

const memory: readonly Attack[] = [
  { name: 'an array that only grows', body: 'const a = []; for (;;) a.push(new Array(1000).fill(7))' },
  { name: 'a string that doubles', body: 'let s = "xy"; for (;;) s += s' },
  { name: 'a string built by repeat', body: 'const all = []; for (;;) all.push("z".repeat(1e6) + all.length)' },
  { name: 'padStart to the limit', body: 'const all = []; for (;;) all.push("".padStart(5e6, all.length + "x"))' },
  { name: 'a BigInt that squares itself', body: 'let b = 2n; for (;;) b *= b' },
  { name: 'a huge typed array', body: 'return new Uint8Array(2 ** 31 - 1).length' },
  { name: 'many array buffers', body: 'const all = []; for (;;) all.push(new ArrayBuffer(1e5))' },
  { name: 'a map that only grows', body: 'const m = new Map(); for (let i = 0; ; i++) m.set(i, { i })' },
  { name: 'an object with endless keys', body: 'const o = {}; for (let i = 0; ; i++) o["k" + i] = i' },
  { name: 'closures that hold closures', body: 'let f = () => 0; for (;;) { const g = f; f = () => g }' },
  { name: 'a sparse array filled', body: 'return new Array(2 ** 32 - 1).fill(1)' },
  { name: 'a concat of concats', body: 'let a = [1]; for (;;) a = a.concat(a)' },
  { name: 'endless symbols', body: 'const all = []; for (let i = 0; ; i++) all.push(Symbol("s" + i))' },
  { name: 'a regular expression of many groups', body: 'return new RegExp("(a".repeat(200000) + ")".repeat(200000))' },
  { name: 'an answer that is too large', body: 'return "x".repeat(3e6)' },
]

const recursion: readonly Attack[] = [
  { name: 'plain recursion', body: 'const f = () => f() + 1; return f()' },
  { name: 'recursion through toString', body: 'const o = { toString() { return "" + o } }; return "" + o' },
  { name: 'recursion through a getter', body: 'const o = { get a() { return o.a } }; return o.a' },
  { name: 'recursion through a proxy', body: 'const p = new Proxy({}, { get: (t, k, r) => r[k] }); return p.x' },
  { name: 'recursion through JSON.parse', body: 'return JSON.parse("[".repeat(1e5) + "]".repeat(1e5))' },
  { name: 'recursion through JSON.stringify', body: 'let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a' },
  { name: 'recursion through eval', body: 'const deep = "(".repeat(1e5) + "1" + ")".repeat(1e5); return eval(deep)' },
  { name: 'recursion through a bound function', body: 'let f = () => 1; for (let i = 0; i < 1e5; i++) f = f.bind(null); return f()' },
  { name: 'recursion through a regular expression', body: 'return /(?:(?:(?:a*)*)*)*b/.test("a".repeat(5000)) || JSON.parse("[".repeat(1e5))' },
]

const answers: readonly Attack[] = [
  { name: 'a cyclic answer', body: 'const o = {}; o.o = o; return o' },
  { name: 'a BigInt answer', body: 'return 1n' },
  { name: 'a function answer', body: 'return () => 1' },
  { name: 'a symbol answer', body: 'return Symbol("x")' },
  { name: 'an answer whose toJSON loops', body: 'return { toJSON() { for (;;) {} } }' },
  { name: 'an answer with a looping getter', body: 'return { get a() { for (;;) {} } }' },
  { name: 'an answer that is a looping proxy', body: 'return new Proxy({}, { ownKeys() { for (;;) {} } })' },
  { name: 'an answer whose toJSON throws a proxy', body: 'return { toJSON() { throw new Proxy({}, { get() { throw 1 } }) } }' },
]

const errors: readonly Attack[] = [
  { name: 'throwing null', body: 'throw null' },
  { name: 'throwing a symbol', body: 'throw Symbol("x")' },
  { name: 'throwing a huge message', body: 'throw new Error("e".repeat(2e6))' },
  { name: 'throwing an object whose message loops', body: 'throw { get message() { for (;;) {} } }' },
  { name: 'throwing an object whose toString loops', body: 'throw { toString() { for (;;) {} }, message: { toString() { for (;;) {} } } }' },
  { name: 'throwing a proxy that throws', body: 'throw new Proxy({}, { get() { throw new Proxy({}, { get() { throw 2 } }) }, has() { throw 3 } })' },
  { name: 'throwing an error without a prototype', body: 'const e = new Error("x"); Object.setPrototypeOf(e, null); throw e' },
  { name: 'an error whose stack is a trap', body: 'const e = new Error("x"); Object.defineProperty(e, "stack", { get() { for (;;) {} } }); throw e' },
  { name: 'Error.prepareStackTrace that loops', body: 'Error.prepareStackTrace = () => { for (;;) {} }; throw new Error("x").stack' },
  { name: 'rejecting with a looping object', body: 'return Promise.reject({ get message() { for (;;) {} } })' },
]

/** These must find nothing: each throws when the host is out of reach, so success would be an answer. */
const escapes: readonly Attack[] = [
  { name: 'process through the constructor chain', body: 'return this.constructor.constructor("return process")().pid' },
  { name: 'process through a parameter', body: 'return parameters.constructor.constructor("return process.env")()' },
  { name: 'process through the context', body: 'return context.constructor.constructor("return process")().version' },
  { name: 'process through settings', body: 'return context.settings.constructor.constructor("return process")().version' },
  { name: 'require', body: 'return require("node:fs").readFileSync("/etc/passwd", "utf8")' },
  { name: 'a dynamic import', body: 'return import("node:fs")' },
  { name: 'a dynamic import of a file', body: 'return import("/etc/passwd")' },
  { name: 'the engine\'s own modules', body: 'return import("std")' },
  { name: 'fetch', body: 'return fetch("http://127.0.0.1")' },
  { name: 'WebAssembly', body: 'return WebAssembly.Memory.name' },
  { name: 'a worker', body: 'return new Worker("data:,")' },
  { name: 'timers', body: 'return setTimeout(() => {}, 1)' },
  { name: 'console', body: 'return console.log("x")' },
  { name: 'a message port', body: 'return postMessage({ answer: { ok: true, text: "1" } })' },
  { name: 'Deno or Bun', body: 'return Deno.env' },
  { name: 'global of Node', body: 'return global.process' },
  { name: 'the async function constructor', body: 'return (async () => {}).constructor("return process.pid")()' },
  { name: 'a stack frame\'s this', body: 'return (function () { return this.process.pid })()' },
  { name: 'arguments.callee.caller', body: 'return (function f() { return f.caller.caller.arguments[0].process.pid })()' },
  { name: 'an array species of the host', body: 'class A extends Array { static get [Symbol.species]() { return process.Array } } return new A(3).map(x => x)' },
]

/** They poison the built-ins for themselves and then misbehave. */
const poison: readonly Attack[] = [
  { name: 'a poisoned JSON', body: 'JSON.stringify = () => "{"; JSON.parse = () => { throw 1 }; throw new Error("poisoned")' },
  { name: 'a poisoned Promise.then', body: 'Promise.prototype.then = function () { for (;;) {} }; return Promise.reject(new Error("poisoned"))' },
  { name: 'a poisoned Object.prototype', body: 'Object.defineProperty(Object.prototype, "toJSON", { get() { for (;;) {} } }); return { a: 1 }' },
  { name: 'a poisoned Array.prototype', body: 'Object.defineProperty(Array.prototype, 0, { set() { for (;;) {} } }); return [].concat([1].map(x => x), (() => { for (;;) {} })())' },
  { name: 'poisoned Function.prototype.call and apply', body: 'Function.prototype.apply = Function.prototype.call = () => { for (;;) {} }; throw new Error("poisoned")' },
  { name: 'a poisoned Symbol.hasInstance', body: 'Object.defineProperty(Promise, Symbol.hasInstance, { value: () => { for (;;) {} } }); return { then: 1, get x() { for (;;) {} } }' },
  { name: 'a frozen global', body: 'Object.freeze(globalThis); Object.freeze(Object.prototype); throw new Error("frozen")' },
]

export const ATTACKS: readonly Attack[] = [...loops, ...memory, ...recursion, ...answers, ...errors, ...escapes, ...poison]
