/** Runs rules in VMs, one request at a time, inside a thread that the pool may terminate at any moment. */
import { parentPort, workerData } from 'node:worker_threads'
import { Guest, type GuestAnswer, type RunningGuest } from './guest.ts'
import type { ThreadData, ThreadMessage, ThreadRequest } from './messages.ts'
import { WASM_SOURCE, WasmGuest } from './wasm-guest.ts'

const { engine, limits }: ThreadData = workerData
const guests = new Map<number, RunningGuest>()
const done: GuestAnswer = { ok: true, text: '', fuel: 0 }

async function serve(request: ThreadRequest): Promise<{ readonly answer: GuestAnswer; readonly missing: boolean; readonly state?: Uint8Array }> {
  const { rule } = request
  const guest = guests.get(rule)
  if (request.kind === 'call') {
    if (guest === undefined) return { answer: { ok: false, error: 'invalid', message: 'the rule is not open' }, missing: true }
    const answer = guest.call(request.method, request.args, request.fresh)
    if (guest.broken) drop(rule)
    return { answer, missing: false }
  }
  if (request.kind === 'save') {
    const saved = guest?.save()
    if (saved === undefined) return { answer: { ok: false, error: 'invalid', message: 'the rule is not open' }, missing: true }
    return saved.ok ? { answer: done, missing: false, state: saved.state } : { answer: saved, missing: false }
  }
  drop(rule)
  if (request.kind !== 'open') return { answer: done, missing: false }
  const opened = request.source.startsWith(WASM_SOURCE) ? WasmGuest.open(request.source, request, limits) : await Guest.open(engine, request.source, request, limits)
  if (opened.ok) guests.set(rule, opened.guest)
  return { answer: opened.ok ? done : opened, missing: false }
}

function drop(rule: number): void {
  guests.get(rule)?.close()
  guests.delete(rule)
}

function say(message: ThreadMessage): void {
  parentPort?.postMessage(message)
}

function computedMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1_000
}

parentPort?.on('message', async (request: ThreadRequest) => {
  const { answer, missing, state } = await serve(request)
  const guest = guests.get(request.rule)
  say({ kind: 'answer', answer, missing, state, live: guest !== undefined, bytes: guest?.bytes ?? 0, computedMs: computedMs() })
})

say({ kind: 'ready', computedMs: computedMs() })
