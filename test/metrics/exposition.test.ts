import assert from 'node:assert/strict'
import { ManualClock, Metrics } from '../../sdk/index.ts'
import { toJson } from '../../src/lib/json.ts'
import { exposition } from '../../src/metrics/exposition.ts'

describe("Prometheus's text of instances and their node", () => {
  it('has the author\'s metrics with block, instance and peer as labels, and quantiles of windows', () => {
    const metrics = new Metrics(new ManualClock())
    metrics.counter('images', { camera: 'left "one"' }).increment(3)
    metrics.histogram('seconds', {}, [1, 2]).observe(1.5)
    metrics.rolling('score').observe(10)
    metrics.observe_custom_rolling('quality', 'blur', 4)
    const text = exposition('peer-a', { vcpu: { load1m: 0.5 }, gpus: [{ gpu_id: 'g0', temperature: 40 }] }, [{ block: 'b', instance: 'in-1', metrics: { queue_length: 2 }, reported: toJson(metrics.snapshot()) }])
    const own = 'block="b",instance="in-1",peer="peer-a"'
    for (const line of [
      'aios_node_vcpu_load1m{peer="peer-a"} 0.5', 'aios_node_gpu_temperature{peer="peer-a",gpu="g0"} 40', `aios_instance_queue_length{${own}} 2`,
      `aios_instance_images{camera="left \\"one\\"",${own}} 3`, '# TYPE aios_instance_seconds histogram', `aios_instance_seconds_bucket{${own},le="1"} 0`, `aios_instance_seconds_bucket{${own},le="+Inf"} 1`,
      `aios_instance_score_average{${own},window="5m"} 10`, `aios_instance_blur_quantile{${own},category="quality",window="1m",quantile="0.95"} 4`,
    ]) assert.ok(text.split('\n').includes(line), `${line} in\n${text}`)
    assert.ok(text.split('\n').filter(line => line !== '').every(line => /^(?:# TYPE [a-zA-Z_:][\w:]* (?:counter|gauge|histogram)|[a-zA-Z_:][\w:]*\{[^\n]*\} -?[\d.e+-]+)$/.test(line)))
  })

  it('has no more series than its bound, and tells how many it left out', () => {
    const metrics = new Metrics(new ManualClock())
    for (let name = 0; name < 200; name += 1) for (let label = 0; label < 100; label += 1) metrics.gauge(`gauge_${name}`, { label: `${label}` }).set(1)
    const text = exposition('p', {}, [{ block: 'b', instance: 'in-1', metrics: {}, reported: toJson(metrics.snapshot()) }])
    assert.ok(text.split('\n').length < 10_500)
    assert.ok(text.includes('aios_instance_series_left_out{peer="p"} 10000'))
  })
})
