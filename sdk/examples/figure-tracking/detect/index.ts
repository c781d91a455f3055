import { defineBlock, list, number, record, tensor, values, type Json } from 'aios-mesh/sdk'
import { boxes } from './boxes.ts'

const SIDE = 32

/** Finds figures in a frame with the model beside it. */
export default defineBlock({
  load: context => context.model('model.onnx'),
  async data(entry, context) {
    const { image, frame } = record(entry.data)
    const pixels = list(image ?? [], 'image').flatMap(row => list(row, 'image row').map(value => number(value, 'pixel')))
    if (pixels.length !== SIDE * SIDE) throw new TypeError(`image: give ${SIDE} rows of ${SIDE} numbers from 0 to 255`)
    const { grid } = await context.state.run({ image: tensor('float32', [1, 1, SIDE, SIDE], pixels.map(value => value / 255)) }, context.signal)
    if (grid === undefined) throw new TypeError('the model gives no grid')
    const least = context.parameters['least_score']
    const detections: Json = boxes(values(grid).map(Number), SIDE, typeof least === 'number' ? least : undefined).map(box => ({ ...box }))
    return { frame: frame ?? null, image: image ?? null, detections }
  },
})
