import { defineSplitter, list, number, record, type Json, type SplitterTask } from 'aios-mesh/sdk'

/** Cuts a model in two: the first part gets the share of the layers that the task names, for hosts of which one is faster. */
export default defineSplitter(class {
  readonly #task: SplitterTask

  constructor(task: SplitterTask) {
    this.#task = task
  }

  begin(): [boolean, Json] {
    const share = number(this.#task.task_data['share'] ?? 0.5, 'share')
    if (!(share > 0 && share < 1)) return [false, `share is between 0 and 1, not ${share}`]
    const layers = list(record(this.#task.model)['layers'] ?? [], 'layers').length
    return layers < 2 ? [false, `a model of ${layers} layers cannot be cut in two`] : [true, { layers, share }]
  }

  main(extra: Json): [boolean, Json] {
    const { layers, share } = record(extra)
    const all = number(layers, 'layers')
    const cut = Math.max(1, Math.min(all - 1, Math.round(all * number(share, 'share'))))
    return [true, { ranges: [[0, cut], [cut, all]] }]
  }

  finish(extra: Json): [boolean, Json] {
    return [true, { cut: extra, say: 'create both blocks, or let `aios model serve` place the model by itself' }]
  }
})
