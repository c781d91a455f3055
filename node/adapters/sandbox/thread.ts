/** Runs rules in VMs, one request at a time, inside a thread that the pool may terminate at any moment. */
import { parentPort, workerData } from 'node:worker_threads'
import { Guest, type GuestAnswer } from './guest.ts'
import type { ThreadData, ThreadReply, ThreadRequest } from './messages.ts'

const { engine, limits }: ThreadData = workerData
const guests = new Map<number, Guest>()

async function serve(request: ThreadRequest): Promise<GuestAnswer> {
  if (request.kind === 'open') {
    drop(request.rule)
    const opened = await Guest.open(engine, request.source, request, limits)
    if (!opened.ok) return opened
    guests.set(request.rule, opened.guest)
    return { ok: true, text: '', fuel: 0 }
  }
  if (request.kind === 'close') {
    drop(request.rule)
    return { ok: true, text: '', fuel: 0 }
  }
  const guest = guests.get(request.rule)
  if (guest === undefined) return { ok: false, error: 'invalid', message: 'the rule is not open' }
  const answer = guest.call(request.method, request.args, request.fresh)
  if (guest.broken) drop(request.rule)
  return answer
}

function drop(rule: number): void {
  guests.get(rule)?.close()
  guests.delete(rule)
}

parentPort?.on('message', async (request: ThreadRequest) => {
  const answer = await serve(request)
  const guest = guests.get(request.rule)
  const reply: ThreadReply = { answer, live: guest !== undefined, bytes: guest?.bytes ?? 0 }
  parentPort?.postMessage(reply)
})
