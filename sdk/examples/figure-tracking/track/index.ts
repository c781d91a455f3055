import { defineBlock, list, number, record, type Json } from 'aios-mesh/sdk'
import { assign, type Track } from './assign.ts'

/** Gives figures numbers that stay with them from frame to frame. A session is one camera; its frames come one after the other. */
export default defineBlock({
  data(entry, context) {
    const { frame, image, detections } = record(entry.data)
    const boxes = list(detections ?? [], 'detections').map(given => {
      const { x, y, w, h, score } = record(given)
      return { x: number(x, 'x'), y: number(y, 'y'), w: number(w, 'w'), h: number(h, 'h'), score: number(score ?? 1, 'score') }
    })
    const session = context.sessions.data(entry.sessionId)
    const before = (session['tracks'] ?? { tracks: [], next: 1 }) as { readonly tracks: readonly Track[]; readonly next: number }
    const after = assign(before.tracks, boxes, before.next)
    session['tracks'] = after
    const seen: Json = after.tracks.filter(({ missed }) => missed === 0).map(({ id, age, x, y, w, h, score }) => ({ id, age, x, y, w, h, score }))
    return { frame: frame ?? null, image: image ?? null, tracks: seen }
  },
})
