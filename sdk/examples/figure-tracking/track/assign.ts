export type Seen = { readonly x: number; readonly y: number; readonly w: number; readonly h: number; readonly score: number }
export type Track = Seen & { readonly id: number; /** Frames seen so far. */ readonly age: number; /** Frames in a row without it. */ readonly missed: number }

/** Boxes of one figure in two frames overlap at least so much (intersection over union). */
const LEAST_OVERLAP = 0.2
/** A figure that is hidden for longer is a new one. */
const PATIENCE = 3

/** Pairs boxes with tracks, the greatest overlap first; what is left begins a track, what nobody saw waits a few frames. */
export function assign(tracks: readonly Track[], boxes: readonly Seen[], next: number): { readonly tracks: readonly Track[]; readonly next: number } {
  const pairs = tracks.flatMap(track => boxes.map(box => ({ track, box, shared: overlap(track, box) }))).filter(({ shared }) => shared >= LEAST_OVERLAP).sort((a, b) => b.shared - a.shared)
  const matched = new Map<Track, Seen>()
  const taken = new Set<Seen>()
  for (const { track, box } of pairs) {
    if (matched.has(track) || taken.has(box)) continue
    matched.set(track, box)
    taken.add(box)
  }
  const kept = tracks.flatMap(track => {
    const box = matched.get(track)
    if (box !== undefined) return [{ ...box, id: track.id, age: track.age + 1, missed: 0 }]
    return track.missed < PATIENCE ? [{ ...track, missed: track.missed + 1 }] : []
  })
  const fresh = boxes.filter(box => !taken.has(box)).map((box, at) => ({ ...box, id: next + at, age: 1, missed: 0 }))
  return { tracks: [...kept, ...fresh], next: next + fresh.length }
}

function overlap(a: Seen, b: Seen): number {
  const side = (p: number, size: number, q: number, other: number): number => Math.max(0, Math.min(p + size / 2, q + other / 2) - Math.max(p - size / 2, q - other / 2))
  const shared = side(a.x, a.w, b.x, b.w) * side(a.y, a.h, b.y, b.h)
  const all = a.w * a.h + b.w * b.h - shared
  return all <= 0 ? 0 : shared / all
}
