import { defineBlock, list, number, record, tensor, values, type Json } from 'aios-mesh/sdk'
import { crop, CROP } from './crop.ts'

const NAMES = ['head', 'left_hand', 'right_hand', 'foot'] as const

/** Where the head, hands and foot of each tracked figure are, in pixels of the frame. */
export default defineBlock({
  load: context => context.model('model.onnx'),
  async data(entry, context) {
    const { frame, image, tracks } = record(entry.data)
    const rows = list(image ?? [], 'image')
    const pixels = rows.flatMap(row => list(row, 'image row').map(value => number(value, 'pixel')))
    const figures: Json[] = []
    for (const given of list(tracks ?? [], 'tracks')) {
      const track = record(given)
      const [x, y, w, h] = [track['x'], track['y'], track['w'], track['h']].map(value => number(value ?? null, 'track'))
      const view = crop(pixels, pixels.length / rows.length, { x: x ?? 0, y: y ?? 0, w: w ?? 0, h: h ?? 0 })
      const { keypoints } = await context.state.run({ image: tensor('float32', [1, 1, CROP, CROP], [...view.pixels]) }, context.signal)
      if (keypoints === undefined) throw new TypeError('the model gives no keypoints')
      const at = values(keypoints).map(Number)
      figures.push({ id: track['id'] ?? null, box: { x: x ?? 0, y: y ?? 0, w: w ?? 0, h: h ?? 0 }, keypoints: Object.fromEntries(NAMES.map((name, index) => [name, [view.left + (at[2 * index] ?? 0) * view.side, view.top + (at[2 * index + 1] ?? 0) * view.side]])) })
    }
    return { frame: frame ?? null, figures }
  },
})
